"""The scheduler alone: no weights, thousands of requests on a machine whose time is computed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.engine.pace import Pace
from qwen3_mlx.engine.scheduler import LEAST, Scheduler
from tests.engine.simulate import Machine, Slot, play

STALL = 0.25


def known(machine: Machine) -> Pace:
    """The pace of a machine that has run a while."""
    pace = Pace(machine.half, step_s=machine.step)
    pace.begin(0.0)
    pace.fed(4096, 0)
    pace.done(machine.pass_(4096, 0))
    return pace


def mixed(count: int, seed: int, *, rate: float = 2.0, longest: int = 2000, every: int = 0) -> list[Slot]:
    """Requests that come ``rate`` a second: prompts of up to ``longest`` tokens, every ``every``-th of 32,768."""
    rng, now, slots = random.Random(seed), 0.0, []
    for index in range(count):
        now += rng.expovariate(rate)
        prompt = 32_768 if every and index % every == 0 else rng.randint(1, longest)
        slots.append(Slot(prompt, rng.randint(1, 60), now, rng.choice([0, 0, 7])))
    return slots


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), max_rows=st.integers(1, 9), chunk=st.integers(1, 600), requests=st.integers(1, 60))
def test_every_request_is_served_to_its_end(seed: int, max_rows: int, chunk: int, requests: int) -> None:
    slots = mixed(requests, seed, rate=20, longest=900)
    scheduler: Scheduler[Slot] = Scheduler(max_rows, chunk, STALL)

    def bounded() -> None:
        assert len(scheduler.running) <= max_rows

    play(scheduler, slots, check=bounded)
    assert all(slot.done and slot.pending == 0 for slot in slots)
    forced = [3 * ((s.answer - 1) // s.forced) if s.forced else 0 for s in slots]
    assert [s.held for s in slots] == [s.prompt + s.answer + f for s, f in zip(slots, forced, strict=True)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    max_rows=st.integers(2, 16),
    step=st.floats(0.001, 0.1),
    token=st.floats(0.00005, 0.004),
    half=st.sampled_from([3_000.0, 25_000.0, float("inf")]),
    stall=st.floats(0.25, 1.0),
)
def test_no_stream_waits_longer_than_the_bound(
    seed: int, max_rows: int, step: float, token: float, half: float, stall: float
) -> None:
    """On any machine on which the least that moves prompts on fits into the bound at all."""
    machine = Machine(step, token, half)
    slots = mixed(40, seed, longest=6000)
    scheduler: Scheduler[Slot] = Scheduler(max_rows, 512, stall)
    run = play(scheduler, slots, machine)
    deepest = max(slot.held for slot in slots)
    # One token, or as many as take no longer than a step; and sixteen before anything is known.
    one, least = step * (1 + 0.02 * max_rows), max(machine.pass_(1, deepest), machine.pass_(LEAST, 0))
    assert max(run.gaps, default=0.0) <= max(stall, one + least)
    assert max(run.forced, default=0.0) <= max(stall, one + least) + 2 * one + machine.pass_(3, deepest)


def test_the_bound_holds_in_five_thousand_requests_with_prompts_of_32k() -> None:
    """And the machine is not left idle: a bound costs prefill a fifth at most here."""
    slots = mixed(5000, seed=1, every=100)
    run = play(Scheduler(8, 512, STALL), slots)
    assert len(run.finished) == 5000
    assert max(run.gaps) <= STALL and max(run.forced) <= STALL + 0.05
    free = play(Scheduler(8, 512, 1e9), mixed(5000, seed=1, every=100))
    assert max(free.gaps) > 2 * STALL, "without a bound there would be something to see"
    assert run.seconds < 1.2 * free.seconds


def test_the_bound_holds_where_sixteen_tokens_alone_would_break_it() -> None:
    """Two cores without a BLAS of their own, 32,768 tokens deep: 16 tokens take half a second there."""
    machine = Machine(0.004, 0.001, half=1_000.0)
    assert machine.pass_(LEAST, 32_000) > 2 * STALL
    slots = [Slot(40, 100_000), Slot(32_768, 1, arrival=1.0)]
    scheduler: Scheduler[Slot] = Scheduler(8, 512, STALL)
    run = play(scheduler, slots, machine)
    assert max(run.gaps) <= STALL


def test_passes_that_take_longer_than_they_should_make_the_forecast_cautious() -> None:
    """Up to a fifth longer: one gap in a thousand may leave the bound, and by a tenth at most."""
    run = play(Scheduler(8, 512, STALL), mixed(3000, seed=2, every=100), Machine(noise=0.2))
    assert sum(gap > STALL for gap in run.gaps) <= len(run.gaps) // 1000
    assert max(run.gaps) <= 1.1 * STALL


def test_one_row_serves_in_order_of_arrival() -> None:
    slots = mixed(2000, seed=3)
    run = play(Scheduler(1, 512, STALL), slots)
    assert run.finished == slots


def test_equals_are_served_in_order_of_arrival() -> None:
    slots = [Slot(700, 20, index / 1000) for index in range(300)]
    run = play(Scheduler(6, 512, STALL), slots)
    assert run.started == slots
    assert sorted(slots, key=lambda slot: slot.first or 0.0) == slots


def test_never_more_than_max_rows_run() -> None:
    scheduler: Scheduler[Slot] = Scheduler(3, 10, STALL)
    for _ in range(8):
        scheduler.add(Slot(5, 5))
    scheduler.plan(Pace())
    assert len(scheduler.running) == 3 and len(scheduler.waiting) == 5


def test_a_short_prompt_does_not_wait_behind_a_long_one() -> None:
    """It has its first token within two turns more than alone; in order of arrival it would be half a minute."""
    machine = Machine()
    for stream in ([], [Slot(1, 100_000)]):
        long, short = Slot(32_768, 5, 0.001), Slot(100, 5, 1.0)
        scheduler: Scheduler[Slot] = Scheduler(4, 512, STALL)
        for slot in stream:
            slot.answer = 400
        play(scheduler, [*stream, long, short], machine, known(machine))
        assert short.first is not None and short.first - short.arrival < 3 * max(STALL, machine.pass_(512, 32_768))
        assert long.done


def test_a_long_prompt_is_not_starved_by_short_ones() -> None:
    """While short prompts keep coming faster than they can be served, the oldest has every other turn."""
    machine = Machine()
    alone = Slot(32_768, 1)
    play(Scheduler(8, 512, STALL), [alone], machine, known(machine))
    crowded = Slot(32_768, 1)
    crowd = [Slot(400, 1, index * 0.2) for index in range(600)]
    play(Scheduler(8, 512, STALL), [crowded, *crowd], machine, known(machine))
    assert alone.first is not None and crowded.first is not None
    assert crowded.first < 2.5 * alone.first


def test_several_short_prompts_share_a_turn() -> None:
    scheduler: Scheduler[Slot] = Scheduler(8, 512, STALL)
    slots = [Slot(100, 5) for _ in range(8)]
    for slot in slots:
        scheduler.add(slot)
    plan = scheduler.plan(Pace())
    assert plan.prefill == (*((slot, 100) for slot in slots[:5]),), "the last twelve tokens are not worth a pass"


def test_forced_tokens_of_a_stream_go_alone() -> None:
    """The stream has waited for a turn's prompts already, those of the turn in which its tokens were forced."""
    machine = Machine()
    scheduler: Scheduler[Slot] = Scheduler(4, 512, STALL)
    long, stream = Slot(30_000, 1), Slot(10, 20, held=10, sampled=3)
    stream.pending = 30
    for slot in (long, stream):
        scheduler.add(slot)
    assert scheduler.plan(known(machine)).prefill == ((stream, 30),)
    stream.pending = 0
    assert scheduler.plan(known(machine)).prefill[0][0] is long


