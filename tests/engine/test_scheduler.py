"""The scheduler alone: no weights, thousands of requests."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.engine.scheduler import Scheduler


@dataclass(eq=False)
class Slot:
    prompt: int
    answer: int
    pending: int = 0
    fed: int = 0
    decoded: int = 0
    finished_at: int | None = None

    def __post_init__(self) -> None:
        self.pending = self.prompt


def run(scheduler: Scheduler[Slot], slots: list[Slot], arrivals: list[int], *, force_every: int = 0) -> list[Slot]:
    """Play all slots to their end; returns them in the order in which they finished."""
    finished: list[Slot] = []
    step = 0
    queue = sorted(zip(arrivals, range(len(slots)), strict=True))
    while len(finished) < len(slots):
        while queue and queue[0][0] <= step:
            scheduler.add(slots[queue.pop(0)[1]])
        plan = scheduler.plan()
        for slot in plan.decode:
            assert slot.pending == 0
            slot.decoded += 1
            if slot.decoded == slot.answer:
                slot.finished_at = step
                finished.append(slot)
                scheduler.remove(slot)
            elif force_every and slot.decoded % force_every == 0:
                slot.pending = 3
        if plan.prefill:
            slot, count = plan.prefill
            assert 0 < count <= min(scheduler.chunk, slot.pending)
            slot.pending -= count
            slot.fed += count
        step += 1
        assert step < 1_000_000
    assert not scheduler.plan()
    return finished


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    max_rows=st.integers(1, 9),
    chunk=st.integers(1, 600),
    requests=st.integers(1, 60),
    force_every=st.sampled_from([0, 2, 5]),
)
def test_every_request_is_served_to_its_end(
    seed: int, max_rows: int, chunk: int, requests: int, force_every: int
) -> None:
    rng = random.Random(seed)
    slots = [Slot(rng.randint(1, 900), rng.randint(1, 40)) for _ in range(requests)]
    arrivals = [rng.randint(0, 300) for _ in slots]
    run(Scheduler(max_rows, chunk), slots, arrivals, force_every=force_every)
    assert all(slot.decoded == slot.answer for slot in slots)
    forced = [3 * ((s.answer - 1) // force_every) if force_every else 0 for s in slots]
    assert [s.fed for s in slots] == [s.prompt + f for s, f in zip(slots, forced, strict=True)]


def test_one_row_serves_in_order_of_arrival() -> None:
    rng = random.Random(1)
    slots = [Slot(rng.randint(1, 2000), rng.randint(1, 50)) for _ in range(2000)]
    finished = run(Scheduler(1, 512), slots, list(range(len(slots))))
    assert finished == slots


def test_never_more_than_max_rows_run() -> None:
    scheduler: Scheduler[Slot] = Scheduler(3, 10)
    for _ in range(8):
        scheduler.add(Slot(5, 5))
    scheduler.plan()
    assert len(scheduler.running) == 3 and len(scheduler.waiting) == 5


def test_a_long_prompt_does_not_hold_a_running_stream_back() -> None:
    scheduler: Scheduler[Slot] = Scheduler(2, 64)
    running, late = Slot(1, 1000), Slot(64 * 50, 5)
    scheduler.add(running)
    scheduler.plan()
    running.pending = 0
    scheduler.add(late)
    for _ in range(50):
        plan = scheduler.plan()
        assert plan.decode == (running,), "the stream gets a token in every step"
        assert plan.prefill == (late, 64)
        late.pending -= 64


def test_a_removed_slot_frees_its_row_wherever_it_was() -> None:
    scheduler: Scheduler[Slot] = Scheduler(1, 8)
    first, second, third = Slot(4, 1), Slot(4, 1), Slot(4, 1)
    for slot in (first, second, third):
        scheduler.add(slot)
    scheduler.plan()
    scheduler.remove(second)
    scheduler.remove(first)
    plan = scheduler.plan()
    assert plan.prefill == (third, 4)
    scheduler.remove(third)
    scheduler.remove(third)
    assert not scheduler.plan()
