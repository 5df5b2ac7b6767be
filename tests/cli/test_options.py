from __future__ import annotations

import dataclasses

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_mlx.cli.options import Number, Options, Width, model_options
from qwen3_mlx.types import SamplingParams


def parse(*args: str) -> Options:
    seen: list[Options] = []
    command = click.command("x")(model_options(lambda options: seen.append(options)))
    with command.make_context("x", list(args)) as context:
        command.invoke(context)
    return seen[0]


def test_nothing_given_leaves_everything_to_the_checkpoint() -> None:
    assert parse() == Options(params=SamplingParams())


def test_every_option_reaches_its_field() -> None:
    options = parse(
        *("--model", "qwen3:4b", "--bits", "4", "--kv-bits", "8", "--context", "100", "--kernels", "reference"),
        "--deterministic",
        *("--no-thinking", "--thinking-budget", "7", "--max-tokens", "9", "--temp", "0.5", "--top-p", "0.9"),
        *("--top-k", "3", "--min-p", "0.1", "--repetition-penalty", "1.05", "--presence-penalty", "1.5"),
        *("--frequency-penalty", "-0.5", "--seed", "0", "--stop", "a", "--stop", "b\n"),
    )
    params = SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.05,
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        seed=0,
        max_tokens=9,
        stop=("a", "b\n"),
    )
    assert options == Options("qwen3:4b", 4, 8, 100, "reference", True, False, 7, params)
    assert {f.name for f in dataclasses.fields(SamplingParams)} - {"logit_bias", "logprobs"} == {
        name for name in SamplingParams.__slots__ if getattr(params, name) is not None
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--max-tokens", "0"), "'--max-tokens': must be at least 1, not 0"),
        (("--temp", "-1"), "'--temp': must be at least 0 (0 is greedy), not -1"),
        (("--temp", "nan"), "must be at least 0"),
        (("--temp", "inf"), "must be at least 0"),
        (("--temp", "hot"), "'hot' is no number; it must be at least 0"),
        (("--top-p", "1.5"), "above 0, at most 1"),
        (("--top-p", "0"), "above 0, at most 1"),
        (("--top-k", "1.5"), "'1.5' is no integer"),
        (("--min-p", "-0.1"), "between 0 and 1"),
        (("--repetition-penalty", "0"), "above 0"),
        (("--presence-penalty", "inf"), "a finite number"),
        (("--seed", "1.0"), "a whole number"),
        (("--thinking-budget", "-1"), "at least 0 tokens"),
        (("--context", "1"), "at least 2 tokens"),
        (("--kv-bits", "16"), "must be one of 4, 8, not 16"),
        (("--bits", "7"), "must be one of 2, 3, 4, 5, 6, 8, not 7"),
        (("--stop", ""), "an empty stop string would stop everything"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_what_would_do(args: tuple[str, ...], says: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parse(*args)
    assert says in refused.value.format_message()


@given(st.integers(-5, 15))
def test_number_keeps_to_its_bounds(value: int) -> None:
    kind = Number(int, 0, 10, hint="between 0 and 10")
    if 0 <= value <= 10:
        assert kind.convert(str(value), None, None) == value
    else:
        with pytest.raises(click.BadParameter):
            kind.convert(str(value), None, None)


def test_width_takes_integers_only() -> None:
    assert Width(4, 8).convert("4", None, None) == 4
    with pytest.raises(click.BadParameter):
        Width(4, 8).convert("4.0", None, None)


def test_widths_are_those_that_weights_can_be_packed_to() -> None:
    from qwen3_mlx.packing import BITS  # brings mlx with it: too late and too slow for an option's own definition

    bits = next(option for option in model_options(lambda options: None).__click_params__ if option.name == "bits")
    assert bits.type.widths == BITS
