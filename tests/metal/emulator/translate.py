"""Metal source, already preprocessed, to C++20 for the headers in include/emu."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import SourceError
from .lexer import Tokens, is_bare_float, suffixed_float

_QUALIFIERS = {"const", "volatile", "static", "constexpr", "inline", "extern"}
_SPACES = {"device", "constant", "threadgroup", "thread"}
_BASIC = {"unsigned", "signed", "long", "short", "int", "char", "struct", "typename"}
_SWIZZLE = re.compile(r"^(?:[xyzw]{2,4}|[rgba]{2,4})$")
_ATTRIBUTE_ARGUMENT = re.compile(r"(\w+)\s*(?:\(([^()]*)\))?")

# The attributes of a thread: where the runtime keeps them.
_ATTRIBUTES = {
    "thread_position_in_grid": "in_grid",
    "thread_position_in_threadgroup": "in_threadgroup",
    "threadgroup_position_in_grid": "threadgroup",
    "threads_per_grid": "grid",
    "grid_size": "grid",
    "threads_per_threadgroup": "threads_per_threadgroup",
    "dispatch_threads_per_threadgroup": "dispatch_threads_per_threadgroup",
    "threadgroups_per_grid": "threadgroups",
    "thread_index_in_threadgroup": "index",
    "thread_index_in_simdgroup": "lane",
    "simdgroup_index_in_threadgroup": "simdgroup",
    "simdgroups_per_threadgroup": "simdgroups",
    "dispatch_simdgroups_per_threadgroup": "dispatch_simdgroups",
}
_COMPUTED = {
    "threads_per_simdgroup": "32u",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "(emu_current->lane & 3)",
    "quadgroup_index_in_threadgroup": "(emu_current->index / 4)",
    "quadgroup_index_in_simdgroup": "(emu_current->lane / 4)",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a buffer with its index, or an attribute of the thread."""

    name: str
    text: str
    buffer: int | None
    attribute: str | None
    is_reference: bool

    @property
    def writable(self) -> bool:
        words = set(re.findall(r"\w+", self.text.split("*")[0]))
        return self.buffer is not None and "device" in words and "const" not in words


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
        _pointers(tokens)
    _threadgroup_variables(tokens)
    _spaces(tokens)
    _swizzles(tokens)
    _literals(tokens)
    result.cpp = tokens.join()
    return result


def entry(expression: str, parameters: list[Parameter]) -> str:
    """The function that the runtime calls in every thread."""
    arguments = []
    for p in parameters:
        if p.buffer is not None:
            kind = "Reference" if p.is_reference else "Pointer"
            arguments.append(f"emu::{kind}Argument{{b[{p.buffer}]}}")
        elif p.attribute in _COMPUTED:
            arguments.append(_COMPUTED[p.attribute])
        elif p.attribute in _ATTRIBUTES:
            where = _ATTRIBUTES[p.attribute]
            address = "&" if where in ("index", "lane", "simdgroup", "simdgroups", "dispatch_simdgroups") else ""
            arguments.append(f"emu::Attribute{{{address}emu_current->{where}}}")
        else:
            raise SourceError(f"parameter {p.name} has no attribute that the emulator knows: {p.text}")
    return f'\nextern "C" void emu_entry(void** b) {{\n  {expression}({", ".join(arguments)});\n}}\n'


def _pragmas(tokens: Tokens) -> None:
    for i in range(len(tokens)):
        if tokens.kind[i] == "directive" and "pragma" in tokens.text[i]:
            unroll = "unroll" in tokens.text[i] and tokens.get(tokens.after(i)) == "for"
            tokens.text[i] = "#pragma GCC unroll 16" if unroll else ""


def _attribute_end(tokens: Tokens, at: int) -> int:
    """The end of `[[...]]` that starts at `at`, or -1."""
    if tokens.get(at) == "[" and at + 1 < len(tokens) and tokens.text[at + 1] == "[":
        return tokens.closing(at)
    return -1


def _instantiations(tokens: Tokens, result: Translation) -> None:
    """template [[host_name("x")]] [[kernel]] decltype(f<A>) f<A>;"""
    for i in list(tokens.indices()):
        if tokens.text[i] != "template":
            continue
        at = tokens.after(i)
        if _attribute_end(tokens, at) < 0:
            continue
        while (end := _attribute_end(tokens, at)) >= 0:
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
        bracketed = tokens.get(at) == "]"
        while tokens.get(at) == "]":
            at = tokens.after(at)
        while (end := _attribute_end(tokens, at)) >= 0:
            at = tokens.after(end)
        if tokens.get(at) != "void":
            continue
        name = tokens.after(at)
        start = tokens.after(name)
        if tokens.get(start) != "(":
            continue
        result.kernels[tokens.text[name]] = _parameters(tokens, start)
        if not bracketed:
            tokens.erase(i, i + 1)


