"""Metal source, already preprocessed, to C++20 for the headers in include/emu."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import SourceError
from .grammar import QUALIFIERS, SPACES, attribute_end, type_end
from .lexer import Tokens, is_bare_float, suffixed_float
from .parameters import Parameter, read_parameters
from .pointers import type_pointers

_SWIZZLE = re.compile(r"^(?:[xyzw]{2,4}|[rgba]{2,4})$")


@dataclass
class Translation:
    """C++ text, and what was seen on the way."""

    cpp: str
    kernels: dict[str, list[Parameter]] = field(default_factory=dict)
    instances: list[str] = field(default_factory=list)  # `name<arguments>`, as instantiated by the source


def translate(source: str, constants: Mapping[int, object] | None = None, pointers: bool = False) -> Translation:
    """Translates preprocessed source. `constants` are the values of function constants by index; with `pointers`
    pointers carry their address space as a type."""
    tokens = Tokens(source)
    result = Translation("")
    _pragmas(tokens)
    _instantiations(tokens, result)
    _kernels(tokens, result)
    _function_constants(tokens, constants or {})
    _attributes(tokens)
    _member_functions(tokens)
    if pointers:
        type_pointers(tokens)
    _threadgroup_variables(tokens)
    _spaces(tokens)
    _swizzles(tokens)
    _literals(tokens)
    result.cpp = tokens.join()
    return result


def _pragmas(tokens: Tokens) -> None:
    for i in range(len(tokens)):
        if tokens.kind[i] == "directive" and "pragma" in tokens.text[i]:
            unroll = "unroll" in tokens.text[i] and tokens.get(tokens.after(i)) == "for"
            tokens.text[i] = "#pragma GCC unroll 16" if unroll else ""


def _instantiations(tokens: Tokens, result: Translation) -> None:
    """template [[host_name("x")]] [[kernel]] decltype(f<A>) f<A>;"""
    for i in list(tokens.indices()):
        if tokens.text[i] != "template":
            continue
        at = tokens.after(i)
        if attribute_end(tokens, at) < 0:
            continue
        while (end := attribute_end(tokens, at)) >= 0:
            at = tokens.after(end)
        if tokens.get(at) == "decltype":
            at = tokens.after(tokens.closing(tokens.after(at)))
        semicolon = at
        while tokens.get(semicolon) != ";":
            semicolon = tokens.after(semicolon)
        result.instances.append(tokens.slice(at, semicolon))
        tokens.erase(i, semicolon + 1)


def _kernels(tokens: Tokens, result: Translation) -> None:
    for i in list(tokens.indices()):
        if tokens.text[i] != "kernel" or tokens.kind[i] != "name":
            continue
        at = tokens.after(i)
        if tokens.get(at) == ",":  # [[kernel, max_total_threads_per_threadgroup(n)]]
            while at < len(tokens) and tokens.text[at] != "]":
                at = tokens.after(tokens.closing(at) if tokens.text[at] == "(" else at)
        bracketed = tokens.get(at) == "]"
        while tokens.get(at) == "]":
            at = tokens.after(at)
        while (end := attribute_end(tokens, at)) >= 0:
            at = tokens.after(end)
        if tokens.get(at) != "void":
            continue
        name = tokens.after(at)
        start = tokens.after(name)
        if tokens.get(start) != "(":
            continue
        result.kernels[tokens.text[name]] = read_parameters(tokens, start)
        if not bracketed:
            tokens.erase(i, i + 1)


def _function_constants(tokens: Tokens, constants: Mapping[int, object]) -> None:
    """constant T name [[function_constant(n)]];"""
    for i in list(tokens.indices()):
        end = attribute_end(tokens, i)
        if end < 0 or "function_constant" not in tokens.slice(i, end) or tokens.get(tokens.after(end)) != ";":
            continue
        index = int(re.findall(r"function_constant\s*\(\s*(\d+)", tokens.slice(i, end))[0])
        value = constants.get(index, 0)
        tokens.erase(i, end + 1)
        tokens.text[i] = f"= {str(value).lower() if isinstance(value, bool) else value}"


def _attributes(tokens: Tokens) -> None:
    i = 0
    while i < len(tokens):
        end = attribute_end(tokens, i) if tokens.real(i) else -1
        if end >= 0:
            tokens.erase(i, end + 1)
            i = end
        i += 1


def _member_functions(tokens: Tokens) -> None:
    """Metal tells member functions apart by the address space of the object. C++ cannot: the one for `thread` stays."""
    for i in list(tokens.indices()):
        if tokens.kind[i] != "name" or tokens.text[i] not in SPACES:
            continue
        before = tokens.before(i)
        if tokens.get(before) == "const":
            before = tokens.before(before)
        after = tokens.get(tokens.after(i))
        if tokens.text[i] != "thread" and (_returns_reference(tokens, i) or _specialises(tokens, i)):
            before = i
        elif tokens.get(before) != ")" or after not in ("{", ":", ";", "const"):
            continue
        if tokens.text[i] == "thread":
            tokens.erase(i, i + 1)
            continue
        start = tokens.before(tokens.opening(before) if before != i else i)
        while start >= 0 and tokens.text[start] not in ";{}":
            start = tokens.before(start)
        end = tokens.after(i)
        while end < len(tokens) and tokens.get(end) not in ("{", ";"):
            end = tokens.closing(end) if tokens.get(end) == "(" else end
            end = tokens.after(end)
        tokens.erase(start + 1, (tokens.closing(end) if tokens.get(end) == "{" else end) + 1)


def _specialises(tokens: Tokens, at: int) -> bool:
    """`struct name<device T*> {`: a specialization for one address space."""
    angle = tokens.before(at)
    keyword = tokens.before(tokens.before(angle))
    return tokens.get(angle) == "<" and tokens.get(keyword) == "struct"


def _returns_reference(tokens: Tokens, at: int) -> bool:
    """`device T& operator`: an operator told apart from the others by the space of what it returns."""
    reference = type_end(tokens, tokens.after(at))
    return tokens.get(reference) == "&" and tokens.get(tokens.after(reference)) == "operator"


def _threadgroup_variables(tokens: Tokens) -> None:
    """threadgroup T a[N], b; at statement level becomes references to the threadgroup's memory."""
    inside = tokens.surrounding()
    for i in list(tokens.indices()):
        if tokens.text[i] != "threadgroup" or inside[i] not in ("{", ""):
            continue
        start = tokens.after(i)
        while tokens.get(start) in QUALIFIERS | SPACES:
            start = tokens.after(start)
        past_type = type_end(tokens, start)
        if tokens.kind[past_type] != "name":
            continue  # a pointer or a reference
        type_name = tokens.slice(start, past_type)
        semicolon = past_type
        while tokens.get(semicolon) != ";":
            semicolon = tokens.closing(semicolon) if tokens.get(semicolon) in ("[", "(", "{") else semicolon
            semicolon = tokens.after(semicolon)
        declared = [d.strip() for d in _split(tokens.slice(past_type, semicolon))]
        tokens.erase(i, semicolon + 1)
        tokens.text[i] = " ".join(_threadgroup_variable(type_name, d) for d in declared)


