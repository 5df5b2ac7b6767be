"""Measures a checkpoint on this machine: prompts and answers of one stream, through the engine that users have."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .. import costs, predict
from ..chips import Limit
from ..config import QuantSpec
from ..doctor import receipt as receipts
from ..doctor.machine import Machine
from ..errors import InvalidRequest
from ..hub import EMBEDDED
from ..hub.names import parse
from ..predict import Band
from ..types import Finished, SamplingParams, Timings
from .options import Options

if TYPE_CHECKING:
    from ..api import Qwen3

SCHEMA, VERSION = "qwen3-mlx/bench", 1
#: Tokens of the prompts, where nobody asks for others; of an answer; and how often each is measured.
CONTEXTS, ANSWER, RUNS = (256, 2048, 8192), 128, 5
#: What prompts are made of, over and over.
TEXT = (
    "The lighthouse keeper wrote down the weather four times a day: wind, cloud, the height of the sea, and which ships"
    " had passed. On the ninth of March the glass fell faster than he had ever seen it fall. "
)
#: Keeps an answer from ending before it has its tokens.
NEVER = -1e9


@dataclass(frozen=True, slots=True)
class Sample:
    """``prefill``, ``decode``: tokens/s of each run, for a prompt of ``context`` tokens and the ``tokens`` of answer
    behind it. ``read``: bytes that a step in the middle of the answer reads here. ``bound``: tokens/s that the chip's
    memory bandwidth allows at most, two where it is not known which variant this is; ``share``: the median of
    ``decode`` by that; both ``None`` where no bandwidth is known. ``predicted``: of the model in
    :mod:`qwen3_mlx.predict`, ``None`` where it says nothing."""

    context: int
    tokens: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    read: float
    bound: Limit | None
    share: Limit | None
    predicted: Band | None


@dataclass(frozen=True, slots=True)
class Model:
    """What was measured. ``name``: as it was asked for, but no path. ``bits``: of packed weights, ``None`` if they are
    not; ``held``: bytes of the weights in memory, by role, where a CPU holds them unpacked."""

    name: str
    layers: int
    hidden: int
    experts: int
    bits: int | None
    kv_bits: int | None
    held: costs.Parameters


@dataclass(frozen=True, slots=True)
class Receipt:
    """``mode``: which kernels ran."""

    schema: str
    version: int
    made: str
    mode: str
    machine: Machine
    model: Model
    samples: tuple[Sample, ...]


class Run(NamedTuple):
    """A prompt of ``context`` tokens with its answer; ``timings``: ``None`` of the first, which compiles."""

    context: int
    timings: Timings | None


def from_json(text: str) -> Receipt:
    """A receipt, read back. Raises ValueError that names the place of what does not fit."""
    made: Receipt = receipts.read(Receipt, text, SCHEMA, VERSION)
    return made


def contexts(asked: Sequence[int], longest: int) -> tuple[int, ...]:
    """The lengths of prompts to measure: those asked for, else the usual ones that leave room for the answer. Raises
    InvalidRequest where the model's context, ``longest``, leaves none."""
    fitting = tuple(each for each in dict.fromkeys(asked or CONTEXTS) if each + ANSWER <= longest)
    if not fitting or (asked and len(fitting) < len(set(asked))):
        raise InvalidRequest(
            f"a prompt of {max(asked or CONTEXTS[:1]):,} tokens and an answer of {ANSWER} do not fit in the model's"
            f" context of {longest:,}: give --context {max(longest - ANSWER, 1)} or less",
            "context",
        )
    return fitting


def runs(opened: Qwen3, context: int) -> Iterator[Run]:
    """One after the other; a run is begun when it is asked for. Raises what the engine raises, before the first run
    where the prompt does not fit."""
    ids = opened.tokenizer.encode(TEXT)
    prompt = (ids * (context // len(ids) + 1))[:context]
    never = dict.fromkeys(opened.tokenizer.eos_ids, NEVER)
    params = SamplingParams(temperature=0, max_tokens=ANSWER, logit_bias=never)
    for index in range(-1, RUNS):
        with opened.stream_raw(prompt, params=params) as events:
            last = next(event for event in events if isinstance(event, Finished))
        yield Run(context, None if index < 0 else last.timings)


def receipt(opened: Qwen3, options: Options, machine: Machine, mode: str, done: Sequence[Run]) -> Receipt:
    """What was measured, and beside it what this machine's chip allows."""
    config, spec = opened.config, _spec(opened, options)
    model = Model(
        name=_public(options.model or "demo"),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        experts=config.num_experts,
        bits=spec.bits if spec else None,
        kv_bits=options.kv_bits,
        held=opened.weight_bytes,
    )
    timed: dict[int, list[Timings]] = {}
    for run in done:
        if run.timings is not None:
            timed.setdefault(run.context, []).append(run.timings)
    samples = tuple(_sample(opened, model, spec, machine, mode, context, each) for context, each in timed.items())
    return Receipt(SCHEMA, VERSION, receipts.now(), mode, machine, model, samples)


def _sample(
    opened: Qwen3,
    model: Model,
    spec: QuantSpec | None,
    machine: Machine,
    mode: str,
    context: int,
    timed: Sequence[Timings],
) -> Sample:
    config, middle = opened.config, context + ANSWER // 2
    itemsize = model.held.norms // costs.parameters(config).norms
    read = costs.step_bytes(config, model.held, middle, kv_bits=model.kv_bits, itemsize=itemsize)
    decode = tuple(each.decode_tps for each in timed)
    limit, bound, share, predicted = machine.bandwidth, None, None, None
    if limit is not None:
        bound = Limit(predict.bound(read, limit.low), predict.bound(read, limit.high))
        median = statistics.median(decode)
        share = Limit(median / bound.high, median / bound.low)
        launches = costs.dispatches(config, spec, middle, kv_bits=model.kv_bits) if mode == "metal" else None
        if launches is not None and limit.low == limit.high:
            predicted = predict.band(read, launches, limit.low)
    prefill = tuple(each.prefill_tps for each in timed)
    return Sample(context, ANSWER, prefill, decode, read, bound, share, predicted)


def _spec(opened: Qwen3, options: Options) -> QuantSpec | None:
    """How the weights were packed when they were loaded."""
    own = opened.config.quantization
    if own is not None:
        return QuantSpec(own.bits, own.group_size, own.mode)
    return QuantSpec(options.bits) if options.bits else None


def _public(name: str) -> str:
    """A model's name for a receipt, which tells nobody where somebody keeps files."""
    return name if name in EMBEDDED or parse(name).kind != "folder" else "a folder"
