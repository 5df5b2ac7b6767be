"""Splits Metal source into tokens that join back into the same text."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<directive>(?m:^[ \t]*\#(?:[^\n\\]|\\.|\\\n)*))
  | (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<number>\.?[0-9](?:[eEpP][+-]|[\w.'])*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<mark>::|->|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BARE_FLOAT = re.compile(r"^(?!0[xX])(?:[0-9']+\.[0-9']*|\.[0-9']+|[0-9']+(?=[eE]))(?:[eE][+-]?[0-9]+)?$")
_SUFFIXED_FLOAT = re.compile(r"^(?!0[xX])((?:[0-9']+\.?[0-9']*|\.[0-9']+)(?:[eE][+-]?[0-9]+)?)(bf|BF|h|H)$")

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = {close: open_ for open_, close in _OPENING.items()}


def is_bare_float(text: str) -> bool:
    """Whether a number is a floating literal without a suffix, hence a double in C++."""
    return bool(_BARE_FLOAT.match(text))


def suffixed_float(text: str) -> tuple[str, str] | None:
    """Digits and suffix of a half or bfloat literal."""
    found = _SUFFIXED_FLOAT.match(text)
    return (found[1], found[2].lower()) if found else None


class Tokens:
    """A mutable list of tokens; an index means a token that is not white space."""

    def __init__(self, source: str) -> None:
        self.text: list[str] = []
        self.kind: list[str] = []
        for match in _TOKEN.finditer(source):
            self.text.append(match[0])
            self.kind.append(str(match.lastgroup))

    def __len__(self) -> int:
        return len(self.text)

    def join(self) -> str:
        return "".join(self.text)

    def real(self, at: int) -> bool:
        return self.kind[at] not in ("space", "directive", "gone")

    def after(self, at: int) -> int:
        """The next token, or len(self)."""
        at += 1
        while at < len(self) and not self.real(at):
            at += 1
        return at

    def before(self, at: int) -> int:
        """The token before, or -1."""
        at -= 1
        while at >= 0 and not self.real(at):
            at -= 1
        return at

    def get(self, at: int) -> str:
        return self.text[at] if 0 <= at < len(self) else ""

    def indices(self) -> Iterator[int]:
        return (i for i in range(len(self)) if self.real(i))

    def slice(self, start: int, end: int) -> str:
        return "".join(self.text[start:end]).strip()

    def erase(self, start: int, end: int) -> None:
        """Takes tokens out and keeps their line ends, so that line numbers stay."""
        for i in range(start, end):
            if self.kind[i] == "directive":
                continue
            self.text[i] = "\n" * self.text[i].count("\n") if self.kind[i] == "space" else ""
            if self.kind[i] != "space":
                self.kind[i] = "gone"

    def closing(self, at: int) -> int:
        """The bracket that closes the one at `at`."""
        depth = 0
        for i in range(at, len(self)):
            if self.kind[i] != "mark":
                continue
            if self.text[i] in _OPENING:
                depth += 1
            elif self.text[i] in _CLOSING:
                depth -= 1
                if depth == 0:
                    return i
        return len(self) - 1

    def opening(self, at: int) -> int:
        """The bracket that the one at `at` closes."""
        depth = 0
        for i in range(at, -1, -1):
            if self.kind[i] != "mark":
                continue
            if self.text[i] in _CLOSING:
                depth += 1
            elif self.text[i] in _OPENING:
                depth -= 1
                if depth == 0:
                    return i
        return 0

    def closing_angle(self, at: int) -> int:
        """The `>` that closes the template arguments opened at `at`, or -1."""
        depth = 0
        i = at
        while i < len(self):
            text = self.text[i] if self.kind[i] == "mark" else ""
            if text in _OPENING:
                i = self.closing(i)
            elif text == "<":
                depth += 1
            elif text == ">":
                depth -= 1
                if depth == 0:
                    return i
            elif text in (";", ")", "}", "]"):
                return -1
            i += 1
        return -1

    def surrounding(self) -> list[str]:
        """For every token the innermost bracket it stands in, "" at the outermost level."""
        stack: list[str] = []
        result = []
        for i in range(len(self)):
            if self.kind[i] == "mark" and self.text[i] in _CLOSING and stack:
                stack.pop()
            result.append(stack[-1] if stack else "")
            if self.kind[i] == "mark" and self.text[i] in _OPENING:
                stack.append(self.text[i])
        return result