def _threadgroup_variable(type_name: str, declarator: str) -> str:
    found = re.match(r"(\w+)\s*((?:\[.*\])?)\s*$", declarator, re.DOTALL)
    if not found:
        raise SourceError(f"a threadgroup variable cannot have an initial value: {declarator}")
    name, dimensions = found[1], found[2].replace("\n", " ")
    return (
        f"static emu::ThreadgroupSite emu_site_{name}; using emu_type_{name} = {type_name}{dimensions}; "
        f'auto&& {name} = emu::threadgroup_variable<emu_type_{name}>(emu_site_{name}, "{name}");'
    )


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _spaces(tokens: Tokens) -> None:
    """What is left of address spaces: `constant` means const, the others nothing."""
    for i in list(tokens.indices()):
        if tokens.kind[i] != "name" or tokens.text[i] not in SPACES:
            continue
        if tokens.text[i] == "constant" and not _is_const(tokens, i):
            tokens.text[i] = "const"
        else:
            tokens.erase(i, i + 1)


def _is_const(tokens: Tokens, at: int) -> bool:
    words = set()
    for step in (tokens.before, tokens.after):
        i = step(at)
        while tokens.get(i) in QUALIFIERS | SPACES:
            words.add(tokens.text[i])
            i = step(i)
    return bool(words & {"const", "constexpr"})


def _swizzles(tokens: Tokens) -> None:
    for i in list(tokens.indices()):
        if tokens.text[i] != "." or tokens.kind[i] != "mark":
            continue
        at = tokens.after(i)
        if at < len(tokens) and _SWIZZLE.match(tokens.text[at]) and tokens.get(tokens.after(at)) != "(":
            indices = ", ".join(str("xyzw".find(c) if c in "xyzw" else "rgba".find(c)) for c in tokens.text[at])
            tokens.text[at] = f"swizzle(emu::Swizzle<{indices}>())"


def _literals(tokens: Tokens) -> None:
    for i in list(tokens.indices()):
        if tokens.kind[i] != "number":
            continue
        if is_bare_float(tokens.text[i]):
            tokens.text[i] += "f"
        elif found := suffixed_float(tokens.text[i]):
            digits, suffix = found
            digits += "" if "." in digits or "e" in digits.lower() else ".0"
            tokens.text[i] = f"{'half' if suffix == 'h' else 'bfloat'}({digits}f)"
