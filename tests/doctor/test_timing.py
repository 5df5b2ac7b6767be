"""Turns, medians and shares, on a clock of our own."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.chips import Limit
from qwen3_mlx.doctor.timing import MOST, OURS, STOCK, Case, Side, Times, measure

from .clock import Clock


class Sides:
    """Two sides that write down who launched what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def side(self, name: str) -> Side:
        def launch(index: int) -> list[mx.array]:
            self.seen.append((name, index))
            return [mx.zeros((2,)) + index]

        return launch

    def case(self, *names: str) -> Case:
        return Case({name: self.side(name) for name in names}, 2_000_000, "two")


def test_sides_take_turns_and_the_median_counts() -> None:
    sides = Sides()
    # Compiling, a turn that is long enough, the turns that do not count, then three rounds.
    clock = Clock([9.0, 0.1, 8.0, 8.0, 0.08, 0.16, 0.04, 0.4, 0.8, 0.2])
    timing = measure(sides.case(OURS, STOCK), None, clock, rounds=3)
    turns = [sides.seen[at] for at in range(16, len(sides.seen), 8)]
    assert [name for name, _ in turns] == [OURS, STOCK] * 4
    assert [index for _, index in turns] == [0, 0, 8, 8, 16, 16, 24, 24]  # on other inputs than before, both the same
    assert timing.launches == 8 and timing.rounds == 3
    assert timing.ms[OURS] == Times(pytest.approx(10), pytest.approx(5), pytest.approx(100))
    assert timing.ms[STOCK] == Times(pytest.approx(25), pytest.approx(20), pytest.approx(50))
    assert timing.ratio == pytest.approx(0.4)


def test_short_launches_are_many() -> None:
    sides = Sides()
    timing = measure(sides.case(OURS, STOCK), None, Clock([1e-3, 5e-3, 9e-3, 0.03]), rounds=1)
    assert timing.launches == 32
    assert measure(Sides().case(OURS), None, Clock([1e-6]), rounds=1).launches == MOST


def test_the_share_of_the_limit() -> None:
    timing = measure(Sides().case(OURS), Limit(200, 400), Clock([0.08]), rounds=1)
    assert timing.gbs == pytest.approx(0.2) and timing.ratio is None
    assert timing.share == Limit(pytest.approx(0.0005), pytest.approx(0.001))
    assert measure(Sides().case(OURS), None, Clock([0.08]), rounds=1).share is None


def test_everything_that_a_launch_computes_is_evaluated() -> None:
    computed: list[mx.array] = []

    def pair(index: int) -> list[mx.array]:
        computed.extend((mx.zeros((1,)) + 1, mx.zeros((1,)) + 2))
        return computed[-2:]

    measure(Case({OURS: pair}, 1, ""), None, Clock([1.0]), rounds=1)
    assert len(computed) == 2 * 8 * 4
