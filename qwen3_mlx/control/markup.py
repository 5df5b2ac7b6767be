"""Finding tags in text that arrives in pieces: what both the thinking and the tool parser are built on.

Everything here is linear in the text, whatever the pieces: each character is looked at once, and at most the beginning
of one tag is looked at again.
"""

from __future__ import annotations

import re
from typing import Literal

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
FUNCTION_OPEN = "<function="

WHITESPACE = " \t\r\n"

Mark = Literal["close", "call"]
Span = tuple[int, str]  # where a text starts in the generated text, in characters, and the text

_SPACES = re.compile(r"[ \t\r\n]*")


def skip_space(text: str, at: int) -> int:
    """The index of the first character from ``at`` on that is not whitespace (``len(text)`` if there is none)."""
    match = _SPACES.match(text, at)
    assert match is not None
    return match.end()


class TagScanner:
    """Splits text at ``</think>`` (if ``thinking``) and at the ``<tool_call>`` that opens a call.

    A ``<tool_call>`` opens a call when the first thing after it, whitespace aside, is ``{`` or ``<function=``.
    Otherwise it is a mention of the tag, and text like any other. Whether it is spelled by the control token or by
    ordinary ones makes no difference: what the model writes is trusted.

    ``held``: the beginning of a tag; ``gap``: the whitespace after a whole ``<tool_call>``, if there is one.
    """

    __slots__ = ("_tags", "gap", "held")

    def __init__(self, thinking: bool) -> None:
        self._tags: tuple[tuple[str, Mark], ...] = ((CALL_OPEN, "call"),)
        if thinking:
            self._tags = ((THINK_CLOSE, "close"), *self._tags)
        self.held = ""
        self.gap: list[str] | None = None

    @property
    def undecided(self) -> bool:
        """Whether a whole ``<tool_call>`` is held that may yet open a call."""
        return self.gap is not None

    def feed(self, text: str) -> tuple[str, Mark | None, str]:
        """The text that is certain, the mark that ends it if there is one, and what stands behind that mark.

        After a mark the scanner is done: feed what follows to a fresh one.
        """
        if not self.held and self.gap is None and "<" not in text:
            return text, None, ""
        text = self.held + text
        self.held = ""
        out: list[str] = []
        at = 0
        while True:
            if self.gap is not None:
                end = skip_space(text, at)
                self.gap.append(text[at:end])
                next_ = text[end : end + len(FUNCTION_OPEN)]
                if next_ != FUNCTION_OPEN and FUNCTION_OPEN.startswith(next_):
                    self.held = next_
                    return "".join(out), None, ""
                gap = "".join(self.gap)
                self.gap = None
                if next_[0] == "{" or next_ == FUNCTION_OPEN:
                    return "".join(out), "call", gap + text[end:]
                out.append(CALL_OPEN + gap)
                at = end
            start = text.find("<", at)
            if start < 0:
                out.append(text[at:])
                return "".join(out), None, ""
            out.append(text[at:start])
            at = start
            for tag, mark in self._tags:
                if text.startswith(tag, at):
                    at += len(tag)
                    if mark == "close":
                        return "".join(out), mark, text[at:]
                    self.gap = []
                    break
                if len(text) - at < len(tag) and tag.startswith(text[at:]):
                    self.held = text[at:]
                    return "".join(out), None, ""
            else:
                out.append("<")
                at += 1

    def finish(self) -> str:
        """What is held, as text."""
        tag = "" if self.gap is None else CALL_OPEN + "".join(self.gap)
        held = tag + self.held
        self.held, self.gap = "", None
        return held


class Trimmer:
    """Holds back whitespace at the end of a text, which is dropped if a tag follows. ``held``: that."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: list[Span] = []

    def feed(self, start: int, text: str) -> list[Span]:
        """What can be shown: held whitespace and ``text``, less the whitespace it ends in."""
        body = text.rstrip(WHITESPACE)
        size = len(body)
        if size == len(text) and not self.held:
            return [(start, text)]
        if not size:
            self.held.append((start, text))
            return []
        shown = [*self.held, (start, body)]
        self.held = [(start + size, text[size:])] if size < len(text) else []
        return shown

    def drop(self) -> None:
        self.held = []

    def finish(self) -> list[Span]:
        held, self.held = self.held, []
        return held
