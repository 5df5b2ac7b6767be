"""What an error is measured in, and when it measures nothing."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from qwen3_mlx.kernels.tolerance import rounding, worst

INF, NAN = math.inf, math.nan


def error(got: list[float], want: list[float], tolerance: float = 0.5) -> float:
    return float(worst(mx.array(got), mx.array(want), mx.array(tolerance)).item())  # type: ignore[arg-type]


def test_the_largest_error_counts() -> None:
    assert error([1.0, 2.0, 0.0], [1.0, 2.5, 0.25]) == 1.0
    assert error([1.0, 3.0], [0.0, -1.0]) == 8.0


@pytest.mark.parametrize(
    ("got", "want", "tolerance"),
    [
        ([1.0, NAN], [1.0, 1.0], 0.5),
        ([1.0, INF], [1.0, 1.0], 0.5),
        ([1.0, INF], [1.0, INF], 0.5),
        ([1.0, 1.0], [1.0, NAN], 0.5),
        ([1.0, 1.0], [1.0, -INF], 0.5),
        ([1.0, 2.0], [1.0, 1.0], INF),
        ([1.0, 2.0], [1.0, 1.0], NAN),
    ],
)
def test_what_is_not_finite_proves_nothing(got: list[float], want: list[float], tolerance: float) -> None:
    assert error(got, want, tolerance) == INF


def test_zeros_prove_nothing() -> None:
    assert error([0.0, 0.0], [0.0, 0.0]) == INF


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_rounding_is_tolerated(dtype: mx.Dtype) -> None:
    want = mx.random.uniform(1.0, 4.0, (10_000,), key=mx.random.key(0))
    assert 0.9 < worst(want.astype(dtype), want, rounding(want, mx.array(0.0), dtype)).item() <= 1
    assert worst((want * 1.02).astype(dtype), want, rounding(want, want, dtype)).item() > 1
