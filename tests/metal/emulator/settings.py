"""How launches run: one set of settings at a time, changed for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How launches run.

    Attributes:
        instrumented: check and count every load and store; 25-40 times slower.
        seed: 0 runs threads in their natural order; any other number shuffles threads, simdgroups and threadgroups.
        jitter_ulps: the largest error, in units in the last place, added to the results of `fast::` functions.
        jitter_seed: chooses among such errors; one seed gives one error for one argument.
        line_bytes: the size of a cache line, for counting.
        check_source: refuse non-ASCII sources, doubles, recursion and mixed address spaces before the first launch.
        seconds: the processor time that a launch may take; 0 sets no bound.
    """

    instrumented: bool = False
    seed: int = 0
    jitter_ulps: int = 0
    jitter_seed: int = 0
    line_bytes: int = 64
    check_source: bool = True
    seconds: float = 120.0


_current = [Settings()]


def current() -> Settings:
    return _current[-1]


@contextmanager
def using(**changes: Any) -> Iterator[Settings]:
    """Changes settings for a block: `with using(instrumented=True): ...`"""
    _current.append(replace(current(), **changes))
    try:
        yield current()
    finally:
        _current.pop()
