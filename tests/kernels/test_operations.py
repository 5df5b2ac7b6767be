"""Each operation against its formula in float64, for every implementation that this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.config import RopeConfig
from qwen3_mlx.kernels import DenseView, Kernels, Lengths, PackedView, Packing, norms, resolve, stock
from qwen3_mlx.kernels.packed_rows import pack, scale_dtype, unpack
from qwen3_mlx.kernels.reference import SORT_FROM
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.linear import QuantizedSwitchLinear, SwitchLinear, TransposedSwitchLinear
from qwen3_mlx.model.rope import frequencies

EPS = 1e-6


@pytest.fixture(params=["reference", "emulate"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return resolve(request.param)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def close(got: mx.array, want: np.ndarray, tolerance: float = 2e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(np.array(got.astype(mx.float32)) - want).max() < tolerance * max(1.0, np.abs(want).max())


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e3])
def test_rms_norm(kernels: Kernels, rows: int, size: float) -> None:
    x, weight = draw(2, rows, 96) * np.float32(size), draw(96, seed=1)
    close(kernels.rms_norm(mx.array(x), mx.array(weight), EPS), norm(x, weight))


def test_rms_norm_keeps_the_dtype_and_sums_in_float32(kernels: Kernels) -> None:
    x = mx.array(draw(1, 1, 4096) * 100).astype(mx.bfloat16)
    weight = mx.ones((4096,), mx.bfloat16)
    got = kernels.rms_norm(x, weight, EPS)
    assert got.dtype == mx.bfloat16
    close(got, norm(np.array(x.astype(mx.float32)), np.ones(4096)), 2**-8)


def norm_roped(kernels: Kernels, offset: int, length: int, packing: Packing | None) -> tuple[tuple[Any, ...], Any]:
    """Of 3 query heads and 2 key heads of 64, and what float64 has for queries, keys and values."""
    qkv, weights = draw(2, length, 7 * 64), draw(2, 64, seed=1)
    given = norms(mx.array(weights[0]), mx.array(weights[1]), EPS, 3, 2)
    rotation = kernels.rotation(frequencies(RopeConfig(10000.0), 64), Lengths((offset,) * 2), length)
    queries, entry = kernels.norm_rope(mx.array(qkv), given, rotation, packing)
    heads = qkv.reshape(2, length, 7, 64).swapaxes(1, 2)
    normed = norm(heads[:, :5], weights[[0, 0, 0, 1, 1]][:, None])
    angles = np.arange(offset, offset + length)[:, None] * 10000.0 ** (-np.arange(32) / 32)
    first, second = normed[..., :32], normed[..., 32:]
    turned = [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)]
    return (queries, *entry), (*np.split(np.concatenate(turned, axis=-1), [3], axis=1), heads[:, 5:])


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (37, 1), (0, 9), (1000, 4), (100_000, 1)])
def test_norm_rope(kernels: Kernels, offset: int, length: int) -> None:
    got, want = norm_roped(kernels, offset, length, None)
    # an angle of 100,000 radians is known to 4e-3 in float32
    for part, exact in zip(got, want, strict=True):
        close(part, exact, 2e-5 if offset < 10_000 else 1e-2)


@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("bits", [8, 4])
def test_norm_rope_for_a_packed_cache(kernels: Kernels, length: int, bits: int) -> None:
    (queries, rows), (want, *exact) = norm_roped(kernels, 37, length, Packing(bits, 32))
    close(queries, want)
    for got, x in zip(unpack(rows, 64, bits, 32, mx.bfloat16), exact, strict=True):
        groups = x.reshape(*x.shape[:-1], 2, 32)
        step = np.repeat((groups.max(-1) - groups.min(-1)) / (2**bits - 1), 32, axis=-1)
        assert (np.abs(np.array(got) - x) <= 0.52 * step).all()


@pytest.mark.filterwarnings("ignore:Metal kernels are not used")
def test_keys_are_packed_as_they_come_out_of_float32(kernels: Kernels) -> None:
    """In bf16: the packed keys are those of the same numbers in float32, all but ties."""
    qkv, weights = mx.array(draw(1, 4, 3 * 64)).astype(mx.bfloat16), mx.array(draw(2, 64, seed=1)).astype(mx.bfloat16)
    rotation = kernels.rotation(frequencies(RopeConfig(10000.0), 64), Lengths((5,)), 4)
    packed = []
    for dtype in (mx.bfloat16, mx.float32):
        given = norms(*weights.astype(dtype), EPS, 1, 1)
        queries, (rows,) = kernels.norm_rope(qkv.astype(dtype), given, rotation, Packing(8, 64))
        assert queries.dtype == dtype
        packed.append(np.array(rows))
    assert (packed[0] != packed[1]).mean() < 0.01


def attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, scale: float) -> np.ndarray:
    group = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(x.astype(np.float64), group, axis=1) for x in (keys, values))
    scores = queries.astype(np.float64) @ keys.swapaxes(2, 3) * scale
    length, total = scores.shape[2:]
    scores[:, :, ~np.tri(length, total, total - length, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ values


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 2), (5, 1), (7, 7)])
@pytest.mark.parametrize(
    ("length", "total", "capacity"),
    [(1, 1, 1), (1, 40, 64), (6, 6, 6), (6, 40, 64), (40, 40, 40), (150, 150, 150), (130, 200, 256)],
)
def test_attend(kernels: Kernels, heads: int, kv_heads: int, length: int, total: int, capacity: int) -> None:
    queries = draw(2, heads, length, 32)
    keys, values = draw(2, kv_heads, capacity, 32, seed=1), draw(2, kv_heads, capacity, 32, seed=2)
    view = DenseView(mx.array(keys), mx.array(values), Lengths((total,) * 2))
    got = kernels.attend(mx.array(queries), view, 0.3)
    close(got, attention(queries, keys[:, :, :total], values[:, :, :total], 0.3))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_attend_to_a_packed_view(kernels: Kernels, bits: int, length: int, dtype: mx.Dtype) -> None:
    """What attending to the unpacked values gives."""
    queries, total = mx.array(draw(2, 6, length, 64)).astype(dtype), 30
    rows = pack(*(mx.array(draw(2, 2, 48, 64, seed=seed)) for seed in (1, 2)), bits, 32, scale_dtype(dtype))
    keys, values = (np.array(x)[:, :, :total] for x in unpack(rows, 64, bits, 32, scale_dtype(dtype)))
    got = kernels.attend(queries, PackedView(rows, Lengths((total,) * 2), Packing(bits, 32)), 0.2)
    assert got.dtype == dtype
    want = attention(np.array(queries.astype(mx.float32)), keys, values, 0.2)
    close(got, want, 2e-5 if dtype == mx.float32 else 0.02)


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize(("at_once", "share"), [(1, 0.5), (4, 1)])
def test_stock_attention_unpacks_some_heads_at_a_time(
    length: int, at_once: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same to the bit, in a part of the memory."""
    total, kv_heads = 4000, 6
    rows = pack(*(mx.array(draw(1, kv_heads, total, 64, seed=seed)) for seed in (1, 2)), 8, 64, mx.bfloat16)
    queries = mx.array(draw(1, 2 * kv_heads, length, 64)).astype(mx.bfloat16)
    mx.eval(rows, queries)

    def attended() -> tuple[mx.array, int]:
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        out = stock.attend(queries, PackedView(rows, Lengths((total,)), Packing(8, 64)), 0.2)
        mx.eval(out)
        return out, mx.get_peak_memory() - before

    whole, most = attended()
    monkeypatch.setattr(stock, "UNPACKED", at_once * total + 5)
    parts, least = attended()
    assert mx.array_equal(parts, whole)
    assert least < share * most


