"""What every pass over the tokens of a Metal source knows of its grammar."""

from __future__ import annotations

from .lexer import Tokens

QUALIFIERS = {"const", "volatile", "static", "constexpr", "inline", "extern"}
SPACES = {"device", "constant", "threadgroup", "thread"}
_BASIC = {"unsigned", "signed", "long", "short", "int", "char", "struct", "typename"}


def attribute_end(tokens: Tokens, at: int) -> int:
    """The end of `[[...]]` that starts at `at`, or -1."""
    if tokens.get(at) == "[" and at + 1 < len(tokens) and tokens.text[at + 1] == "[":
        return tokens.closing(at)
    return -1


def type_end(tokens: Tokens, at: int) -> int:
    """The token after the type name that starts at `at`."""
    if tokens.get(at) in _BASIC:
        while tokens.get(at) in _BASIC and tokens.get(at) not in ("struct", "typename"):
            at = tokens.after(at)
        if tokens.get(at) not in ("struct", "typename"):
            return at
        at = tokens.after(at)
    while True:
        if tokens.get(at) == "::":
            at = tokens.after(at)
        if at >= len(tokens) or tokens.kind[at] != "name":
            return at
        at = tokens.after(at)
        if tokens.get(at) == "<":
            closed = tokens.closing_angle(at)
            if closed < 0:
                return at
            at = tokens.after(closed)
        if tokens.get(at) != "::":
            return at
