"""Linear layers and norms against float64, and each row the same to the bit in any company."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels import linear as kernels
from qwen3_mlx.kernels.linear_trials import LINEAR_PACKED, LINEAR_PLAIN, RMS_NORM
from qwen3_mlx.kernels.reference import Packed

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from ..wrong import swapping
from .packing import dequantized, precision, random_packed, wide
from .test_invariance import flat, in_any_order

BF16, FP16 = mx.bfloat16, mx.float16
EPS = 1e-6


class Sizes(NamedTuple):
    dims: int
    outs: int
    bits: int | None = 4
    group: int = 64
    dtype: Any = BF16


SIZES = [
    Sizes(192, 16),  # fewer values than lanes take at a time
    Sizes(512, 24, 4, 128),
    Sizes(256, 8, 8, 32, FP16),
    Sizes(1536, 8, 8),
    Sizes(64, 8, None),
    Sizes(768, 24, None, dtype=FP16),
    Sizes(100, 8, None),
]
by_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes[:3])))


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def layer(sizes: Sizes, rows: int) -> tuple[mx.array, mx.array | Packed, np.ndarray]:
    """``x [rows, dims]``, the weight, and what it stands for in float64."""
    rng = np.random.default_rng(sizes.dims)
    dims, outs, bits, group, dtype = sizes
    assert kernels.supported(dims, outs, bits, group, dtype)
    x = array(rng.standard_normal((rows, dims)), dtype)
    if bits is None:
        weight = array(0.1 * rng.standard_normal((outs, dims)), dtype)
        return x, weight, wide(weight)
    stack = random_packed(rng, 1, outs, dims, bits, group, dtype)
    packed = Packed(stack.weight[0], stack.scales[0], stack.biases[0], bits, group)
    return x, packed, dequantized(stack, 0)


def array(values: np.ndarray, dtype: mx.Dtype) -> mx.array:
    return mx.array(values.astype(np.float32)).astype(dtype)


def cancelling(sizes: Sizes, rows: int = 33) -> tuple[mx.array, mx.array | Packed]:
    """``x [rows, dims]`` and a weight whose products are zero but for what float32 rounds: each value has an opposite,
    anywhere. So all 16 bits of a result show the order of its sums."""
    rng = np.random.default_rng(sizes.dims)
    dims, outs, bits, group, dtype = sizes
    pairs = rng.permutation(dims).reshape(2, -1)
    x, codes = rng.standard_normal((rows, dims)), rng.integers(0, 2 ** (bits or 8), (outs, dims), dtype=np.uint32)
    x *= np.exp(3 * rng.standard_normal(x.shape))  # or their products would be sums without a rounding
    x[:, pairs[1]], codes[:, pairs[1]] = -x[:, pairs[0]], codes[:, pairs[0]]
    scales = np.repeat(rng.uniform(0.5, 1.5, (outs, 1)) / 64, dims // group or 1, axis=1)
    if bits is None:
        return array(x, dtype), array((codes.astype(np.float64) - 100) * scales[:, :1], dtype)
    places = codes.reshape(outs, -1, 32 // bits) << np.arange(0, 32, bits, dtype=np.uint32)
    words = mx.array(np.bitwise_or.reduce(places, axis=-1))
    return array(x, dtype), Packed(words, array(scales, dtype), array(-5 * scales, dtype), bits, group)


@by_size
def test_a_linear_layer_is_float64s(sizes: Sizes) -> None:
    x, weight, exact = layer(sizes, 7)
    with emulator.using(instrumented=True):
        got = kernels.linear(x, weight)
    assert got.dtype == sizes.dtype and got.shape == (7, sizes.outs)
    assert precision(got, wide(x) @ exact.T, np.abs(wide(x)) @ np.abs(exact).T).c <= 1


def in_any_company(launch: Callable[[mx.array], mx.array], x: mx.array) -> None:
    """Alone, in batches of 2 to 33 rows, at every place of a tile and at others, beside any rows."""
    together = flat(tuple(launch(x)))
    for row in (0, 1, 2, 3, 16, 32):
        assert flat(launch(x[row : row + 1])[0]) == [together[row]]
    for rows in (2, 3, 4, 5, 8, 9, 31, 32):
        for first in {0, 1, (33 - rows) // 2, 33 - rows}:
            assert flat(tuple(launch(x[first : first + rows]))) == together[first : first + rows]
    for order in ([5, 5, 5, 5, 5], [32, 0, 7, 7, 1, 30], list(range(32, -1, -1))):
        assert flat(tuple(launch(x[mx.array(order)]))) == [together[row] for row in order]


@by_size
def test_a_row_of_a_linear_layer_does_not_depend_on_others(sizes: Sizes) -> None:
    x, weight = cancelling(sizes)
    assert np.count_nonzero(wide(kernels.linear(x, weight))) > x.shape[0] * sizes.outs / 2
    in_any_company(lambda rows: kernels.linear(rows, weight), x)
    in_any_order(lambda: kernels.linear(x[:6], weight))


def test_leading_axes_are_rows() -> None:
    x, weight, _ = layer(SIZES[0], 6)
    got = kernels.linear(mx.reshape(x, (2, 3, -1)), weight)
    assert mx.array_equal(mx.flatten(got, 0, 1), kernels.linear(x, weight))


def norm(dims: int, dtype: mx.Dtype, rows: int = 33) -> tuple[mx.array, mx.array]:
    rng = np.random.default_rng(dims)
    x, weight = rng.standard_normal((rows, dims)), 1 + 0.3 * rng.standard_normal(dims)
    return array(x, dtype), array(weight, dtype)


@pytest.mark.parametrize(("dims", "dtype"), [(192, BF16), (1024, FP16), (2560, BF16), (36, BF16)])
def test_a_norm(dims: int, dtype: mx.Dtype) -> None:
    x, weight = norm(dims, dtype)
    with emulator.using(instrumented=True):
        got = kernels.rms_norm(x[:3], weight, EPS)
    exact = wide(x[:3])
    want = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + EPS) * wide(weight)
    assert precision(got, want, np.abs(want)).c <= 4
    in_any_company(lambda rows: kernels.rms_norm(rows, weight, EPS), x)
    in_any_order(lambda: kernels.rms_norm(x[:3], weight, EPS))


@pytest.mark.parametrize(
    ("trial", "parameters"),
    [
        (LINEAR_PACKED, (BF16, 192, 4, 64)),
        (LINEAR_PACKED, (FP16, 512, 8, 128)),
        (LINEAR_PLAIN, (BF16, 192)),
        (LINEAR_PLAIN, (FP16, 256)),
        (RMS_NORM, (BF16, 192)),
        (RMS_NORM, (FP16, 2560)),
    ],
)
def test_good_kernels_pass_their_trial(trial: Any, parameters: tuple[Any, ...]) -> None:
    with emulator.using(instrumented=True):
        assert float(trial.error(*parameters).item()) <= 1


WRONG = [
    ("linear_packed", "uint(x_shape[0]) - from", "tokens_at_once"),  # reads beyond the last row
    ("linear_packed", "if (n < tokens) {", "{"),
    ("linear_packed", "+ groups, biases", ", biases"),
    ("linear_packed", "* outs + first + r", "* outs + first"),
    ("linear_packed", "rows_at_once / 2, lane", "rows_at_once, lane"),
    ("linear_packed", "BITS, V, R, 2>", "BITS, V, R, 1>"),
    ("linear_plain", "ulong(first) * DIMS", "ulong(first)"),
    ("linear_plain", "uint(r) * DIMS", "uint(r)"),
    ("linear_plain", "case 3:", "case 5:"),
    ("rms_norm", "total += parts[s]", "total = parts[s]"),
    ("rms_norm", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("rms_norm", "fma(total, 1.0f / DIMS, eps)", "fma(total, 1.01f / DIMS, eps)"),
    # Each within the error bound, but a row is no longer the same in every company.
    ("linear_packed", "uint k = lane * V;", "uint k = (N > 1 ? lane / 2 + lane % 2 * 16 : lane) * V;"),
    ("linear_plain", "uint k = lane * V;", "uint k = (N > 2 ? lane / 2 + lane % 2 * 16 : lane) * V;"),
    ("rms_norm", "total += parts[s]", "total += parts[(s + threadgroup_position_in_grid.y) % simdgroups]"),
]  # fmt: skip
TRIALS = {
    "linear_packed": (LINEAR_PACKED, (BF16, 512, 4, 64)),
    "linear_plain": (LINEAR_PLAIN, (BF16, 256)),
    "rms_norm": (RMS_NORM, (BF16, 2560)),
}


@pytest.mark.parametrize(("kernel", "written", "broken"), WRONG)
def test_a_mistake_is_noticed(monkeypatch: pytest.MonkeyPatch, kernel: str, written: str, broken: str) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    trial, parameters = TRIALS[kernel]
    if kernel == "rms_norm":
        x, weight = norm(2560, BF16)
        launch: Callable[[mx.array], mx.array] = lambda rows: kernels.rms_norm(rows, weight, EPS)  # noqa: E731
    else:
        x, held = cancelling(Sizes(512, 8) if kernel == "linear_packed" else Sizes(256, 8, None))
        launch = lambda rows: kernels.linear(rows, held)  # noqa: E731
    noticed = pytest.raises((AssertionError, emulator.KernelError))
    with emulator.using(instrumented=True, check_source=False), noticed:
        in_any_company(launch, x)
        assert float(trial.error(*parameters).item()) <= 1