def test_swiglu(kernels: Kernels) -> None:
    gate, up = draw(3, 50) * 4, draw(3, 50, seed=1)
    close(kernels.swiglu(mx.array(gate), mx.array(up)), gate / (1 + np.exp(-gate.astype(np.float64))) * up)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("top_k", [1, 3, 8])
def test_route(kernels: Kernels, top_k: int, normalise: bool) -> None:
    logits = draw(20, 8) * 3
    experts, weights = kernels.route(mx.array(logits), top_k, normalise)
    assert weights.dtype == mx.float32
    full = np.exp(logits.astype(np.float64))
    full /= full.sum(-1, keepdims=True)
    best = np.argsort(-full, axis=-1)[:, :top_k]
    order = np.argsort(np.array(experts), axis=-1)
    assert np.array_equal(np.take_along_axis(np.array(experts), order, -1), np.sort(best, axis=-1))
    want = np.take_along_axis(full, np.array(experts).astype(int), -1)
    close(weights, want / want.sum(-1, keepdims=True) if normalise else want)


def test_route_computes_in_float32(kernels: Kernels) -> None:
    """bf16 logits are exact, their softmax must not be rounded to bf16."""
    logits = mx.array(draw(4, 128)).astype(mx.bfloat16)
    experts, weights = kernels.route(logits, 8, False)
    full = np.exp(np.array(logits.astype(mx.float32)).astype(np.float64))
    full /= full.sum(-1, keepdims=True)
    close(weights, np.take_along_axis(full, np.array(experts).astype(int), -1), 1e-6)


Stack = Callable[[np.ndarray], SwitchLinear | TransposedSwitchLinear]