def _parameters(tokens: Tokens, start: int) -> list[Parameter]:
    end = tokens.closing(start)
    found = []
    first = tokens.after(start)
    at = first
    while at <= end:
        text = tokens.get(at)
        if at == end or text == ",":
            if first < at:
                found.append(_parameter(tokens, first, at))
            first = tokens.after(at)
            at = first
            if first > end:
                break
            continue
        if text in "([{":
            at = tokens.closing(at)
        elif text == "<":
            closed = tokens.closing_angle(at)
            at = closed if closed > 0 else at
        at = tokens.after(at)
    return found


def _parameter(tokens: Tokens, start: int, end: int) -> Parameter:
    attributes: dict[str, str] = {}
    declared_end = end
    at = start
    while at < end:
        closed = _attribute_end(tokens, at)
        if closed < 0:
            at = tokens.after(at)
            continue
        declared_end = min(declared_end, at)
        inside = tokens.slice(at + 2, closed - 1)
        attributes.update({name: value for name, value in _ATTRIBUTE_ARGUMENT.findall(inside)})
        at = tokens.after(closed)
    text = tokens.slice(start, declared_end)
    array = re.search(r"(\w+)\s*(?:\[[^\]]*\])+\s*$", text)
    name = array[1] if array else re.findall(r"\w+", text)[-1]
    buffer = int(attributes["buffer"]) if "buffer" in attributes else None
    other = next((a for a in attributes if a not in ("buffer", "function_constant")), None)
    return Parameter(name, text, buffer, other, "&" in text and "*" not in text and not array)


def _function_constants(tokens: Tokens, constants: Mapping[int, object]) -> None:
    """constant T name [[function_constant(n)]];"""
    for i in list(tokens.indices()):
        end = _attribute_end(tokens, i)
        if end < 0 or "function_constant" not in tokens.slice(i, end) or tokens.get(tokens.after(end)) != ";":
            continue
        index = int(re.findall(r"function_constant\s*\(\s*(\d+)", tokens.slice(i, end))[0])
        value = constants.get(index, 0)
        tokens.erase(i, end + 1)
        tokens.text[i] = f"= {str(value).lower() if isinstance(value, bool) else value}"


def _attributes(tokens: Tokens) -> None:
    i = 0
    while i < len(tokens):
        end = _attribute_end(tokens, i) if tokens.real(i) else -1
        if end >= 0:
            tokens.erase(i, end + 1)
            i = end
        i += 1


def _member_functions(tokens: Tokens) -> None:
    """Metal tells member functions apart by the address space of the object. C++ cannot: the one for `thread` stays."""
    for i in list(tokens.indices()):
        if tokens.kind[i] != "name" or tokens.text[i] not in _SPACES:
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
    reference = _type_end(tokens, tokens.after(at))
    return tokens.get(reference) == "&" and tokens.get(tokens.after(reference)) == "operator"


def _type_end(tokens: Tokens, at: int) -> int:
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


def _threadgroup_variables(tokens: Tokens) -> None:
    """threadgroup T a[N], b; at statement level becomes references to the threadgroup's memory."""
    inside = tokens.surrounding()
    for i in list(tokens.indices()):
        if tokens.text[i] != "threadgroup" or inside[i] not in ("{", ""):
            continue
        start = tokens.after(i)
        while tokens.get(start) in _QUALIFIERS | _SPACES:
            start = tokens.after(start)
        type_end = _type_end(tokens, start)
        if tokens.kind[type_end] != "name":
            continue  # a pointer or a reference
        type_name = tokens.slice(start, type_end)
        semicolon = type_end
        while tokens.get(semicolon) != ";":
            semicolon = tokens.closing(semicolon) if tokens.get(semicolon) in ("[", "(", "{") else semicolon
            semicolon = tokens.after(semicolon)
        declared = [d.strip() for d in _split(tokens.slice(type_end, semicolon))]
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
        if tokens.kind[i] != "name" or tokens.text[i] not in _SPACES:
            continue
        if tokens.text[i] == "constant" and not _is_const(tokens, i):
            tokens.text[i] = "const"
        else:
            tokens.erase(i, i + 1)


def _is_const(tokens: Tokens, at: int) -> bool:
    words = set()
    for step in (tokens.before, tokens.after):
        i = step(at)
        while tokens.get(i) in _QUALIFIERS | _SPACES:
            words.add(tokens.text[i])
            i = step(i)
    return bool(words & {"const", "constexpr"})


def _pointers(tokens: Tokens) -> None:
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
    while tokens.get(first) in _QUALIFIERS | _SPACES:
        first = tokens.after(first)
    if first >= len(tokens) or tokens.kind[first] != "name":
        return
    type_end = star = _type_end(tokens, first)
    while tokens.get(star) in ("const", "volatile"):
        star = tokens.after(star)
    if tokens.get(star) != "*":
        return
    words = {tokens.text[j] for j in (*range(start, first), *range(type_end, star))}
    const = "true" if words & {"const"} or space == "constant" else "false"
    type_name = tokens.slice(first, type_end)
    tokens.erase(start, first)
    for j in range(type_end, star + 1):
        if tokens.real(j):
            tokens.erase(j, j + 1)
    if type_name == "auto":
        return
    tokens.text[first] = f"emu::Pointer<{tokens.text[first]}"
    last = tokens.before(type_end)
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
