"""How long a kernel takes beside the MLX operations that it replaces.

Both sides run in turns on inputs of a decode step, many launches in one evaluation so that the host hardly counts, each
on other weights or other rows than the one before, so that no cache holds them. The launches of a side do not depend on
one another: a GPU may overlap them, on both sides. So this is throughput, the measure of what reads much; what a chain
of small launches costs in a model is more than this, and more so for the side that needs more launches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from ..chips import Limit

OURS, STOCK = "kernel", "stock"
ROUNDS = 7
#: Seconds of one side's turn, and the most launches in it.
TURN, MOST = 0.02, 512
Clock = Callable[[], float]
#: The ``i``-th launch: all that it computes, not evaluated.
Side = Callable[[int], Sequence[mx.array]]


class Case(NamedTuple):
    """What is compared: ``sides``, ours first, by name; ``moved``: the bytes our launch must read and write at least.
    ``what``: the sizes, in words."""

    sides: dict[str, Side]
    moved: int
    what: str


def rotating(held: list[Any], run: Callable[[Any], Any]) -> Side:
    """The side that takes the next of what is held at each launch."""

    def side(index: int) -> list[mx.array]:
        out = run(held[index % len(held)])
        return [out] if isinstance(out, mx.array) else list(out)

    return side


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of one launch over the rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Timing:
    """``ratio``: our median by that of stock MLX, below 1 is faster; ``None`` where MLX has nothing to compare.
    ``gbs``: GB/s of the bytes moved; ``share`` of the memory-bandwidth limit, least and most, where it is known."""

    what: str
    launches: int
    rounds: int
    ms: dict[str, Times]
    ratio: float | None
    moved: int
    gbs: float
    share: Limit | None


def measure(case: Case, limit: Limit | None, clock: Clock = time.perf_counter, rounds: int = ROUNDS) -> Timing:
    """All sides in turns; the first turn of each, which compiles, does not count."""
    launches = _enough(case.sides[next(iter(case.sides))], clock)
    seen: dict[str, list[float]] = {name: [] for name in case.sides}
    for turn in range(-1, rounds):
        for name, side in case.sides.items():
            spent = _turn(side, (turn + 1) * launches, launches, clock)
            if turn >= 0:
                seen[name].append(1e3 * spent / launches)
    mx.clear_cache()
    ms = {name: Times(statistics.median(each), min(each), max(each)) for name, each in seen.items()}
    ours = ms[next(iter(ms))].median
    gbs = case.moved / ours / 1e6
    return Timing(
        what=case.what,
        launches=launches,
        rounds=rounds,
        ms=ms,
        ratio=ours / ms[STOCK].median if STOCK in ms else None,
        moved=case.moved,
        gbs=gbs,
        share=Limit(gbs / limit.high, gbs / limit.low) if limit else None,
    )


def _enough(side: Side, clock: Clock) -> int:
    """Launches that fill a turn, a power of two."""
    launches = 8
    _turn(side, 0, launches, clock)  # compiles
    while launches < MOST and _turn(side, 0, launches, clock) < TURN:
        launches *= 2
    return launches


def _turn(side: Side, first: int, launches: int, clock: Clock) -> float:
    """Seconds of so many launches; building their graph does not count."""
    arrays = [array for index in range(first, first + launches) for array in side(index)]
    mx.synchronize()
    begun = clock()
    mx.eval(arrays)
    mx.synchronize()
    return clock() - begun