def plain(weight: np.ndarray) -> SwitchLinear:
    leaf = SwitchLinear(1, 1, 1)
    leaf.weight = mx.array(weight)
    return leaf


def transposed(weight: np.ndarray) -> TransposedSwitchLinear:
    return TransposedSwitchLinear(mx.contiguous(mx.swapaxes(mx.array(weight), 1, 2)))


@pytest.mark.parametrize("stack", [plain, transposed])
@pytest.mark.parametrize("rows", [1, 3, SORT_FROM // 2, 100])
def test_moe_swiglu(kernels: Kernels, stack: Stack, rows: int) -> None:
    """Below and above the number of pairs from which they are sorted by expert."""
    experts_count, top_k, hidden, inner = 6, 2, 24, 16
    gate_up, down = draw(experts_count, 2 * inner, hidden, seed=1), draw(experts_count, hidden, inner, seed=2)
    x, weights = draw(rows, hidden), np.abs(draw(rows, top_k, seed=3))
    experts = np.stack([np.random.RandomState(row).permutation(experts_count)[:top_k] for row in range(rows)])
    got = kernels.moe_swiglu(
        mx.array(x), mx.array(experts.astype(np.uint32)), mx.array(weights), stack(gate_up), stack(down)
    )
    want = np.zeros((rows, hidden))
    for row in range(rows):
        for expert, weight in zip(experts[row], weights[row], strict=True):
            gate, up = np.split(gate_up[expert].astype(np.float64) @ x[row], 2)
            want[row] += weight * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
    close(got, want)


@pytest.mark.parametrize("rows", [2, 100])
def test_moe_swiglu_on_packed_experts(rows: int) -> None:
    from qwen3_mlx.config import QuantSpec

    kernels, spec = resolve("emulate"), QuantSpec(4, 32)
    weights = [draw(4, 64, 32, seed=1), draw(4, 32, 32, seed=2)]
    packed = [mx.quantize(mx.array(w), group_size=32, bits=4) for w in weights]
    opened = [plain(np.array(mx.dequantize(*p, group_size=32, bits=4))) for p in packed]
    x, scores = mx.array(draw(rows, 32)), mx.array(np.abs(draw(rows, 2)))
    experts = mx.array(np.random.RandomState(0).randint(0, 4, (rows, 2)).astype(np.uint32))
    got = kernels.moe_swiglu(x, experts, scores, *(QuantizedSwitchLinear(*p, spec) for p in packed))
    close(got, np.array(kernels.moe_swiglu(x, experts, scores, *opened)))


def test_write(kernels: Kernels) -> None:
    buffer, new = draw(2, 3, 10, 4), draw(2, 3, 2, 4, seed=1)
    got = kernels.write(mx.array(buffer), mx.array(new), kernels.start(Lengths((5, 5))))
    buffer[:, :, 5:7] = new
    assert np.array_equal(np.array(got), buffer)


UNEQUAL = (3, 40, 17)


@pytest.mark.filterwarnings("ignore:Metal kernels are not used")
@pytest.mark.parametrize("packing", [None, Packing(8, 32), Packing(4, 64)])
def test_rows_of_different_lengths_are_what_each_is_alone(kernels: Kernels, packing: Packing | None) -> None:
    """A step of rotation, writing and attention; to the bit on the reference."""
    qkv, weights = draw(3, 1, 8 * 64), draw(2, 64, seed=1)
    given = norms(mx.array(weights[0]), mx.array(weights[1]), EPS, 4, 2)
    capacity, rope = 64, frequencies(RopeConfig(10000.0), 64)
    keys, values = (mx.array(draw(3, 2, capacity, 64, seed=seed)) for seed in (2, 3))
    buffers = entry(keys, values, packing)

    def step(rows: slice, lengths: Lengths) -> tuple[mx.array, list[mx.array]]:
        queries, new = kernels.norm_rope(mx.array(qkv[rows]), given, kernels.rotation(rope, lengths, 1), packing)
        start = kernels.start(lengths)
        held = [kernels.write(buffer[rows] + 0, part, start) for buffer, part in zip(buffers, new, strict=True)]
        after = lengths.plus(1)
        view = DenseView(*held, after) if packing is None else PackedView(held[0], after, packing)
        return kernels.attend(queries, view, 0.2), held

    out, held = step(slice(None), Lengths(UNEQUAL))
    for row, length in enumerate(UNEQUAL):
        alone, its = step(slice(row, row + 1), Lengths((length,)))
        assert mx.array_equal(mx.stack(held)[:, row], mx.stack(its)[:, 0])
        if kernels.mode == "reference":
            assert mx.array_equal(out[row], alone[0])
        close(out[row], np.array(alone[0]))
