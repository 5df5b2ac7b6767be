"""What is learned of passes, and what is forecast from it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_mlx.engine.pace import UNSEEN, Pace
from qwen3_mlx.engine.scheduler import USED


def learned(*passes: tuple[int, int, float], half: float = math.inf, step: float = 0.0) -> Pace:
    """A pace that has seen prefill passes of (tokens, depth, seconds)."""
    pace, now = Pace(half), 0.0
    if step:
        pace.stepped()
        pace.done(now := step)
    for count, depth, seconds in passes:
        pace.fed(count, depth)
        pace.done(now := now + seconds)
    return pace


def test_nothing_is_known_at_first() -> None:
    pace = Pace()
    assert pace.rate == 0 and pace.tokens(10.0, 0) == 0 and pace.seconds(1, 0) == math.inf


@given(count=st.integers(1, 5000), depth=st.integers(0, 40_000), half=st.sampled_from([500.0, 25_000.0, math.inf]))
def test_tokens_are_what_fits_into_the_forecast(count: int, depth: int, half: float) -> None:
    pace = learned((512, 0, 0.5), (512, 512, 0.6), half=half)
    fits = pace.tokens(pace.seconds(count, depth), depth)
    assert fits in (count, count - 1)
    assert pace.seconds(fits + 2, depth) > pace.seconds(count, depth)


def test_depth_costs_what_the_model_says() -> None:
    pace = learned((100, 0, 0.1 * (1 + 50 / 1000)), half=1000.0)
    assert pace.rate == pytest.approx(1000)
    assert pace.seconds(100, 950) == pytest.approx(0.2 * (1 + UNSEEN))


def test_a_pass_weighs_as_much_as_it_worked() -> None:
    """A few tokens take as long as reading the weights does, and say little about the rate."""
    pace = learned((1000, 0, 1.0), (10, 0, 0.1))
    assert pace.rate == pytest.approx(810 / 0.9)


def test_a_pass_is_never_forecast_to_take_less_than_a_step() -> None:
    pace = learned((1000, 0, 1.0), step=0.02)
    assert pace.seconds(1, 0) == 0.02 and pace.tokens(0.019, 0) == 0 and pace.tokens(0.021, 0) == int(21 / (1 + UNSEEN))


def test_a_step_s_time_is_told_from_that_of_the_prompts_beside_it() -> None:
    pace = learned(step=0.02)
    pace.stepped()
    pace.fed(100, 0)
    pace.done(0.02 + 0.12)
    assert pace.rate == pytest.approx(1000) and pace.step_s == 0.02


def test_time_in_which_nothing_ran_does_not_count() -> None:
    pace = Pace()
    pace.begin(100.0)
    pace.fed(50, 0)
    pace.done(100.5)
    assert pace.rate == pytest.approx(100)
    pace.stepped()
    pace.begin(200.0)
    pace.done(200.1)
    assert pace.step_s == 0


def test_lateness_makes_cautious_and_is_forgotten_slowly() -> None:
    steady = [(100, 0, 0.1)] * 1000
    assert learned(*steady).seconds(100, 0) == pytest.approx(0.1, rel=0.01)
    late = learned(*steady, (100, 0, 0.17))
    assert late.seconds(100, 0) > 0.17
    assert learned(*steady, (100, 0, 0.17), *steady[:30]).seconds(100, 0) > 0.15
    assert learned(*steady, (100, 0, 0.17), *steady).seconds(100, 0) == pytest.approx(0.1, rel=0.01)


def test_a_freak_pass_halves_what_comes_and_no_more() -> None:
    pace = learned(*[(100, 0, 0.1)] * 50, (100, 0, 9.0), *[(100, 0, 0.1)] * 50)
    assert 0.17 < pace.seconds(100, 0) <= 0.2 + 1e-3


@given(st.lists(st.sampled_from([0.1, 0.17]), max_size=80))
def test_a_processor_that_changes_between_two_speeds_surprises_by_no_more_than_is_kept_free(took: list[float]) -> None:
    """Once both were seen, and if the slow one comes back within some eighty passes."""
    pace = learned(*[(100, 0, 0.1)] * 20, (100, 0, 0.17))
    now = 0.0
    pace.begin(now)
    for seconds in [*took, 0.17]:
        assert pace.seconds(100, 0) >= USED * 0.17
        pace.fed(100, 0)
        pace.done(now := now + seconds)
