"""A tool call in Qwen3's own format, ``{"name": ..., "arguments": {...}}``, read as it arrives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal, NoReturn

from .markup import WHITESPACE, skip_space

# A call's payload goes on, is over, was none, goes on with nonsense, or is over together with its <tool_call> block.
Status = Literal["open", "done", "rejected", "broken", "closed"]

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')  # what stands in a JSON string for itself
_STRUCTURE = re.compile(r'["{}\[\]<]')
_SCALAR_END = re.compile(r"[,}<\s]")
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CLOSER = {"{": "}", "[": "]"}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


# Only validity matters: numbers are not converted (Python refuses very long ones), NaN and Infinity are no JSON.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse)


def is_json(text: str) -> bool:
    """Whether ``text`` is one JSON value and nothing else."""
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def is_json_object(text: str) -> bool:
    """Whether ``text`` is one whole JSON object: what a call's arguments have to be."""
    return text.lstrip(WHITESPACE).startswith("{") and is_json(text)


class StringReader:
    """Reads a JSON string from behind its opening quote.

    It knows each piece both as JSON (``raw``, with faults that models make mended: control characters and backslashes
    that are not escaped) and as what it means (``value``; a surrogate without its partner is U+FFFD).
    """

    __slots__ = ("_escape", "_high", "done", "raw", "value")

    def __init__(self) -> None:
        self.done = False
        self.raw: list[str] = []
        self.value: list[str] = []
        self._escape = ""  # the beginning of an escape
        self._high = 0  # a high surrogate that waits for its partner

    def feed(self, text: str, at: int) -> int:
        """Reads from ``at`` on; the index behind what was read."""
        while at < len(text):
            if self._escape:
                at = self._read_escape(text, at)
                continue
            match = _PLAIN.match(text, at)
            if match is not None:
                self._add(match[0], match[0])
                at = match.end()
                continue
            char = text[at]
            at += 1
            if char == '"':
                self._add("", "")
                self.done = True
                return at
            if char == "\\":
                self._escape = char
            else:
                self._add(json.dumps(char)[1:-1], char)
        return at

    def _read_escape(self, text: str, at: int) -> int:
        size = len(self._escape)
        if size == 1:
            char = text[at]
            if char == "u":
                self._escape += char
                return at + 1
            self._escape = ""
            if char in _ESCAPES:
                self._add("\\" + char, _ESCAPES[char])
                return at + 1
            if char == "'":  # as in Python; JSON knows no such escape
                self._add(char, char)
                return at + 1
            self._add("\\\\", "\\")
            return at
        end = at + 6 - size
        digits = text[at:end]
        self._escape += digits
        if len(self._escape) == 6 and _HEX.fullmatch(self._escape, 2):
            code = int(self._escape[2:], 16)
            self._add_unit(self._escape, code)
            self._escape = ""
        elif len(self._escape) == 6 or not all(c in "0123456789abcdefABCDEF" for c in digits):
            # No escape after all: its backslash stands for itself, and what follows is read again.
            valid = len(digits) - len(digits.lstrip("0123456789abcdefABCDEF"))
            literal = self._escape[1 : size + valid]
            self._escape = ""
            self._add("\\\\" + literal, "\\" + literal)
            return at + valid
        return at + len(digits)

    def _add_unit(self, raw: str, code: int) -> None:
        if 0xDC00 <= code < 0xE000 and self._high:
            pair = 0x10000 + ((self._high - 0xD800) << 10) + (code - 0xDC00)
            self._high = 0
            self._add(raw, chr(pair))
        elif 0xD800 <= code < 0xDC00:
            self._add(raw, "")
            self._high = code
        else:
            self._add(raw, "\ufffd" if 0xDC00 <= code < 0xE000 else chr(code))

    def _add(self, raw: str, value: str) -> None:
        if self._high:
            self._high = 0
            value = "\ufffd" + value
        if raw:
            self.raw.append(raw)
        if value:
            self.value.append(value)


class ObjectText:
    """Passes the text of one JSON object (or array) through up to its last bracket.

    Faults in strings are mended (see ``StringReader``). A ``<`` outside of strings can only be the call's closing tag:
    the object ends there, and brackets that are missing are supplied.
    """

    __slots__ = ("_open", "_string", "done")

    def __init__(self) -> None:
        self._open: list[str] = []
        self._string: StringReader | None = None
        self.done = False

    def feed(self, text: str, at: int) -> tuple[str, int]:
        """The object's text from ``at`` on, and the index behind it."""
        out: list[str] = []
        while at < len(text):
            if self._string is not None:
                at = self._string.feed(text, at)
                out += self._string.raw
                self._string.raw.clear()
                self._string.value.clear()
                if self._string.done:
                    out.append('"')
                    self._string = None
                continue
            match = _STRUCTURE.search(text, at)
            if match is None:
                out.append(text[at:])
                return "".join(out), len(text)
            char, end = match[0], match.end()
            if char == "<":
                out.append(text[at : end - 1])
                out += [_CLOSER[c] for c in reversed(self._open)]
                self.done = True
                return "".join(out), end - 1
            out.append(text[at:end])
            at = end
            if char == '"':
                self._string = StringReader()
            elif char in _CLOSER:
                self._open.append(char)
            else:
                if self._open:
                    self._open.pop()
                if not self._open:
                    self.done = True
                    break
        return "".join(out), at


