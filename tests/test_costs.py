"""Closed forms against the release's numbers and against real arrays."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from qwen3_mlx import costs
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.kernels import resolve
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.types import KernelMode
from tests.golden.cases import CASES
from tests.model.build import random_weights
from tests.released import RELEASED

# billions of parameters: all, without embeddings, active for one token, as the release's model cards round them
CARDS = {
    "Qwen3-0.6B": (0.6, 0.44, None),
    "Qwen3-1.7B": (1.7, 1.4, None),
    "Qwen3-4B": (4.0, 3.6, None),
    "Qwen3-8B": (8.2, 6.95, None),
    "Qwen3-14B": (14.8, 13.2, None),
    "Qwen3-32B": (32.8, 31.2, None),
    "Qwen3-30B-A3B": (30.5, 29.9, 3.3),
    "Qwen3-235B-A22B": (235, 234, 22),
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_the_released_models(name: str) -> None:
    config = ModelConfig.from_dict(RELEASED[name])
    count = costs.parameters(config)
    total, layers, active = CARDS[name]
    assert count.total / 1e9 == pytest.approx(total, rel=0.015)
    assert count.layers / 1e9 == pytest.approx(layers, rel=0.015)
    if active is not None:
        # the cards count the embedding too
        assert (costs.active_parameters(config) + count.embedding) / 1e9 == pytest.approx(active, rel=0.02)


def test_exact_size_of_the_smallest_and_largest() -> None:
    assert costs.parameters(ModelConfig.from_dict(RELEASED["Qwen3-0.6B"])).total == 596_049_920
    assert costs.parameters(ModelConfig.from_dict(RELEASED["Qwen3-235B-A22B"])).total == 235_093_634_560


@pytest.mark.parametrize("name", CASES)
def test_weights_against_the_model_tree(name: str) -> None:
    config = ModelConfig.from_dict(CASES[name].config)
    arrays = [value for _, value in tree_flatten(Qwen3(config).parameters())]
    assert costs.parameters(config).total == sum(array.size for array in arrays)
    assert costs.weight_bytes(config, itemsize=4) == sum(array.nbytes for array in arrays)


def _packed_size(config: ModelConfig, spec: QuantSpec) -> int:
    size = 0
    for name, value in tree_flatten(Qwen3(config).parameters()):
        own = QuantSpec(8, 64) if name.endswith("mlp.gate.weight") else spec
        if value.ndim > 1 and value.shape[-1] % own.group_size == 0:
            arrays = mx.quantize(
                mx.zeros(value.shape, mx.bfloat16), group_size=own.group_size, bits=own.bits, mode=own.mode
            )
            size += sum(array.nbytes for array in arrays)
        else:
            size += value.size * 2
    return size


@pytest.mark.parametrize(
    "spec",
    [QuantSpec(4, 64), QuantSpec(8, 64), QuantSpec(6, 32), QuantSpec(3, 128), QuantSpec(4, 32, "mxfp4")],
    ids=str,
)
@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-8B", "Qwen3-30B-A3B"])
def test_packed_weights_against_unevaluated_arrays(name: str, spec: QuantSpec) -> None:
    config = ModelConfig.from_dict(RELEASED[name])
    assert costs.weight_bytes(config, spec=spec) == _packed_size(config, spec)


def test_widths_that_do_not_divide_stay_unpacked() -> None:
    config = ModelConfig.from_dict(CASES["moe-dense-layers"].config)  # inner widths of 96 and 48, groups of 64
    assert costs.weight_bytes(config, spec=QuantSpec(4, 64)) == _packed_size(config, QuantSpec(4, 64))
    assert costs.packed_bytes(480, 48, QuantSpec(4, 64)) == 480 * 2
    assert costs.packed_bytes(640, 64, QuantSpec(4, 64)) == 640 // 2 + 640 // 64 * 4


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=str)
def test_cache_against_real_buffers(kv_bits: int | None, dtype: mx.Dtype) -> None:
    for name in ("dense", "theta", "heads-6-2"):
        config = ModelConfig.from_dict(CASES[name].config)
        cache = KVCache(config, batch=2, dtype=dtype, kv_bits=kv_bits)
        shape = (2, config.num_key_value_heads, 10, config.head_dim)
        for layer in cache.layers:
            layer.append(entry(mx.zeros(shape), mx.zeros(shape), layer.packing))
        per_token = costs.kv_bytes_per_token(config, kv_bits, dtype.size)
        assert cache.nbytes == 2 * cache.capacity * per_token


def test_known_cache_sizes() -> None:
    """The 32k prefix of 30B-A3B that the architecture notes put at 3.2 GB."""
    config = ModelConfig.from_dict(RELEASED["Qwen3-30B-A3B"])
    assert costs.kv_bytes_per_token(config) * 32768 == pytest.approx(3.2e9, rel=0.01)
    assert costs.kv_bytes_per_token(config, 8) * 32768 == pytest.approx(3.2e9 * 8.5 / 16, rel=0.01)


def test_where_attention_costs_as_much_as_the_weights() -> None:
    """8B: 7.57e9 weights at work, 36 layers of 4096 query coordinates."""
    depth = costs.attention_depth(ModelConfig.from_dict(RELEASED["Qwen3-8B"]))
    assert depth == pytest.approx(7.57e9 / (2 * 36 * 4096), rel=0.01)


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Qwen3-0.6B", {"intermediate_size": 128}),
        ("Qwen3-0.6B", {"intermediate_size": 16384}),
        ("Qwen3-8B", {"intermediate_size": 128}),
        ("Qwen3-30B-A3B", {"moe_intermediate_size": 768, "num_experts": 16}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("rows", "length", "context"), [(1, 128, 256), (1, 64, 512), (4, 1, 512)])
def test_a_pass_never_takes_more_than_is_said(
    name: str, changes: dict[str, int], rows: int, length: int, context: int, kv_bits: int | None
) -> None:
    """Real heads, narrow otherwise; nor less than half of it."""
    narrow = {"hidden_size": 64, "vocab_size": 64, "num_hidden_layers": 2}
    model = Qwen3(ModelConfig.from_dict(RELEASED[name] | narrow | changes))
    random_weights(model)
    model.fuse()
    cache = KVCache(model.config, batch=rows, kv_bits=kv_bits, kernels=model.kernels)
    cache.reserve(context)
    shape = (rows, model.config.num_key_value_heads, context - length, model.config.head_dim)
    for layer in cache.layers:
        layer.append(entry(mx.zeros(shape), mx.zeros(shape), layer.packing))
        mx.eval(layer.buffers)
    tokens = mx.zeros((rows, length), mx.int32)
    mx.eval(tokens)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model.hidden(tokens, cache))
    taken = mx.get_peak_memory() - before
    said = costs.Footprint(model.config, 0, itemsize=4, kv_bits=kv_bits, scores=True).forward([(rows, context)], length)
    assert taken <= said < 2.2 * taken


@pytest.mark.parametrize("mode", ["reference", "emulate"])
@pytest.mark.parametrize("case", ["dense", "moe"])
def test_what_a_model_holds_beside_its_weights(case: str, mode: KernelMode) -> None:
    config = ModelConfig.from_dict(CASES[case].config)
    mx.clear_cache()
    before = mx.get_active_memory()
    model = Qwen3(config, resolve(mode))
    random_weights(model)
    model.fuse()
    held = mx.get_active_memory() - before
    weights = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    rounding = 1024  # by the allocator
    assert 0 <= held - weights - costs.derived_bytes(config, itemsize=4) < rounding


def test_a_footprint_grows_with_what_is_computed() -> None:
    footprint = costs.Footprint(ModelConfig.from_dict(RELEASED["Qwen3-8B"]), 5 * 10**9)
    drawing = 13 * 4 * footprint.config.vocab_size
    one = footprint.forward([(1, 512)], 512) - drawing
    assert footprint.forward([(1, 1024)], 1024) - drawing == 2 * one
    assert footprint.forward([(1, 4096)], 512) - drawing == one, "a fused attention holds no scores"
    assert replace(footprint, scores=True).forward([(1, 4096)], 512) > 3 * one
    assert footprint.peak([(8, 4096)], 512) > 5 * 10**9 + 8 * 4096 * costs.kv_bytes_per_token(footprint.config)


@given(limit=st.integers(5 * 10**9, 60 * 10**9), kv_bits=st.sampled_from([None, 8, 4]))
def test_the_tokens_that_fit_are_the_most_that_do(limit: int, kv_bits: int | None) -> None:
    footprint = costs.Footprint(ModelConfig.from_dict(RELEASED["Qwen3-8B"]), 5 * 10**9, kv_bits=kv_bits, unpacked=32768)
    tokens = footprint.tokens(limit, 512)
    assert not tokens or footprint.peak([(1, tokens)], 512) <= limit
    assert footprint.peak([(1, tokens + costs.CACHE_STEP)], 512) > limit
