"""Rules that a source can break without running."""

from __future__ import annotations

import re

from . import toolchain
from .errors import (
    AddressSpaceError,
    CompileError,
    DoubleError,
    NonAsciiError,
    RecursiveKernelError,
    TooManyBuffersError,
)
from .lexer import Tokens, is_bare_float
from .parameters import Parameter

_NODE = re.compile(r'node: \{ title: "([^"]*)" label: "([^"\\]*)')
_ALIAS = re.compile(r"^.*:(\w+)\.localalias$")
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"')


def check_text(source: str, what: str) -> None:
    """ASCII alone, and no doubles."""
    for number, line in enumerate(source.splitlines(), 1):
        if not line.isascii():
            raise NonAsciiError(f"{what}: line {number} is not ASCII: {line.strip()!r}")
    tokens = Tokens(source)
    at = 1
    for text, kind in zip(tokens.text, tokens.kind, strict=True):
        if kind == "number" and is_bare_float(text):
            raise DoubleError(f"{what}: line {at}: {text} is a double; write {text}f")
        if kind == "name" and text == "double":
            raise DoubleError(f"{what}: line {at}: Metal has no double")
        at += text.count("\n")


def check_buffers(parameters: list[Parameter], what: str) -> None:
    """At most 31 buffers."""
    indices = [p.buffer for p in parameters if p.buffer is not None]
    if indices and max(indices) > 30:
        raise TooManyBuffersError(f"{what}: {len(indices)} buffers, the last at index {max(indices)}; Metal binds 31")


def check_compiled(cpp: str, what: str) -> None:
    """Address spaces and recursion, from a compilation that is thrown away. `cpp` is translated with pointers."""
    try:
        graph = toolchain.check(cpp, what)
    except CompileError as error:
        raise AddressSpaceError(f"{what}: address spaces do not fit\n{error}") from None
    if cycle := _cycle(graph):
        raise RecursiveKernelError(f"{what}: recursion through {' -> '.join(cycle)}")


def _cycle(graph: str) -> list[str]:
    """The functions on a cycle of calls, if there is one."""
    names = dict(_NODE.findall(graph))
    calls: dict[str, list[str]] = {}
    for caller, callee in _EDGE.findall(graph):
        # Position-independent code calls itself by an alias.
        calls.setdefault(caller, []).append(_ALIAS.sub(r"\1", callee))
    done: set[str] = set()
    path: list[str] = []

    def visit(node: str) -> list[str]:
        if node in path:
            return [names.get(n, n) for n in [*path[path.index(node) :], node]]
        if node in done:
            return []
        path.append(node)
        for callee in calls.get(node, ()):
            if found := visit(callee):
                return found
        path.pop()
        done.add(node)
        return []

    for node in list(calls):
        if found := visit(node):
            return found
    return []
