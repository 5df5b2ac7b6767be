"""A tool call in Qwen3-Coder's format, read as it arrives:

<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .markup import CALL_CLOSE, FUNCTION_OPEN, WHITESPACE, skip_space
from .tool_json import Status
from .tool_schema import encode_value, escape, types_of

FUNCTION_CLOSE = "</function>"
PARAMETER_OPEN, PARAMETER_CLOSE = "<parameter=", "</parameter>"

_BODY_TAGS = (PARAMETER_OPEN, FUNCTION_CLOSE, CALL_CLOSE)
_VALUE_ENDS = (PARAMETER_CLOSE, PARAMETER_OPEN, FUNCTION_CLOSE, CALL_CLOSE)


class XmlCall:
    """One call; the attributes are those of ``tool_json.JsonCall``.

    The newline after ``<parameter=KEY>`` and the one before ``</parameter>`` are markup. A value ends at
    ``</parameter>``, or, where that is missing, at the tag that follows: on a line of its own if the value began on
    one, anywhere otherwise. String values are passed on as they arrive; the others, typed by the schema, at their end.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        self.status: Status = "open"
        self.name = ""
        self.accepted = False
        self.complete = False
        self.arguments: list[str] = []
        self._schemas = schemas
        self._read: Callable[[str, int], int] = self._read_start
        self._held = ""  # the beginning of a tag, or a newline in front of one: read, but not understood yet
        self._text: list[str] = []  # a name, a key or a value as far as it has come
        self._first = True  # no parameter so far
        self._types: frozenset[str] = frozenset()
        self._lines = False  # the value began on a line of its own
        self._blank = False  # there is only whitespace on the value's line so far

    def feed(self, text: str) -> int:
        """Reads on; the number of characters that belong to the call."""
        held = len(self._held)
        text = self._held + text
        self._held = ""
        at = 0
        while at < len(text) and self.status == "open":
            at = self._read(text, at)
        return max(0, at - held)

    def _read_start(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        assert text.startswith(FUNCTION_OPEN, at), "whoever starts a call has seen its first tag"
        self._read = self._read_name
        return at + len(FUNCTION_OPEN)

    def _hold(self, text: str, at: int) -> int:
        self._held = text[at:]
        return len(text)

    def _read_to_bracket(self, text: str, at: int) -> tuple[str | None, int]:
        """A name up to its ``>``; ``None`` while that has not come."""
        end = text.find(">", at)
        self._text.append(text[at : end if end >= 0 else len(text)])
        if end < 0:
            return None, len(text)
        name = "".join(self._text).strip()
        self._text = []
        return name, end + 1

    def _read_name(self, text: str, at: int) -> int:
        name, end = self._read_to_bracket(text, at)
        if name is None:
            if "\n" in text[at:end] or "<" in text[at:end]:
                self.status = "rejected"
        elif not name or "\n" in name or "<" in name:
            self.status = "rejected"
        else:
            self.name = name
            self.accepted = True
            self._read = self._read_body
        return end

    def _read_body(self, text: str, at: int) -> int:
        """Between parameters: what is no tag is skipped."""
        at = text.find("<", at)
        if at < 0:
            return len(text)
        if text.startswith(PARAMETER_OPEN, at):
            self._read = self._read_key
            return at + len(PARAMETER_OPEN)
        if text.startswith(FUNCTION_CLOSE, at):
            self._end("done")
            return at + len(FUNCTION_CLOSE)
        if text.startswith(CALL_CLOSE, at):
            self._end("closed")
            return at + len(CALL_CLOSE)
        if _may_become(text, at, _BODY_TAGS):
            return self._hold(text, at)
        return at + 1

    def _end(self, status: Status) -> None:
        self.status = status
        self.complete = True
        self.arguments.append("{}" if self._first else "}")

    def _read_key(self, text: str, at: int) -> int:
        key, end = self._read_to_bracket(text, at)
        if key is not None:
            self._types = types_of(self._schemas.get(self.name, {}), key)
            self.arguments.append(f'{"{" if self._first else ", "}"{escape(key)}": ')
            if self._streams:
                self.arguments.append('"')
            self._first = False
            self._read = self._begin_value
        return end

    @property
    def _streams(self) -> bool:
        return len(self._types) == 1 and "string" in self._types

    def _begin_value(self, text: str, at: int) -> int:
        self._lines = self._blank = text[at] == "\n"
        self._read = self._read_value
        return at + self._lines

    def _read_value(self, text: str, at: int) -> int:
        tag = text.find("<", at)
        if tag < 0:
            end = len(text) - text.endswith("\n")  # a newline at the end may be the one in front of the closing tag
            self._add(text[at:end])
            return self._hold(text, end)
        newline = tag > at and text[tag - 1] == "\n"
        end = tag - newline
        self._add(text[at:end])
        alone = newline or self._blank or not self._lines
        ends = _VALUE_ENDS if alone else _VALUE_ENDS[:1]
        if text.startswith(ends, tag):
            return self._end_value(tag + len(PARAMETER_CLOSE) * text.startswith(PARAMETER_CLOSE, tag))
        if _may_become(text, tag, ends):
            return self._hold(text, end)
        self._add(text[end : tag + 1])
        return tag + 1

    def _end_value(self, at: int) -> int:
        if self._streams:
            self.arguments.append('"')
        else:
            self.arguments.append(encode_value("".join(self._text), self._types))
            self._text = []
        self._read = self._read_body
        return at

    def _add(self, text: str) -> None:
        if not text:
            return
        _, newline, line = text.rpartition("\n")
        self._blank = (bool(newline) or self._blank) and not line.strip(WHITESPACE)
        if self._streams:
            self.arguments.append(escape(text))
        else:
            self._text.append(text)


def _may_become(text: str, at: int, tags: tuple[str, ...]) -> bool:
    """Whether ``text`` ends, from ``at`` on, in the beginning of a tag."""
    rest = text[at : at + 16]
    return at + len(rest) == len(text) and any(len(rest) < len(tag) and tag.startswith(rest) for tag in tags)
