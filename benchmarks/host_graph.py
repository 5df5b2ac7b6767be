"""Host time to build one decode step's graph, nothing evaluated, against mlx-lm.

    python -m benchmarks.host_graph [--runs 20] [--position 1000] [--batch 1] [--model 8B]

On a GPU this work of the host hides behind the computation only as long as it is shorter. It depends on the number of
layers and not on their widths, so the models here have the released layer counts, head ratios and numbers of experts,
and small widths. Rows of a batch differ in length, as those of running requests do. Each is measured in three settings:

- ``cpu``: float weights on this machine, each side as it would run here;
- ``stock``: 4-bit weights and a GPU's operations, ours without its Metal kernels, every operation that is one kernel on
  a GPU (and many nodes on a CPU) as one node on both sides (:mod:`benchmarks.nodes`);
- ``kernels``: the same, ours with its Metal kernels, each as one node with its inputs and outputs.

The sides take turns, ten steps each, whose median is a sample: a step comes after one of its own side, as it does where
answers are written.
Beside them stands what the step of the released model takes on an M4 Max at least: its bytes (4-bit weights, experts as
often as rows choose them at random, a bf16 cache at ``--position``) at 546 GB/s. That is computed, not measured.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from qwen3_mlx.cache.groups import GroupedCache
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.chips import find
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.costs import bytes_by_role, step_bytes
from qwen3_mlx.engine.step import DecodeStep
from qwen3_mlx.kernels import Kernels, Lengths, resolve
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.linear import QuantizedEmbedding, QuantizedLinear, QuantizedSwitchLinear
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.names import groups
from qwen3_mlx.released import RELEASED

from .frame import Bench, benchmark
from .nodes import kernel_nodes, one_node
from .results import OURS, Measured, Quantity
from .sides import interleave

BUILD = Quantity("host time to build a decode step's graph", "ms", "model and setting")
BOUND = Quantity(
    "the least that such a step takes on an M4 Max: its bytes at 546 GB/s", "ms", "model", kind="predicted"
)

_COMMON = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 64,
    "vocab_size": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
(M4_MAX,) = find("M4 Max 40")
MODELS: dict[str, dict[str, Any]] = {
    "30B-A3B": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 128,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "8B": {
        **_COMMON,
        "model_type": "qwen3",
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "32B": {
        **_COMMON,
        "model_type": "qwen3",
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
SETTINGS = ("cpu", "stock", "kernels")
TURN = 10  # steps of one side before it is the other's


def weights(config: ModelConfig, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Small constant weights under MLX's names; their values do not matter, nothing is computed."""
    return {f"{leaf.path}.weight": mx.full(leaf.shape, 0.01, dtype) for group in groups(config) for leaf in group}


def ours(
    config: ModelConfig,
    kernels: Kernels,
    packed: bool,
    position: int,
    kv_bits: int | None = None,
    dtype: mx.Dtype = mx.float32,
    batch: int = 1,
    parts: int = 1,
) -> _Step:
    """A function that builds one step of our model at ``position``, of so many groups of ``batch`` rows, and leaves the
    cache as it was."""
    model = Qwen3(config, kernels)
    model.load_weights(list(weights(config, dtype).items()))
    if packed:
        for group in groups(config):
            for leaf in group:
                if leaf.kind != "norm":
                    _pack(model, leaf.path, leaf.kind, 8 if leaf.kind == "router" else 4)
    model.fuse()
    cache = GroupedCache([KVCache(config, batch, kernels=model.kernels, kv_bits=kv_bits) for _ in range(parts)])
    shape = (batch, config.num_key_value_heads, position, config.head_dim)
    for group in cache.groups:
        for layer in group.layers:
            layer.append(entry(mx.zeros(shape, dtype), mx.zeros(shape, dtype), layer.packing))
    mx.eval(cache.arrays)
    held, lengths = cache.arrays, [Lengths(tuple(position - i for i in range(batch)))] * parts
    token, step = mx.array([[1]] * cache.places), DecodeStep(model)

    def graph(token: mx.array) -> tuple[mx.array, ...]:
        out = step(token[:, 0], cache) if token.shape[1] == 1 else model(token, cache)
        return (out, *cache.arrays)

    def restore() -> None:
        cache.hold(list(map(mx.array, held)), lengths)

    cache.hold(held, lengths)

    return _Step(graph, token, restore)


def _pack(model: Qwen3, path: str, kind: str, bits: int) -> None:
    *above, name = path.split(".")
    parent: Any = model
    for step in above:
        parent = parent[int(step)] if step.isdigit() else getattr(parent, step)
    spec = QuantSpec(bits, 64)
    make = {"embedding": QuantizedEmbedding, "experts": QuantizedSwitchLinear}.get(kind, QuantizedLinear)
    arrays = mx.quantize(getattr(parent, name)["weight"], group_size=64, bits=bits)
    setattr(parent, name, make(arrays[0], arrays[1], arrays[2], spec))