class JsonCall:
    """One call: ``name`` once it is known, ``arguments`` the pieces of JSON text that are ready and not yet taken.

    ``accepted``: this is a call of ``name`` with an object as arguments (or none), as far as one can tell.
    ``complete``: its arguments are all there, and valid. ``status`` is ``rejected`` for what cannot be a call,
    ``broken`` for an accepted one that goes on with nonsense. Arguments given as a string are decoded, once.
    """

    def __init__(self) -> None:
        self.status: Status = "open"
        self.name = ""
        self.accepted = False
        self.complete = False
        self.arguments: list[str] = []
        self._all: list[str] = []  # every piece of the arguments
        self._key = ""
        self._has_arguments = False  # they have begun (if given as a string: with a brace)
        self._read: Callable[[str, int], int] = self._read_start
        self._string = StringReader()
        self._object = ObjectText()

    def feed(self, text: str) -> int:
        """Reads on; the number of characters that belong to the call."""
        at = 0
        while at < len(text) and self.status == "open":
            at = self._read(text, at)
        return at

    def _fail(self, at: int) -> int:
        self.status = "broken" if self.accepted else "rejected"
        return at

    def _read_start(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at < len(text):
            if text[at] != "{":
                return self._fail(at)
            self._read = self._read_key
            at += 1
        return at

    def _read_key(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at == len(text):
            return at
        char = text[at]
        if char == "}":
            return self._end(at)
        if char == '"':
            self._string = StringReader()
            self._read = self._read_key_string
        elif char != ",":
            return self._fail(at)
        return at + 1

    def _end(self, at: int) -> int:
        if not self.name:
            return self._fail(at)
        self.status = "done"
        self.accepted = True
        if not self._has_arguments:
            self.arguments.append("{}")
            self.complete = True
        return at + 1

    def _read_key_string(self, text: str, at: int) -> int:
        at = self._string.feed(text, at)
        if self._string.done:
            self._key = "".join(self._string.value)
            self._read = self._read_colon
        return at

    def _read_colon(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at < len(text):
            if text[at] != ":":
                return self._fail(at)
            self._read = self._read_value
            at += 1
        return at

    def _read_value(self, text: str, at: int) -> int:
        at = skip_space(text, at)
        if at == len(text):
            return at
        char = text[at]
        if self._key == "name" and not self.name:
            if char != '"':
                return self._fail(at)
            return self._begin_string(self._read_name, at)
        if self._key == "arguments" and not self._has_arguments:
            self._object = ObjectText()
            if char == "{":
                self._has_arguments = True
                self._accept()
                self._read = self._read_arguments
                return at
            if char == '"':
                return self._begin_string(self._read_encoded, at)
            if char != "n":  # null is the same as none
                return self._fail(at)
        if char == '"':
            return self._begin_string(self._skip_string, at)
        if char in _CLOSER:
            self._object = ObjectText()
            self._read = self._skip_object
        else:
            self._read = self._skip_scalar
        return at

    def _begin_string(self, read: Callable[[str, int], int], at: int) -> int:
        self._string = StringReader()
        self._read = read
        return at + 1

    def _accept(self) -> None:
        self.accepted = bool(self.name) and self._has_arguments

    def _read_name(self, text: str, at: int) -> int:
        at = self._string.feed(text, at)
        if self._string.done:
            self.name = "".join(self._string.value)
            if not self.name:
                return self._fail(at)
            self._accept()
            self._read = self._read_key
        return at

    def _read_arguments(self, text: str, at: int) -> int:
        piece, at = self._object.feed(text, at)
        self._add(piece)
        if self._object.done:
            self._read = self._read_key
        return at

    def _read_encoded(self, text: str, at: int) -> int:
        at = self._string.feed(text, at)
        value = "".join(self._string.value)
        self._string.value.clear()
        self._string.raw.clear()
        if not self._has_arguments:
            value = value.lstrip(WHITESPACE)
            if value and value[0] != "{":
                return self._fail(at)
            self._has_arguments = bool(value)
            self._accept()
        if value and not self._object.done:
            piece, _ = self._object.feed(value, 0)
            self._add(piece)
        if self._string.done:
            self._read = self._read_key
        return at

    def _add(self, piece: str) -> None:
        if piece:
            self.arguments.append(piece)
            self._all.append(piece)
        if self._object.done:
            self.complete = is_json_object("".join(self._all))

    def _skip_string(self, text: str, at: int) -> int:
        at = self._string.feed(text, at)
        self._string.raw.clear()
        self._string.value.clear()
        if self._string.done:
            self._read = self._read_key
        return at

    def _skip_object(self, text: str, at: int) -> int:
        _, at = self._object.feed(text, at)
        if self._object.done:
            self._read = self._read_key
        return at

    def _skip_scalar(self, text: str, at: int) -> int:
        match = _SCALAR_END.search(text, at)
        if match is None:
            return len(text)
        self._read = self._read_key
        return match.start()
