"""Finding tool calls in an answer, as it arrives: Qwen3's JSON format and the XML format of Qwen3-Coder.

The rules:

- A ``<tool_call>`` opens a call when ``{`` or ``<function=`` is the first thing after it; otherwise it is text. What
  turns out not to be a call (no name, arguments that are no object) is text as well, with its tags.
- A call is announced (id and name) once its name and the kind of its arguments are known; pieces of the arguments
  follow as they arrive. Missing arguments are ``{}``. A call of a function that was not offered is a call: what to do
  about it is for the client to decide.
- A call counts once its arguments are complete, closing tag or not. Of one that never gets there nothing is shown as
  text; its deltas, if any, have gone out, and ``collect`` drops them: they do not add up to a JSON object.
- Whitespace after a call is markup; whitespace before one is held back until it is known what follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from ..types import ToolCallDelta
from .markup import CALL_CLOSE, CALL_OPEN, FUNCTION_OPEN, Span, TagScanner, skip_space
from .tool_json import JsonCall
from .tool_schema import parameter_schemas
from .tool_xml import XmlCall


def new_call_id() -> str:
    return f"call_{os.urandom(12).hex()}"


_LEFTOVER = re.compile(r"[ \t\r\n}]*")  # behind a payload; a brace too many is a common slip


class State(Enum):
    TEXT = "text"
    CALL = "call"  # in a call's payload
    BEHIND = "behind"  # in the block, behind a payload
    BROKEN = "broken"  # in the block, behind nonsense: everything up to the closing tag is dropped
    GAP = "gap"  # behind the block: only whitespace so far


_AFTER = {"done": State.BEHIND, "closed": State.GAP, "broken": State.BROKEN}


class ToolParser:
    """Splits an answer into text and tool calls, in their order.

    ``calls`` is the number of calls that count so far.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], new_id: Callable[[], str] = new_call_id) -> None:
        self._schemas = parameter_schemas(tools)
        self._new_id = new_id
        self._state = State.TEXT
        self._scanner = TagScanner(thinking=False)
        self.at = 0  # where the first character that is not decided yet stands
        self._held = ""  # the beginning of a tag behind a payload
        self._payload: JsonCall | XmlCall = JsonCall()
        self._raw: list[str] = []  # the text of what may turn out to be no call
        self._raw_at = 0
        self._index = -1  # of the last call that was announced
        self._finished = 0

    @property
    def calls(self) -> int:
        return self._finished + (self._state is State.CALL and self._counts)

    @property
    def finished(self) -> int:
        """The number of calls whose payload is over."""
        return self._finished

    @property
    def clear(self) -> bool:
        """Whether text without markup is text, none of which is held."""
        return self._state is State.TEXT and not self._scanner.held and self._scanner.gap is None

    @property
    def in_call(self) -> bool:
        """Whether the answer, as it stands, ends inside a call's markup."""
        return self._state in (State.CALL, State.BEHIND, State.BROKEN) or self._scanner.undecided

    @property
    def _counts(self) -> bool:
        return self._payload.accepted and self._payload.complete

    def start(self, at: int) -> None:
        """Says where in the generated text the answer starts."""
        self.at = at

    def feed(self, text: str) -> Iterator[Span | ToolCallDelta]:
        """What is certain after ``text``. Whoever drops the iterator before its end (at a stop string) is done."""
        out: list[Span | ToolCallDelta] = []
        while text:
            match self._state:
                case State.TEXT:
                    text = self._read_text(text, out)
                case State.CALL:
                    text = self._read_call(text, out)
                case State.BEHIND:
                    text = self._read_behind(text)
                case State.BROKEN:
                    text = self._read_broken(text)
                case State.GAP:
                    text = self._skip(text, skip_space(text, 0))
                    if text:
                        self._state = State.TEXT
            yield from out
            out.clear()

    def finish(self) -> Span | None:
        """The text that is held, when nothing more comes."""
        if self._state is not State.TEXT or self._scanner.undecided:
            return None
        held = self._scanner.finish()
        return (self.at, held) if held else None

    def _skip(self, text: str, size: int) -> str:
        self.at += size
        return text[size:]

    def _read_text(self, text: str, out: list[Span | ToolCallDelta]) -> str:
        body, mark, rest = self._scanner.feed(text)
        if body:
            out.append((self.at, body))
            self.at += len(body)
        if mark is None:
            return ""
        self._scanner = TagScanner(thinking=False)
        self._begin(CALL_OPEN, rest)
        return rest

    def _begin(self, tag: str, payload: str) -> None:
        self._raw = [tag]
        self._raw_at = self.at
        self.at += len(tag)
        is_xml = payload.startswith(FUNCTION_OPEN, skip_space(payload, 0))
        self._payload = XmlCall(self._schemas) if is_xml else JsonCall()
        self._state = State.CALL

    def _read_call(self, text: str, out: list[Span | ToolCallDelta]) -> str:
        call = self._payload
        announced = call.accepted
        size = call.feed(text)
        if call.accepted:
            if not announced:
                self._index += 1
                self._raw = []
                out.append(ToolCallDelta(self._index, self._new_id(), call.name))
            if call.arguments:
                out.append(ToolCallDelta(self._index, arguments="".join(call.arguments)))
                call.arguments.clear()
        else:
            self._raw.append(text[:size])
        match call.status:
            case "rejected":
                out.append((self._raw_at, "".join(self._raw)))
                self._state = State.TEXT
            case "done" | "closed" | "broken":
                self._finished += self._counts
                self._state = _AFTER[call.status]
        return self._skip(text, size)

    def _read_behind(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        match = _LEFTOVER.match(text)
        assert match is not None
        text = self._skip(text, match.end())
        if text.startswith(CALL_CLOSE):
            self._state = State.GAP
            return self._skip(text, len(CALL_CLOSE))
        if text.startswith(("{", FUNCTION_OPEN)):  # a second call in the same block
            self._begin("", text)
            return text
        if CALL_CLOSE.startswith(text) or FUNCTION_OPEN.startswith(text):
            self._held = text
            return ""
        self._state = State.TEXT
        return text

    def _read_broken(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        close, another = text.find(CALL_CLOSE), text.find(CALL_OPEN)
        if close >= 0 and not 0 <= another < close:
            self._state = State.GAP
            return self._skip(text, close + len(CALL_CLOSE))
        if another >= 0:
            self._state = State.TEXT
            return self._skip(text, another)
        tail = text.rfind("<")
        if tail >= 0 and (CALL_CLOSE.startswith(text[tail:]) or CALL_OPEN.startswith(text[tail:])):
            self._held = self._skip(text, tail)
        else:
            self.at += len(text)
        return ""
