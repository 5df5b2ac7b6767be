"""Predicted against measured peak bytes, over a grid of models, batches, contexts and caches.

    python -m benchmarks.admission [--quick]

Random weights, narrow but with the layers, heads and head widths of released models. What is predicted is
``Footprint.peak``, by which requests are admitted, of the rows as they lie when the last one comes; where several are
on their way at once, admission adds what they may waste until all have come. What is measured is
``mx.get_peak_memory`` over the whole life of the rows on the engine's runner: the last chunk of each prompt, joining
the batch, steps, growth, and more steps. (What comes before the last chunk of a prompt is put into the caches as zeros:
it needs less than the chunk that is run.) On a CPU, where attention holds its scores, and in the arithmetic of
``--kernels emulate`` for the bf16 cache.
"""

from __future__ import annotations

import argparse
import itertools
import threading
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx
from mlx.utils import tree_map

from qwen3_mlx.cache.prefix import PrefixCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.engine.grouping import groups
from qwen3_mlx.engine.memory import Memory, planned
from qwen3_mlx.engine.row import Clock, Row
from qwen3_mlx.engine.runner import Runner
from qwen3_mlx.kernels import resolve
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.types import Request, SamplingParams

from .sides import machine

CHUNK = 64
NARROW = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512}
_HEADS = {"model_type": "qwen3", "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}
_EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "moe_intermediate_size": 64,
}
MODELS: dict[str, dict[str, Any]] = {
    "0.6B": {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
    "8B": {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8},
    "30B-A3B": {"num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, **_EXPERTS},
}
GREEDY = SamplingParams(
    temperature=0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)


class Point(NamedTuple):
    """``prompts``: their lengths, a row each; ``answer``: tokens that are generated of each; ``cache``: ``float32``,
    ``bf16``, or bits."""

    model: str
    prompts: tuple[int, ...]
    answer: int
    cache: str

    @property
    def kv_bits(self) -> int | None:
        return int(self.cache) if self.cache.isdigit() else None


class Peak(NamedTuple):
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def build(point: Point, beside: bool = False) -> Runner:
    """Rows lie as on a GPU, unless in two parts ``beside`` each other: no more memory, and often less."""
    source = {**_HEADS, **MODELS[point.model], **NARROW, "max_position_embeddings": 40960}
    kernels = replace(resolve("emulate" if point.cache == "bf16" else "reference"), beside=beside)
    model = Qwen3(ModelConfig.from_dict(source), kernels)
    mx.random.seed(0)
    dtype = mx.bfloat16 if point.cache == "bf16" else mx.float32
    model.update(tree_map(lambda w: (0.05 * mx.random.normal(w.shape)).astype(dtype), model.parameters()))
    mx.eval(model.parameters())
    model.fuse()
    return Runner(model, model.config, PrefixCache(0), point.kv_bits)


def fill(runner: Runner, row: Row, count: int) -> None:
    """As if so many tokens of the prompt had been through the model."""
    assert row.cache is not None
    config, dtype = runner.config, runner.model.model.norm.weight.dtype
    for layer in row.cache.layers:
        for first in range(0, count, CHUNK):  # as chunks do: packing takes memory, too
            zeros = mx.zeros((1, config.num_key_value_heads, min(CHUNK, count - first), config.head_dim), dtype)
            layer.append(entry(zeros, zeros, layer.packing))
            mx.eval(layer.buffers)
    del row.feed[:count]
    row.held = count


def play(runner: Runner, memory: Memory, point: Point) -> int:
    """The rows' whole life, growing as the token loop has it; returns the most that was predicted when one came."""
    rows: list[Row] = []
    predicted = 0
    for length in point.prompts:
        request = Request((1,) * length, GREEDY)
        row = Row(request, mock.Mock(), print, Clock(0.0), tokens=[1] * length, feed=[1] * length)
        row.bound = length + point.answer
        rows.append(row)
    for index, row in enumerate(rows):
        held = [*runner.held(rows[:index]), planned(row)]
        predicted = max(predicted, runner.footprint.peak(groups(held), CHUNK))
        runner.start(row)
        fill(runner, row, len(row.feed) - CHUNK)
        runner.prefill(row, CHUNK)
        runner.join([row])
        step(runner, memory, rows)
    for _ in range(point.answer - len(rows)):
        step(runner, memory, rows)
    for row in rows:
        runner.leave(row, keep=False)
    return predicted


def step(runner: Runner, memory: Memory, rows: list[Row]) -> None:
    if full := runner.full:
        runner.grow(full, memory.grow(full, runner.held([row for row in rows if row not in full])))
    runner.read(runner.step())


def measure(point: Point, beside: bool = False) -> Peak:
    box: list[Peak] = []

    def run() -> None:  # on a thread, as in the engine
        before = mx.get_active_memory()
        runner = build(point, beside)
        memory = Memory(runner.footprint, 1 << 50, CHUNK, runner.prefixes)
        mx.clear_cache()
        mx.reset_peak_memory()
        predicted = play(runner, memory, point)
        box.append(Peak(predicted, mx.get_peak_memory() - before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    mx.clear_cache()
    return box[0]


def grid(quick: bool) -> list[Point]:
    if quick:
        return [Point("0.6B", (500,) * 2, 20, cache) for cache in ("float32", "bf16", "8", "4")]
    models, caches = tuple(MODELS), ("float32", "bf16", "8", "4")
    points = [Point(m, (1000,) * b, 12, c) for b, m, c in itertools.product((1, 2), models, caches)]
    # At 1020 and 4080 they grow; rows of several lengths lie in two, two, three, and of five lengths in four groups.
    # Most is held when the longest comes last.
    kinds = [(1000,) * 4, (1000,) * 8, (100, 100, 100, 2000), (1020,) * 4, (4080,)]
    kinds += [(*(100,) * 7, 6000), (1500, 250, 1520, 100, 4080), (100, 1000, 2000, 3500, 5000)]
    for prompts, offset in zip(kinds, range(len(kinds)), strict=True):
        points += [Point(models[(i + offset) % 3], prompts, 12, cache) for i, cache in enumerate(caches)]
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four points")
    points, ratios = grid(parser.parse_args().quick), []
    print("  model     rows  tokens cache     predicted MB  measured MB  ratio")
    for point in points:
        peak = measure(point)
        ratios.append(peak.ratio)
        tokens = max(point.prompts) + point.answer
        mixed = "" if len(set(point.prompts)) == 1 else f" (others {min(point.prompts)})"
        print(f"  {point.model:8} {len(point.prompts):5} {tokens:7} {point.cache:8}", end="")
        print(f" {peak.predicted / 1e6:13.1f} {peak.measured / 1e6:12.1f} {peak.ratio:6.3f}{mixed}", flush=True)
    print(f"  {len(ratios)} points: ratio {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
