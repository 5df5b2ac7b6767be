"""Rows that leave the batch to be fed: what they take along, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import mlx.core as mx
import pytest

from benchmarks.admission import GREEDY, Point, build, fill
from qwen3_mlx.engine import step as steps
from qwen3_mlx.engine.row import Clock, Row
from qwen3_mlx.engine.runner import Runner
from qwen3_mlx.types import Request

FORCED = (5, 6, 7)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return build(Point("0.6B", (300,), 8, "float32"), beside=True)


@pytest.fixture(params=[1, 2], autouse=True)
def groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """That rows lie in: a CPU's are in two where that is worth it."""
    monkeypatch.setattr(steps, "BESIDE", 1 << 60 if request.param == 1 else 0)
    return int(request.param)


def unread(runner: Runner) -> list[Row]:
    """Takes a step; the rows for which the one before has drawn."""
    drawn = runner.step()
    return [] if drawn is None else [row for row, _ in drawn.rows]


def joined(runner: Runner, lengths: Sequence[int], constrained: bool = False) -> list[Row]:
    """Rows of these lengths that have taken a step together; what it draws is unread, or not drawn yet."""
    rows = []
    for length in lengths:
        request = Request((1,) * length, GREEDY)
        row = Row(request, mock.Mock(), print, Clock(0.0), tokens=[1] * length, feed=[1] * length)
        row.controller.constrained, row.bound = constrained, 400  # type: ignore[misc]
        runner.start(row)
        fill(runner, row, length - 1)
        runner.prefill(row, 1)
        row.tokens.append(runner.first(row)[0])  # type: ignore[index]
        rows.append(row)
    runner.join(rows)
    assert not unread(runner)
    return rows


def caches(runner: Runner, rows: Sequence[Row]) -> int:
    own = [row.cache.nbytes for row in rows if row.cache is not None]
    return sum(own) + (runner._batch.cache.nbytes if runner._batch.cache is not None else 0)


def finish(runner: Runner, rows: Sequence[Row]) -> None:
    for row in rows:
        runner.leave(row, keep=False)
    assert runner._batch.cache is None and not runner.leaving


@pytest.mark.parametrize("count", [1, 5, 8])
def test_rows_that_leave_together_take_no_more_than_they_had(runner: Runner, count: int, groups: int) -> None:
    rows = joined(runner, range(300, 308))
    cache = runner._batch.cache
    assert cache is not None and len(cache.groups) == groups
    first = []
    for row in rows:
        assert row.place is not None
        group, at = cache.at(row.place)
        first.append(tuple(map(mx.array, group.layers[0].part(at, 0, row.held))))
    mx.eval(first)
    before, planned = caches(runner, rows), sum(runner.held(rows))
    for row in rows[:count]:
        runner.force(row, FORCED)
    assert runner.leaving == [512] * count and sum(runner.held(rows)) == planned
    assert caches(runner, rows) == before, "nobody moves until all are known who do"
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    runner.hand_out(keep=False)
    assert mx.get_peak_memory() - active < 1.2 * before / len(cache.groups[0].layers), "a layer"
    assert caches(runner, rows) <= before and sum(runner.held(rows)) == planned and not runner.leaving
    for at, row in enumerate(rows[:count]):
        assert row.place is None and row.cache is not None and row.cache.offset == row.held == 301 + at
        for mine, its in zip(first[at], row.cache.layers[0].part(0, 0, row.held), strict=True):
            assert mx.array_equal(mine, its)
    assert {*unread(runner)} == {*rows[count:]}
    finish(runner, rows)


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_row_is_fed_and_goes_on_as_it_does_alone(runner: Runner, keep: bool, constrained: bool) -> None:
    def drawn(lengths: Sequence[int], forced: int) -> list[object]:
        rows = joined(runner, lengths, constrained)
        row = rows[forced]
        runner.force(row, FORCED)
        if len(rows) > 2:  # somebody else has left meanwhile, and somebody fails who was to be fed
            runner.leave(rows[0], keep=False)
            runner.force(rows[1], FORCED)
            runner.leave(rows[1], keep=False)
        runner.draw()
        runner.hand_out(keep=keep)
        assert row.state is not None and row.state.positions == (1 + len(FORCED),)
        others = rows[forced + 1 :]
        assert row.place is None and all(one.place is not None for one in others)
        runner.prefill(row, row.pending)
        out = [runner.first(row)]
        row.tokens.append(out[0][0])  # type: ignore[index]
        runner.join([row])
        assert {*unread(runner)} == {*others}, "nothing was drawn for it meanwhile"
        runner.draw()
        read = dict(runner.read(runner.step()))
        assert set(read) == {row, *others}
        finish(runner, rows)
        return [*out, read[row]]

    assert drawn((300,), 0) == drawn((310, 305, 300, 290), 2)


@pytest.mark.parametrize("keep", [False, True])
def test_a_place_is_kept_only_where_there_is_memory(runner: Runner, keep: bool) -> None:
    rows = joined(runner, (300, 301, 302, 303))
    held = sum(runner.held(rows))
    runner.force(rows[1], FORCED)
    runner.hand_out(keep=keep)
    assert sum(runner.held(rows)) == held + 512 * keep
    assert sum(runner._batch.cache.capacities) == (4 if keep else 3) * 512  # type: ignore[union-attr]
    finish(runner, rows)


def test_rows_that_are_packed_are_packed(runner: Runner, groups: int) -> None:
    """So that who asks until there is room comes to an end."""
    rows = joined(runner, range(300, 308))
    for row in rows[1:3]:
        runner.leave(row, keep=False)
    assert runner.pack(), "two places are given up"
    assert not runner.pack() and runner._batch.cache is not None and len(runner._batch.cache.groups) == groups
    finish(runner, [rows[0], *rows[3:]])
