"""A machine whose time is computed, under the real scheduler and pace: thousands of requests in seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from qwen3_mlx.engine.pace import Pace
from qwen3_mlx.engine.scheduler import Scheduler


@dataclass(eq=False)
class Slot:
    """A request: so many tokens of prompt, then of answer; every ``forced``-th one is followed by three forced ones."""

    prompt: int
    answer: int
    arrival: float = 0.0
    forced: int = 0
    pending: int = 0
    held: int = 0
    sampled: int = 0
    began: float | None = None
    first: float | None = None
    last: float = 0.0

    def __post_init__(self) -> None:
        self.pending = self.prompt

    @property
    def done(self) -> bool:
        return self.sampled == self.answer


@dataclass
class Machine:
    """Seconds of a step, of a token of prefill at depth 0, and the depth at which attention doubles that; every pass
    takes up to ``noise`` longer than that, by share."""

    step: float = 0.015
    token: float = 0.001
    half: float = 25_000.0
    noise: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def takes(self, seconds: float) -> float:
        return seconds * (1 + self.noise * self.rng.random())

    def pass_(self, count: int, depth: int) -> float:
        return self.takes(max(self.step, self.token * count * (1 + (depth + count / 2) / self.half)))


@dataclass
class Run:
    """What came of it. ``finished``, ``started``: slots in that order; ``gaps``: seconds between tokens of a stream,
    and ``forced`` where tokens were forced in between."""

    finished: list[Slot] = field(default_factory=list)
    started: list[Slot] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0


def play(
    scheduler: Scheduler[Slot],
    slots: Iterable[Slot],
    machine: Machine | None = None,
    pace: Pace | None = None,
    check: Callable[[], None] = lambda: None,
) -> Run:
    """Play all slots to their end. Time goes as in the token loop: a step's tokens are read one turn later, when that
    step and what was prefilled in between are through."""
    machine = machine or Machine()
    pace = pace or Pace(machine.half)
    coming = sorted(slots, key=lambda slot: slot.arrival)
    total, now, run, stepping = len(coming), 0.0, Run(), False
    while len(run.finished) < total:
        if not scheduler.running and not scheduler.waiting:
            now = max(now, coming[0].arrival)
            pace.begin(now)
            stepping = False
        while coming and coming[0].arrival <= now:
            scheduler.add(coming.pop(0))
        plan = scheduler.plan(pace)
        assert plan, "there is always something to do"
        check()
        if plan.decode:
            if stepping:
                now += machine.takes(machine.step * (1 + 0.02 * len(plan.decode)))
            pace.done(now)
            pace.stepped()
            stepping = True
            for slot in plan.decode:
                _read(slot, now, run, scheduler)
        for slot, count in plan.prefill:
            assert 0 < count <= slot.pending
            if slot.began is None:
                slot.began = now
                run.started.append(slot)
            now += machine.pass_(count, slot.held)
            pace.fed(count, slot.held)
            slot.pending -= count
            slot.held += count
        if plan.prefill and not plan.decode:
            stepping = False
            pace.done(now)
        run.steps += 1
        assert sum(count for _, count in plan.prefill) <= scheduler.chunk
    run.seconds = now
    assert not scheduler.plan(pace)
    return run


def _read(slot: Slot, now: float, run: Run, scheduler: Scheduler[Slot]) -> None:
    assert slot.pending == 0
    if slot.first is None:
        slot.first = now
    else:
        forced = slot.forced and slot.sampled % slot.forced == 0
        (run.forced if forced else run.gaps).append(now - slot.last)
    slot.last = now
    slot.sampled += 1
    slot.held += 1
    if slot.done:
        run.finished.append(slot)
        scheduler.remove(slot)
    elif slot.forced and slot.sampled % slot.forced == 0:
        slot.pending = 3