def test_chunks_are_full_while_nobody_streams() -> None:
    machine = Machine()
    scheduler: Scheduler[Slot] = Scheduler(4, 512, stall=0.1)
    scheduler.add(long := Slot(5000, 1))
    assert scheduler.plan(known(machine)).prefill == ((long, 512),)
    scheduler.add(stream := Slot(10, 5))
    stream.pending = 0
    plan = scheduler.plan(known(machine))
    assert plan.decode == (stream,) and LEAST <= plan.prefill[0][1] < 90


def test_a_step_is_taken_alone_to_know_its_time() -> None:
    scheduler: Scheduler[Slot] = Scheduler(2, 512, STALL)
    stream = Slot(10, 5)
    stream.pending = 0
    for slot in (stream, Slot(300, 1)):
        scheduler.add(slot)
    pace = Pace()
    assert scheduler.plan(pace).prefill == ()
    pace.stepped()
    pace.done(0.01)
    assert scheduler.plan(pace).prefill


def test_prompts_move_on_where_the_bound_cannot_be_kept() -> None:
    machine = Machine(step=1.0)
    scheduler: Scheduler[Slot] = Scheduler(2, 512, STALL)
    long, stream = Slot(300, 1), Slot(10, 5)
    stream.pending = 0
    scheduler.add(stream)
    scheduler.add(long)
    assert scheduler.plan(known(machine)).prefill == ((long, LEAST),)


@pytest.mark.parametrize("rows", [1, 3])
def test_nobody_overtakes_one_who_is_not_admitted(rows: int) -> None:
    open_ = False
    scheduler: Scheduler[Slot] = Scheduler(4, 512, STALL, admits=lambda slot: open_ or slot.prompt < 100)
    first = [Slot(10, 1) for _ in range(rows)]
    large, small = Slot(1000, 1), Slot(10, 1)
    for slot in [*first, large, small]:
        scheduler.add(slot)
    scheduler.plan(Pace())
    assert scheduler.running == first and list(scheduler.waiting) == [large, small]
    open_ = True
    scheduler.plan(Pace())
    assert scheduler.running == [*first, large, small][: 4 if rows == 3 else 3]


def test_a_removed_slot_frees_its_row_wherever_it_was() -> None:
    scheduler: Scheduler[Slot] = Scheduler(1, 8, STALL)
    first, second, third = Slot(4, 1), Slot(4, 1), Slot(4, 1)
    for slot in (first, second, third):
        scheduler.add(slot)
    scheduler.plan(Pace())
    scheduler.remove(second)
    scheduler.remove(first)
    plan = scheduler.plan(Pace())
    assert plan.prefill == ((third, 4),)
    scheduler.remove(third)
    scheduler.remove(third)
    assert not scheduler.plan(Pace())
