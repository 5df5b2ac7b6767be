"""Closed forms against the release's numbers and against real arrays."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from benchmarks import host_graph
from benchmarks.dispatches import launches
from qwen3_mlx import costs
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.kernels import decode_attention, resolve
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.types import KernelMode
from tests.golden.cases import CASES
from tests.model.build import random_weights
from tests.released import RELEASED

#: What the names of arrays say of their role, the first that fits.
ROLES = {
    "norm.weight": "norms",
    "layernorm": "norms",
    "embed_tokens": "embedding",
    "lm_head": "head",
    "self_attn": "attention",
    "switch_mlp": "experts",
    "mlp.gate.": "router",
    "mlp": "mlp",
}
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


@pytest.mark.parametrize("spec", [None, QuantSpec(4, 64), QuantSpec(6, 32)], ids=str)
@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-8B", "Qwen3-30B-A3B"])
def test_bytes_by_role_against_unevaluated_arrays(name: str, spec: QuantSpec | None) -> None:
    """Told apart by the names of the arrays."""
    config = ModelConfig.from_dict(RELEASED[name])
    held = costs.bytes_by_role(config, spec=spec)
    found = dict.fromkeys((field.name for field in fields(held)), 0)
    for path, value in tree_flatten(Qwen3(config).parameters()):
        role = next(role for sign, role in ROLES.items() if sign in path)
        own = spec and (costs.ROUTER if role == "router" else spec)
        packed = own and value.ndim > 1
        found[role] += value.size * 2 if not packed else costs.packed_bytes(value.size, value.shape[-1], own)
    assert asdict(held) == found
    assert held.total == costs.weight_bytes(config, spec=spec)


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


# -- a decode step -----------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_step_of_8b_by_hand() -> None:
    """4.5 bits a weight with its share of scale and bias; norms in 16 bits; a position's keys and values are 147,456
    bytes."""
    config = ModelConfig.from_dict(RELEASED["Qwen3-8B"])
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12288
    weights = (36 * layer + 151936 * 4096) * 4.5 / 8 + (36 * 2 * (4096 + 128) + 4096) * 2
    read = costs.step_bytes(config, costs.bytes_by_role(config, spec=QuantSpec(4, 64)), 1000)
    assert read == weights + 1000 * 36 * 2 * 1024 * 2
    assert read == pytest.approx(4.26e9 + 0.147e9, rel=0.002)


def test_the_bytes_of_a_step_of_30b_a3b_by_hand() -> None:
    """8 experts of 128, 8.5 bits a weight of a router; of a cache of 8 bits 8.5 a value."""
    config = ModelConfig.from_dict(RELEASED["Qwen3-30B-A3B"])
    attention, experts, router = 2048 * (4096 + 2 * 512) + 4096 * 2048, 8 * 3 * 2048 * 768, 128 * 2048
    weights = (48 * (attention + experts) + 151936 * 2048) * 4.5 / 8 + 48 * router * 8.5 / 8
    weights += (48 * 2 * (2048 + 128) + 2048) * 2
    held = costs.bytes_by_role(config, spec=QuantSpec(4, 64))
    assert costs.step_bytes(config, held, 0) == pytest.approx(weights, rel=1e-12)
    assert weights == pytest.approx(1.71e9, rel=0.01)
    assert costs.step_bytes(config, held, 4096, kv_bits=8) == pytest.approx(weights + 4096 * 48 * 1024 * 8.5 / 8)


def test_experts_that_rows_choose() -> None:
    config = ModelConfig.from_dict(RELEASED["Qwen3-30B-A3B"])
    assert costs.chosen_experts(config, 1) == pytest.approx(8)
    assert costs.chosen_experts(config, 2) == pytest.approx(8 + 8 - 64 / 128)  # two sets of 8 share half a one
    assert costs.chosen_experts(config, 63) < 128


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_is_read_where_it_is_the_head(tied: bool) -> None:
    config = replace(ModelConfig.from_dict(RELEASED["Qwen3-8B"]), tie_word_embeddings=tied)
    held = costs.bytes_by_role(config)
    assert costs.step_bytes(config, held, 0) == held.layers + (held.embedding if tied else held.head)


@pytest.mark.parametrize(
    ("kv_bits", "context", "rows"),
    [
        *((None, 300, rows) for rows in (1, 7, 8, 9, 63)),
        *((*cache, rows) for cache in ((8, 255), (8, 257), (4, 511), (4, 513)) for rows in (1, 9)),
    ],
)
@pytest.mark.parametrize("bits", [4, 3, None])
@pytest.mark.parametrize("name", ["8B", "30B-A3B"])
def test_launches_of_a_step_against_its_graph(
    name: str, bits: int | None, kv_bits: int | None, context: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig.from_dict({**host_graph.MODELS[name], "num_hidden_layers": 2})
    if bits is not None:
        pack = host_graph._pack
        monkeypatch.setattr(
            host_graph, "_pack", lambda model, path, kind, its: pack(model, path, kind, bits if its == 4 else its)
        )
    kernels = on_metal(on_stock("metal"), lambda *_: True)
    step = host_graph.ours(config, kernels, bits is not None, context, kv_bits, mx.bfloat16, batch=rows)
    counted = launches(step.graph, mx.array([[1]] * rows)).total()
    spec = None if bits is None else QuantSpec(bits, 64)
    assert costs.dispatches(config, spec, context, rows, kv_bits) == counted


def test_launches_of_released_models() -> None:
    """The table of benchmarks/README.md."""
    moe, dense = (ModelConfig.from_dict(RELEASED[f"Qwen3-{name}"]) for name in ("30B-A3B", "8B"))
    assert costs.dispatches(moe, QuantSpec(4, 64), 1000) == 48 * 14 + 5 == 677
    assert costs.dispatches(dense, QuantSpec(4, 64), 1000) == 36 * 13 + 5 == 473
    assert costs.dispatches(moe, QuantSpec(4, 64), 1000, kv_bits=8) == 678
    assert costs.dispatches(dense, QuantSpec(4, 64), 1000, kv_bits=8) == 474
    assert costs.dispatches(moe, QuantSpec(4, 64), 1000, rows=64) is None
    assert costs.dispatches(replace(dense, head_dim=96), QuantSpec(4, 64), 1000) is None
    assert costs.dispatches(replace(dense, num_attention_heads=24), QuantSpec(4, 64), 1000) is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sharing", [1, 2, 4, 5, 8, 16])
def test_blocks_are_those_of_the_kernel(sharing: int, bits: int) -> None:
    assert costs.attention_block(sharing, bits) == decode_attention.block_size(sharing, bits)
