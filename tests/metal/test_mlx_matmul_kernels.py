"""MLX's own quantized matrix products and its sort, as stock prefill and stock experts run them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .test_emulator import _compiler  # noqa: F401
from .test_mlx_kernels import QUANTIZED, random

SORT = """
#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/sort.h"
"""


def quantized(*shape: int) -> tuple[dict[str, mx.array], np.ndarray]:
    """Packed weights by the names of the parameters, and what they stand for."""
    w, scales, biases = mx.quantize(mx.array(random(*shape)), group_size=64, bits=4)
    whole = np.array(mx.dequantize(w, scales, biases, group_size=64, bits=4))
    return {"w": w, "scales": scales, "biases": biases}, whole


def test_qmm_t() -> None:
    rows, n, k = 40, 64, 128
    packed, w = quantized(n, k)
    x = random(rows, k, seed=1)
    function = emulator.Function(QUANTIZED, "affine_qmm_t<float, 64, 4, true, false>")
    with emulator.using(instrumented=True, check_source=False):
        y = function.run(
            {
                **packed,
                "x": x,
                "y": emulator.Output((rows, n), mx.float32),
                "K": np.int32(k),
                "N": np.int32(n),
                "M": np.int32(rows),
            },
            grid=(32 * n // 32, 2 * -(-rows // 32), 2),
            threadgroup=(32, 2, 2),
        )["y"]
    np.testing.assert_allclose(np.array(y), x @ w.T, rtol=1e-5, atol=1e-4)


def test_gather_qmv_fast() -> None:
    experts, n, k = 3, 16, 512
    packed, w = quantized(experts, n, k)
    x = random(2, 1, k, seed=1)
    tokens, chosen = np.array([0, 0, 1, 1], np.uint32), np.array([2, 0, 1, 2], np.uint32)
    function = emulator.Function(QUANTIZED, "affine_gather_qmv_fast<float, 64, 4>")
    with emulator.using(instrumented=True, check_source=False):
        y = function.run(
            {
                **packed,
                "x": x,
                "lhs_indices": tokens,
                "rhs_indices": chosen,
                "y": emulator.Output((4, n), mx.float32),
                "in_vec_size": np.int32(k),
                "out_vec_size": np.int32(n),
                "x_batch_ndims": np.int32(1),
                "x_shape": np.array(x.shape, np.int32),
                "x_strides": np.array([k, k, 1], np.int64),
                "w_batch_ndims": np.int32(1),
                "w_shape": np.array([experts, n, k // 8], np.int32),
                "w_strides": np.array([n * k // 8, k // 8, 1], np.int64),
                "s_strides": np.array([n * k // 64, k // 64, 1], np.int64),
                "b_strides": np.array([n * k // 64, k // 64, 1], np.int64),
                "batch_ndims": np.int32(1),
                "batch_shape": np.array([4], np.int32),
                "lhs_strides": np.array([1], np.int64),
                "rhs_strides": np.array([1], np.int64),
            },
            grid=(32, 2 * n // 8, 4),
            threadgroup=(32, 2, 1),
        )["y"]
    expected = np.einsum("bk,bnk->bn", x[tokens, 0], w[chosen])
    np.testing.assert_allclose(np.array(y), expected, rtol=1e-5, atol=1e-4)
    # A weight is asked for once for each token that has its expert.
    assert emulator.last_report().buffers["w"].bytes == 4 * n * k // 2


@pytest.mark.parametrize("arguments", [False, True])
def test_block_sort(arguments: bool) -> None:
    rows, columns, threads = 3, 100, 32
    x = random(rows, columns)
    to, dtype = ("uint", mx.uint32) if arguments else ("float", mx.float32)
    kernel = f"block_sort<float, {to}, {str(arguments).lower()}, {threads}, 4>"
    function = emulator.Function(SORT, kernel)
    with emulator.using(instrumented=True, check_source=False):
        out = function.run(
            {
                "inp": x,
                "out": emulator.Output((rows, columns), dtype),
                "size_sorted_axis": np.int32(columns),
                "in_stride_sorted_axis": np.int32(1),
                "out_stride_sorted_axis": np.int32(1),
                "in_stride_segment_axis": np.int32(columns),
                "out_stride_segment_axis": np.int32(columns),
            },
            grid=(threads, rows, 1),
            threadgroup=(threads, 1, 1),
        )["out"]
    np.testing.assert_array_equal(np.array(out), np.argsort(x, -1) if arguments else np.sort(x, -1))