def peer(
    source: dict[str, Any],
    config: ModelConfig,
    packed: bool,
    position: int,
    kv_bits: int | None = None,
    dtype: mx.Dtype = mx.float32,
    batch: int = 1,
) -> _Step:
    """The same of mlx-lm's model."""
    from mlx_lm.models import cache as caches
    from mlx_lm.models import qwen3, qwen3_moe

    module = qwen3 if config.model_type == "qwen3" else qwen3_moe
    model = module.Model(module.ModelArgs.from_dict(source))
    model.update(tree_unflatten(list(weights(config, dtype).items())))
    if packed:
        nn.quantize(model, 64, 4, class_predicate=lambda path, m: hasattr(m, "to_quantized") and _bits(path))
    mx.eval(model.parameters())
    if batch > 1:
        return _peer_batch(model, config, position, dtype, batch)
    cache = caches.make_prompt_cache(model)
    capacity = -(-(position + 1) // 256) * 256
    for layer in cache:
        shape = (1, config.num_key_value_heads, capacity, config.head_dim)
        layer.keys, layer.values, layer.offset = mx.zeros(shape, dtype), mx.zeros(shape, dtype), position
    mx.eval([(layer.keys, layer.values) for layer in cache])
    if kv_bits:
        cache = [layer.to_quantized(64, kv_bits) for layer in cache]
    held = [(layer.keys, layer.values) for layer in cache]
    token = mx.array([[1]])

    def graph(token: mx.array) -> tuple[mx.array, ...]:
        out = model(token, cache)
        return (out, *(array for _, array in tree_flatten([(layer.keys, layer.values) for layer in cache])))

    def restore() -> None:
        for layer, (keys, values) in zip(cache, held, strict=True):
            layer.keys, layer.values, layer.offset = tree_map(mx.array, keys), tree_map(mx.array, values), position

    return _Step(graph, token, restore)


def _peer_batch(model: Any, config: ModelConfig, position: int, dtype: mx.Dtype, batch: int) -> _Step:
    from mlx_lm.models.cache import BatchKVCache

    cache = [BatchKVCache(list(range(batch))) for _ in range(config.num_hidden_layers)]
    shape = (batch, config.num_key_value_heads, position, config.head_dim)
    for layer in cache:
        layer.update_and_fetch(mx.zeros(shape, dtype), mx.zeros(shape, dtype))
    held = [(layer.keys, layer.values, layer.offset, layer._idx) for layer in cache]
    mx.eval([arrays[:3] for arrays in held])
    token = mx.array([[1]] * batch)

    def graph(token: mx.array) -> tuple[mx.array, ...]:
        return (model(token, cache), *(array for layer in cache for array in (layer.keys, layer.values)))

    def restore() -> None:
        for layer, (keys, values, offset, index) in zip(cache, held, strict=True):
            layer.keys, layer.values, layer.offset = mx.array(keys), mx.array(values), mx.array(offset)
            layer._idx = index

    return _Step(graph, token, restore)


def _bits(path: str) -> dict[str, int]:
    return {"group_size": 64, "bits": 8 if path.endswith("mlp.gate") else 4}


class _Step:
    """``graph`` builds a step, ``restore`` takes it back; only the building is timed."""

    def __init__(
        self, graph: Callable[[mx.array], tuple[mx.array, ...]], token: mx.array, restore: Callable[[], None]
    ) -> None:
        self.graph, self.token, self.restore = graph, token, restore

    def __call__(self) -> float:
        """Milliseconds of this thread (so that other processes do not count)."""
        begun = time.thread_time()
        self.graph(self.token)
        spent = time.thread_time() - begun
        self.restore()
        return spent * 1e3


def policy(setting: str) -> Kernels:
    """What our side runs on in a setting; its kernels are taken as verified."""
    if setting == "cpu":
        return resolve("reference")
    stock = on_stock("metal")
    return on_metal(stock, lambda *_: True) if setting == "kernels" else stock


def compare(name: str, setting: str, runs: int, position: int, batch: int) -> dict[str, list[float]]:
    """Milliseconds of both sides, measured in turn: of each turn the median step."""
    config, packed = ModelConfig.from_dict(MODELS[name]), setting != "cpu"
    dtype = mx.bfloat16 if packed else mx.float32
    with one_node() if packed else contextlib.nullcontext(), kernel_nodes():
        sides = {
            OURS: ours(config, policy(setting), packed, position, dtype=dtype, batch=batch),
            "mlx-lm": peer(MODELS[name], config, packed, position, dtype=dtype, batch=batch),
        }
        gc.disable()
        try:
            return interleave({side: functools.partial(median, step) for side, step in sides.items()}, runs, warmup=2)
        finally:
            gc.enable()


def median(step: _Step) -> float:
    return statistics.median(step() for _ in range(TURN))


def bandwidth_bound(name: str, position: int, batch: int) -> float:
    """Milliseconds that an M4 Max needs to read what a step of the released model reads."""
    config = RELEASED[f"qwen3:{name.lower()}"]
    read = step_bytes(config, bytes_by_role(config, spec=QuantSpec(4, 64)), position, batch)
    return read / M4_MAX.bandwidth / 1e6


@benchmark(runs=20, model=None)
@click.option("--position", type=click.IntRange(1), default=1000, show_default=True, help="Tokens in the cache.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows.")
@click.option("--model", "models", type=click.Choice(list(MODELS)), multiple=True, help="Only this; may be repeated.")
def main(bench: Bench, position: int, batch: int, models: tuple[str, ...]) -> Iterator[Measured]:
    names = models or tuple(MODELS)
    for name in names:
        for setting in SETTINGS:
            yield BUILD.row(f"{name}, {setting}", compare(name, setting, bench.runs, position, batch))
    for name in names:
        yield BOUND.row(name, {"M4 Max": [bandwidth_bound(name, position, batch)]})


if __name__ == "__main__":
    sys.exit(main())
