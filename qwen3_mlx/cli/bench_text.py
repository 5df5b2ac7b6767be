"""What `qwen3-mlx bench` prints: predictions for a chip, and measurements of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..chips import Chip, Limit
from ..predict import FAST, LABEL, SLOW, Band, Prediction, Setting
from .terminal import columns

if TYPE_CHECKING:
    from .bench_run import Receipt, Sample

#: Predictions of models, by their names.
Predictions = Mapping[str, Prediction]


def predicted(found: Sequence[tuple[Chip, Predictions]], setting: Setting, packed: str) -> None:
    """A table for each variant of the chip; ``packed``: how the weights are, in words."""
    print(f"{LABEL}: what memory bandwidth allows, and what of that to expect")
    rows = "" if setting.rows == 1 else f", {setting.rows} rows, together"
    cache = f"{setting.kv_bits} bits" if setting.kv_bits else "bf16"
    print(f"weights {packed}, cache in {cache}, {setting.context:,} tokens of context{rows}")
    for chip, models in found:
        cores, memory = _or(chip.gpu_cores), _or(chip.memory)
        print(f"\nApple {chip.name}, {cores} GPU cores: {chip.bandwidth} GB/s, {memory} GB")
        _table(chip, models)
    print()
    for line in assumptions(setting):
        print(line)


def _table(chip: Chip, models: Predictions) -> None:
    fitting = {name: each for name, each in models.items() if each.fits is not None}
    if fitting:
        head = ("MODEL", "READ A STEP", "LAUNCHES", "BOUND TOK/S", "PREDICTED", "FITS FROM")
        lines = columns([head, *(_row(name, each) for name, each in fitting.items())])
        print(*lines, sep="\n")
    if len(models) == 1:
        for each in models.values():
            longest = (f"{memory} GB {tokens:,} tokens" for memory, tokens in each.longest.items() if tokens)
            print(f"longest conversation: {', '.join(longest) or 'none: the model does not fit'}")
    elif left := [name for name in models if name not in fitting]:
        print(f"does not fit in {chip.memory[-1]} GB: {', '.join(left)}")


def _row(name: str, each: Prediction) -> tuple[str, ...]:
    launches = "-" if each.launches is None else str(each.launches)
    return name, size(each.read), launches, rate(each.bound), band(each.band), f"{each.fits} GB"


def assumptions(setting: Setting) -> list[str]:
    """What the numbers stand on."""
    if setting.rows == 1:
        how = (
            f"predicted: {100 * SLOW.share:.0f} % of the bandwidth and {1e6 * SLOW.launch:g} us a launch, to"
            f" {100 * FAST.share:.0f} % and {1e6 * FAST.launch:g} us; that holds what others have published of mlx-lm,"
            " given its launches"
        )
    else:
        how = "predicted: nothing for several rows, because nothing published says what they reach"
    return [
        how,
        "fits: two thirds of up to 36 GB are for the GPU, three quarters of more",
        "not in it: prompts, the host, a chip that throttles; measure with qwen3-mlx bench --model NAME",
    ]


def measured(made: Receipt) -> None:
    """The table of what was measured, and the bound beside it."""
    machine, model = made.machine, made.model
    cores = f", {machine.gpu_cores} GPU cores" if machine.gpu_cores else ""
    packed = f"{model.bits} bits" if model.bits else "not packed"
    cache = f"{model.kv_bits} bits" if model.kv_bits else "not packed"
    print(f"{model.name}, weights {packed}, cache {cache}, {made.mode} kernels")
    print(f"on {machine.chip}{cores}, {machine.system}, mlx {machine.packages.get('mlx')}")
    runs = len(made.samples[0].decode)
    tokens = made.samples[0].tokens
    print(f"tokens/s of one stream, {tokens} tokens of answer, greedy: median (least to most) of {runs} runs\n")
    known = machine.bandwidth is not None
    head = ("PROMPT", "PREFILL", "DECODE", "READ A STEP", *(("BOUND", "OF BOUND", "PREDICTED") if known else ()))
    print(*columns([head, *(_measured(each, known) for each in made.samples)], words=0), sep="\n")
    print()
    if machine.bandwidth is None:
        why = "its memory bandwidth is not known" if machine.metal else "it has no Apple GPU"
        print(f"no bound is known for this machine: {why}")
        return
    print(f"bound: {span(machine.bandwidth, '{:g}')} GB/s by the bytes read; predicted: {LABEL}")


def _measured(each: Sample, known: bool) -> tuple[str, ...]:
    row = (f"{each.context:,}", spread(each.prefill), spread(each.decode), size(each.read))
    if not known:
        return row
    assert each.bound is not None and each.share is not None
    share = span(Limit(100 * each.share.low, 100 * each.share.high), "{:.0f}")
    return (*row, span(each.bound, "{:.0f}"), f"{share} %", band(each.predicted))


def spread(rates: Sequence[float]) -> str:
    return f"{rate(statistics.median(rates))} ({rate(min(rates))} to {rate(max(rates))})"


def rate(value: float) -> str:
    """Tokens/s."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def band(found: Band | None) -> str:
    return "-" if found is None else f"{rate(found.low)} to {rate(found.high)}"


def span(limit: Limit, form: str) -> str:
    """One number, or two where it is not known which it is."""
    low, high = form.format(limit.low), form.format(limit.high)
    return low if low == high else f"{low} or {high}"


def size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _or(values: Sequence[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
