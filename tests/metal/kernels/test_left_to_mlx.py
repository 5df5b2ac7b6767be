"""Why ``deterministic=True`` avoids MLX's own products, and that what it leaves to MLX goes row by row: MLX's kernels,
from the headers of its wheel, in the emulator."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels.reference import Packed

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .packing import wide
from .stock_kernels import QUANTIZED, product
from .test_linear import Sizes, cancelling

UTILS = '#include "mlx/backend/metal/kernels/utils.h"\n'
# g++ does not take what else that header brings: of it, scans need one operation, and these none.
_BESIDE = '#include "mlx/backend/metal/kernels/binary_ops.h"'
_SCAN = (Path(mx.__file__).parent / "include/mlx/backend/metal/kernels/scan.h").read_text()
SCAN = UTILS + _SCAN.replace("#pragma once", "").replace(
    _BESIDE, "struct LogAddExp { template <typename T> T operator()(T x, T y) { return x; } };"
)
LOGSUMEXP = UTILS + '#include "mlx/backend/metal/kernels/logsumexp.h"\n'
ROWS = 5


def qmm_t(x: mx.array, packed: Packed) -> mx.array:
    """``x [rows, dims]`` times packed ``[outs, dims]``, as MLX multiplies many rows."""
    (rows, dims), outs = x.shape, len(packed.weight)
    function = emulator.Function(QUANTIZED, "affine_qmm_t<bfloat16_t, 64, 4, true, false>")
    inputs = {"w": packed.weight, "scales": packed.scales, "biases": packed.biases, "x": x}
    inputs |= {"K": np.int32(dims), "N": np.int32(outs), "M": np.int32(rows)}
    inputs["y"] = emulator.Output((rows, outs), mx.bfloat16)
    with emulator.using(check_source=False):
        grid = (32 * outs // 32, 2 * -(-rows // 32), 2)
        return function.run(inputs, grid=grid, threadgroup=(32, 2, 2))["y"]


def test_a_products_sums_change_their_order_with_the_number_of_rows() -> None:
    """``quantized_matmul`` runs ``qmv`` for a row alone and ``qmm_t`` for many: other bits for the same row."""
    x, packed = cancelling(Sizes(512, 32))
    assert isinstance(packed, Packed)
    stack = packed._replace(weight=packed.weight[None], scales=packed.scales[None], biases=packed.biases[None])
    alone, together = product(x[7], stack, 0), qmm_t(x, packed)[7]
    assert np.abs(wide(alone) - wide(together)).max() > 0
    size = np.abs(wide(x[7])).sum()
    assert np.abs(wide(alone) - wide(together)).max() < 1e-5 * size  # neither is wrong


def launched(source: str, kernel: str, x: np.ndarray, shape: tuple[int, ...], threads: int, names: str) -> np.ndarray:
    """One threadgroup a row; ``names``: whether rows count along the grid's x or y."""
    grid = (threads * len(x), 1, 1) if names == "x" else (threads, len(x), 1)
    function = emulator.Function(source, kernel)
    with emulator.using(check_source=False):
        out = function.run(
            {"in": x, "out": emulator.Output(shape, mx.float32), "axis_size": SIZES[names](x.shape[-1])},
            grid=grid,
            threadgroup=(threads, 1, 1),
        )["out"]
    return np.array(out)


SIZES = {"x": np.int32, "y": np.uint64}


@pytest.mark.parametrize(("width", "threads"), [(128, 32), (1187, 320)])
@pytest.mark.parametrize("inclusive", ["true", "false"])
def test_a_cumulative_sum_of_a_row_does_not_depend_on_others(width: int, threads: int, inclusive: str) -> None:
    x = np.exp(2 * np.random.default_rng(0).standard_normal((ROWS, width))).astype(np.float32)
    kernel = f"contiguous_scan<float, float, CumSum<float>, 4, {inclusive}, false>"
    together = launched(SCAN, kernel, x, x.shape, threads, "y")
    exact = np.cumsum(x.astype(np.float64), axis=1) - (0 if inclusive == "true" else x)
    np.testing.assert_allclose(together, exact, rtol=1e-5)
    for row in range(ROWS):
        assert np.array_equal(launched(SCAN, kernel, x[row : row + 1], (1, width), threads, "y")[0], together[row])


@pytest.mark.parametrize(("kernel", "width", "threads"), [("logsumexp", 300, 96), ("logsumexp_looped", 4500, 1024)])
def test_a_log_probability_does_not_depend_on_other_rows(kernel: str, width: int, threads: int) -> None:
    x = 4 * np.random.default_rng(0).standard_normal((ROWS, width)).astype(np.float32)
    together = launched(LOGSUMEXP, f"{kernel}<float, float, 4>", x, (ROWS,), threads, "x")
    for row in range(ROWS):
        alone = launched(LOGSUMEXP, f"{kernel}<float, float, 4>", x[row : row + 1], (1,), threads, "x")
        assert alone[0] == together[row]
