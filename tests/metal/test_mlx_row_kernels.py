"""MLX's own kernels over rows (softmax, logsumexp), whose parameters name no buffer, give numpy's numbers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .test_emulator import _compiler  # noqa: F401

UTILS = '#include "mlx/backend/metal/kernels/utils.h"\n'
SOFTMAX = UTILS + '#define SOFTMAX_N_READS 4\n#include "mlx/backend/metal/kernels/softmax.h"\n'
LOGSUMEXP = UTILS + '#include "mlx/backend/metal/kernels/logsumexp.h"\n'


def rows(source: str, kernel: str, x: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
    """One threadgroup a row."""
    function = emulator.Function(source, kernel)
    with emulator.using(instrumented=True):
        out = function.run(
            {"in": x, "out": emulator.Output(shape, mx.float32), "axis_size": np.int32(x.shape[-1])},
            grid=(threads * len(x), 1, 1),
            threadgroup=(threads, 1, 1),
        )["out"]
    return np.array(out)


def inputs(columns: int) -> np.ndarray:
    return 4 * np.random.default_rng(columns).standard_normal((3, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("kernel", "columns", "threads"),
    [("softmax_single_row", 300, 96), ("softmax_looped", 4500, 1024)],
)
def test_softmax(kernel: str, columns: int, threads: int) -> None:
    x = inputs(columns)
    exp = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    y = rows(SOFTMAX, f"{kernel}<float, float, 4>", x, x.shape, threads)
    np.testing.assert_allclose(y, exp / exp.sum(-1, keepdims=True), rtol=2e-6)


@pytest.mark.parametrize(
    ("kernel", "columns", "threads"),
    [("logsumexp", 300, 96), ("logsumexp_looped", 4500, 1024)],
)
def test_logsumexp(kernel: str, columns: int, threads: int) -> None:
    x = inputs(columns)
    y = rows(LOGSUMEXP, f"{kernel}<float, float, 4>", x, (len(x),), threads)
    np.testing.assert_allclose(y, np.log(np.exp(x.astype(np.float64)).sum(-1)), rtol=2e-6)
