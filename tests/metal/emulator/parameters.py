"""A kernel's parameters, and the function that calls it with the buffers and attributes of a thread."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import SourceError
from .grammar import attribute_end
from .lexer import Tokens

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


def read_parameters(tokens: Tokens, start: int) -> list[Parameter]:
    """The parameters between the bracket at `start` and the one that closes it."""
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
    return _with_buffers(found)


def _with_buffers(found: list[Parameter]) -> list[Parameter]:
    """Buffers that name no index take the first that is free, in order (Metal Shading Language, 5.2.1)."""
    taken = {p.buffer for p in found}
    free = (i for i in range(len(found) + len(taken)) if i not in taken)
    bare = (p.buffer is None and p.attribute is None for p in found)
    return [replace(p, buffer=next(free)) if b else p for p, b in zip(found, bare, strict=True)]


def _parameter(tokens: Tokens, start: int, end: int) -> Parameter:
    attributes: dict[str, str] = {}
    declared_end = end
    at = start
    while at < end:
        closed = attribute_end(tokens, at)
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
