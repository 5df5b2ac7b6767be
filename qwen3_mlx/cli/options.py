"""The options every command that talks to a model takes: one decorator, one value object.

Values are checked here, before a checkpoint is touched, so that a slip costs no waiting.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any

import click

from ..types import KernelMode, SamplingParams
from ..values import frozen


@frozen
class Options:
    """Which model answers, and how. ``model=None`` is the embedded demo."""

    model: str | None = None
    bits: int | None = None
    kv_bits: int | None = None
    context: int | None = None
    kernels: KernelMode | None = None
    deterministic: bool = False
    thinking: bool = True
    thinking_budget: int | None = None
    params: SamplingParams = field(default_factory=SamplingParams)


class Number(click.ParamType):
    """A finite number within bounds; the message of a refusal says what would do."""

    def __init__(
        self, kind: type[int] | type[float], low: float = -math.inf, high: float = math.inf, *, hint: str
    ) -> None:
        self.kind, self.low, self.high, self.hint = kind, low, high, hint
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no {self.name}; it must be {self.hint}", param, ctx)
        if not (math.isfinite(number) and self.low <= number <= self.high):
            self.fail(f"must be {self.hint}, not {value}", param, ctx)
        return number


class Width(click.ParamType):
    """A number of bits out of a few."""

    name = "bits"

    def __init__(self, *widths: int) -> None:
        self.widths = widths

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if str(value) not in map(str, self.widths):
            self.fail(f"must be one of {', '.join(map(str, self.widths))}, not {value}", param, ctx)
        return int(value)


class StopString(click.ParamType):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("an empty stop string would stop everything: leave the option out, or give it text", param, ctx)
        return str(value)


_MODEL = (
    click.option("--model", metavar="NAME", help="A path, ORG/NAME, or an alias such as qwen3:4b. Default: demo."),
    click.option("--bits", type=Width(2, 3, 4, 5, 6, 8), help="Quantize an unquantized checkpoint while loading."),
    click.option("--kv-bits", type=Width(4, 8), help="Keep the cache of keys and values at this width."),
    click.option("--context", type=Number(int, 2, hint="at least 2 tokens"), help="Longest conversation, in tokens."),
    click.option("--kernels", type=click.Choice(["auto", "reference", "metal", "emulate"]), help="Which kernels run."),
    click.option(
        "--deterministic",
        is_flag=True,
        help="With --seed the same tokens, whatever runs beside; on a GPU prompts take longer.",
    ),
)
_THINKING = (
    click.option("--thinking/--no-thinking", default=True, help="Think before answering (the default)."),
    click.option(
        "--thinking-budget",
        type=Number(int, 0, hint="at least 0 tokens (0 ends the thinking at once)"),
        help="Tokens of thinking after which the answer is asked for.",
    ),
)
_SAMPLING = (
    click.option("--max-tokens", type=Number(int, 1, hint="at least 1"), help="Most new tokens."),
    click.option("--temp", "temperature", type=Number(float, 0, hint="at least 0 (0 is greedy)"), help="Temperature."),
    click.option(
        "--top-p", type=Number(float, 1e-9, 1, hint="above 0, at most 1 (1 is off)"), help="Nucleus sampling."
    ),
    click.option("--top-k", type=Number(int, 0, hint="at least 0 (0 is off)"), help="Only the K likeliest tokens."),
    click.option(
        "--min-p",
        type=Number(float, 0, 1, hint="between 0 and 1 (0 is off)"),
        help="Only tokens at least this likely, relative to the likeliest.",
    ),
    click.option(
        "--repetition-penalty", type=Number(float, 1e-6, hint="above 0 (1 is off)"), help="Divides seen tokens' logits."
    ),
    click.option(
        "--presence-penalty",
        type=Number(float, hint="a finite number (0 is off)"),
        help="Lowers tokens generated before; 1.5 helps against endless repetition.",
    ),
    click.option(
        "--frequency-penalty",
        type=Number(float, hint="a finite number (0 is off)"),
        help="Lowers tokens by how often they were generated.",
    ),
    click.option("--seed", type=Number(int, hint="a whole number"), help="Repeat the same draws."),
    click.option("--stop", type=StopString(), multiple=True, help="Stop before this text; may be given repeatedly."),
)
_MODEL_FIELDS = tuple(f.name for f in fields(Options) if f.name != "params")
_PARAMS_FIELDS = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command; it receives them as one ``options: Options``."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        params = SamplingParams(**{name: given.pop(name) for name in _PARAMS_FIELDS})
        options = Options(**{name: given.pop(name) for name in _MODEL_FIELDS}, params=params)
        return function(options=options, **given)

    return _with(_MODEL + _THINKING + _SAMPLING, command)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a command whose requests say by themselves how to draw."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        return function(options=Options(**{name: given.pop(name) for name in _MODEL_FIELDS}), **given)

    return _with(_MODEL + _THINKING, command)


def _with(options: tuple[Any, ...], command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
