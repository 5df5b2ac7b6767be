"""Address spaces as types, for the checking pass alone: `const device T*` becomes a class of its own."""

from __future__ import annotations

from .grammar import QUALIFIERS, SPACES, type_end
from .lexer import Tokens


def type_pointers(tokens: Tokens) -> None:
    """`const device T*` becomes emu::Pointer<T, emu::device_space, true>, wherever it stands."""
    for i in list(tokens.indices()):
        if tokens.kind[i] == "name" and tokens.text[i] in ("device", "constant", "threadgroup"):
            _pointer(tokens, i)
        elif tokens.text[i] == "reinterpret_cast":
            tokens.text[i] = "emu::cast"
        elif tokens.text[i] == "&":
            _address(tokens, i)


def _pointer(tokens: Tokens, at: int) -> None:
    space = tokens.text[at]
    start = at
    while tokens.get(tokens.before(start)) in ("const", "volatile"):
        start = tokens.before(start)
    first = tokens.after(at)
    while tokens.get(first) in QUALIFIERS | SPACES:
        first = tokens.after(first)
    if first >= len(tokens) or tokens.kind[first] != "name":
        return
    past_type = star = type_end(tokens, first)
    while tokens.get(star) in ("const", "volatile"):
        star = tokens.after(star)
    if tokens.get(star) != "*":
        return
    words = {tokens.text[j] for j in (*range(start, first), *range(past_type, star))}
    const = "true" if words & {"const"} or space == "constant" else "false"
    type_name = tokens.slice(first, past_type)
    tokens.erase(start, first)
    for j in range(past_type, star + 1):
        if tokens.real(j):
            tokens.erase(j, j + 1)
    if type_name == "auto":
        return
    tokens.text[first] = f"emu::Pointer<{tokens.text[first]}"
    last = tokens.before(past_type)
    tokens.text[last] += f", emu::{space}_space, {const}>"
    after = tokens.after(star)
    while tokens.get(after) in ("restrict", "__restrict", "__restrict__"):
        tokens.erase(after, after + 1)
        after = tokens.after(after)
    # T *a, *b;
    while after < len(tokens) and tokens.text[after] not in (";", ")", "{", ">", "="):
        if tokens.text[after] == "," and tokens.get(tokens.after(after)) == "*":
            tokens.erase(tokens.after(after), tokens.after(after) + 1)
        elif tokens.text[after] == ",":
            break
        after = tokens.after(after)


def _address(tokens: Tokens, at: int) -> None:
    """&p[i] becomes (p + (i)), which keeps the address space."""
    before = tokens.before(at)
    operand = before >= 0 and (tokens.kind[before] in ("name", "number") or tokens.text[before] in (")", "]", "&", ">"))
    if operand and tokens.text[before] != "return":
        return
    name = tokens.after(at)
    bracket = tokens.after(name)
    if name >= len(tokens) or tokens.kind[name] != "name" or tokens.get(bracket) != "[":
        return
    close = tokens.closing(bracket)
    if tokens.get(tokens.after(close)) in ("[", ".", "->", "("):
        return
    tokens.text[at] = "("
    tokens.text[bracket] = "+ ("
    tokens.text[close] = "))"
