"""What the emulator models of Metal: types, simd operations, matrices, atomics and inexact maths."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .test_emulator import _compiler  # noqa: F401


def launch(
    source: str, x: Any, n: int = 32, dtype: mx.Dtype = mx.float32, header: str = "", **options: Any
) -> np.ndarray:
    body = "uint i = thread_position_in_grid.x; uint lane = thread_index_in_simdgroup;\n" + source
    kernel = emulator.metal_kernel(
        "model", ["x"], ["y"], body, header=header, atomic_outputs=options.pop("atomic", False)
    )
    outputs = kernel(
        inputs=[mx.array(x)],
        output_shapes=[(n,)],
        output_dtypes=[dtype],
        grid=(n, 1, 1),
        threadgroup=(min(n, 256), 1, 1),
        **options,
    )
    return np.array(outputs[0])


LANES = np.arange(32, dtype=np.float32)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("simd_max(x[i])", np.full(32, 31)),
        ("simd_min(x[i])", np.zeros(32)),
        ("simd_shuffle(x[i], ushort(31 - lane))", LANES[::-1]),
        ("simd_shuffle_xor(x[i], ushort(16))", np.roll(LANES, 16)),
        ("simd_shuffle_up(x[i], ushort(1))", np.maximum(LANES - 1, 0)),
        ("simd_shuffle_down(x[i], ushort(1))", np.minimum(LANES + 1, 31)),
        ("simd_shuffle_and_fill_up(x[i], -1.0f, ushort(1))", LANES - 1),
        ("simd_broadcast(x[i], ushort(5))", np.full(32, 5)),
        ("simd_broadcast_first(x[i])", np.zeros(32)),
        ("simd_prefix_inclusive_sum(x[i])", np.cumsum(LANES)),
        ("simd_prefix_exclusive_sum(x[i])", np.cumsum(LANES) - LANES),
        ("float(simd_all(x[i] > 3.0f)) + 2 * float(simd_any(x[i] > 3.0f))", np.full(32, 2)),
        ("float(ulong(simd_vote::vote_t(simd_ballot(x[i] < 4.0f))))", np.full(32, 15)),
        ("quad_sum(x[i])", np.repeat(LANES.reshape(8, 4).sum(1), 4)),
        ("float(as_type<float>(as_type<uint>(x[i])))", LANES),
        ("float4(x[i], 1, 2, 3).wzyx.w", LANES),
        ("dot(float2(x[i], 2), float2(1, 3).yx)", 3 * LANES + 2),
        ("float(sizeof(float3) + sizeof(uint2) + sizeof(packed_float3) + sizeof(half4))", np.full(32, 16 + 8 + 12 + 8)),
        ("float(bfloat(x[i] + 256.5f))", np.array(mx.array(LANES + 256.5).astype(mx.bfloat16).astype(mx.float32))),
        ("float(half(x[i] + 2048.5f))", (LANES + 2048.5).astype(np.float16).astype(np.float32)),
    ],
)
def test_expressions(expression: str, expected: np.ndarray) -> None:
    with emulator.using(check_source=False):
        np.testing.assert_array_equal(launch(f"y[i] = {expression};", LANES), expected)


def test_simdgroup_matrix() -> None:
    a = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
    source = """
        simdgroup_matrix<float, 8, 8> a, b, c = simdgroup_matrix<float, 8, 8>(0.0f);
        simdgroup_load(a, x, 8);
        simdgroup_load(b, x + 64, 8);
        simdgroup_multiply_accumulate(c, a, b, c);
        simdgroup_store(c, y, 8);
        y[64 + i] = 0;
    """
    kernel = emulator.metal_kernel("matrix", ["x"], ["y"], "uint i = thread_position_in_grid.x;" + source)
    with emulator.using(instrumented=True):
        y = kernel(
            inputs=[mx.array(a)],
            output_shapes=[(96,)],
            output_dtypes=[mx.float32],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
        )[0]
    np.testing.assert_allclose(np.array(y)[:64].reshape(8, 8), a[0] @ a[1], rtol=1e-5, atol=1e-6)


def test_atomics() -> None:
    source = "atomic_fetch_add_explicit(&y[i % 4], x[i], memory_order_relaxed);"
    with emulator.using(instrumented=True):
        y = launch(source, LANES, atomic=True, init_value=0)
    np.testing.assert_array_equal(y[:4], LANES.reshape(8, 4).sum(0))
    assert emulator.last_report().dispatches == 2


def test_fast_maths_can_err() -> None:
    x = np.linspace(0.1, 3, 32, dtype=np.float32)
    source = "y[i] = fast::exp(x[i]) - precise::exp(x[i]);"
    assert not launch(source, x).any()
    with emulator.using(jitter_ulps=3, jitter_seed=1):
        erring = launch(source, x)
    assert erring.any()
    assert (np.abs(erring) <= 3 * np.spacing(np.exp(x))).all()


def test_partial_threadgroups() -> None:
    y = launch("y[i] = float(threads_per_threadgroup.x) + simd_sum(1.0f);", LANES, n=300)
    np.testing.assert_array_equal(y, [256 + 32] * 256 + [44 + 32] * 32 + [44 + 12] * 12)
