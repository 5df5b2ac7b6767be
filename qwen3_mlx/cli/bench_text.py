"""What `qwen3-mlx bench` prints: predictions for a chip, and measurements of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..chips import Chip, Limit
from ..predict import CACHES, LABEL, Band, Setting
from .bench_predict import SMALL, Forecast, Found, assumptions, smallest
from .terminal import columns

if TYPE_CHECKING:
    from .bench_run import Receipt, Sample


def predicted(found: Found) -> None:
    """A table for each variant of the chip."""
    setting = found[0][1][0].setting
    print(f"{LABEL}: what memory bandwidth allows, and what of that to expect")
    print(_conditions(setting))
    for chip, models in found:
        cores, memory = _or(chip.gpu_cores), _or(chip.memory)
        print(f"\nApple {chip.name}, {cores} GPU cores: {chip.bandwidth} GB/s, {memory} GB")
        _table(chip, models)
    print()
    print(*assumptions(setting, smallest(found)), sep="\n")


def _conditions(setting: Setting) -> str:
    spec = setting.spec
    weights = f"of {spec.bits} bits (groups of {spec.group_size})" if spec else "in bf16"
    cache = f"{setting.kv_bits} bits" if setting.kv_bits else "bf16"
    rows = f", {setting.rows} rows together" if setting.rows > 1 else ""
    return f"weights {weights}, cache in {cache}, {setting.context:,} tokens of context{rows}"


def _table(chip: Chip, models: Sequence[Forecast]) -> None:
    fitting = [each for each in models if each.prediction.fits is not None]
    if fitting:
        head = ("MODEL", "READ A STEP", "LAUNCHES", "BOUND TOK/S", "PREDICTED", "FITS FROM")
        print(*columns([head, *map(_row, fitting)]), sep="\n")
    if len(models) == 1:
        sizes = models[0].prediction.longest.items()
        longest = [f"{memory} GB {tokens:,} tokens" for memory, tokens in sizes if tokens]
        print(f"longest conversation: {', '.join(longest) or 'none: the model does not fit'}")
    elif left := [each.model for each in models if each not in fitting]:
        print(f"does not fit in {chip.memory[-1]} GB: {', '.join(left)}")


def _row(each: Forecast) -> tuple[str, ...]:
    found = each.prediction
    launches = "-" if found.launches is None else str(found.launches)
    return each.model, size(found.read), launches, rate(found.bound), band(found.band), f"{found.fits} GB"


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
    if min(each.read for each in made.samples) < CACHES:
        print(SMALL)
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
