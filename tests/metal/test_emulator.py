"""The emulator runs kernels as MLX generates them."""

from __future__ import annotations

import os

import mlx.core as mx
import numpy as np
import pytest

from . import emulator


@pytest.fixture(autouse=True)
def _compiler() -> None:
    try:
        emulator.compiler()
    except emulator.NoCompilerError as error:
        if os.environ.get("CI"):
            pytest.fail(f"{error} (CI requires one)")
        pytest.skip(str(error))


SUM = """
    uint i = thread_position_in_grid.x;
    doubled[i] = T(2) * x[i];
    total[i] = simd_sum(float(x[i]));
"""


def run_sum(n: int, dtype: mx.Dtype = mx.bfloat16) -> list[mx.array]:
    kernel = emulator.metal_kernel("sums", ["x"], ["doubled", "total"], SUM)
    return kernel(
        inputs=[mx.arange(n).astype(dtype)],
        output_shapes=[(n,), (n,)],
        output_dtypes=[dtype, mx.float32],
        grid=(n, 1, 1),
        threadgroup=(64, 1, 1),
        template=[("T", dtype)],
    )


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_elementwise_and_simd_sum(dtype: mx.Dtype) -> None:
    doubled, total = run_sum(64, dtype)
    np.testing.assert_array_equal(np.array(doubled.astype(mx.float32)), 2 * np.arange(64))
    np.testing.assert_array_equal(np.array(total), np.repeat([496, 1520], 32))


def test_counts() -> None:
    with emulator.using(instrumented=True):
        run_sum(64)
    report = emulator.last_report()
    assert (report.dispatches, report.simdgroups, report.simd_ops) == (1, 2, 2)
    assert report.buffers["x"].distinct == 128
    assert report.buffers["total"].store_bytes == 256
    assert report.buffers["total"].store_lines == 4


def test_random_orders_agree() -> None:
    expected = np.array(run_sum(64)[1])
    for seed in range(1, 6):
        with emulator.using(seed=seed):
            np.testing.assert_array_equal(np.array(run_sum(64)[1]), expected)


REVERSE = """
    threadgroup float s[128];
    uint i = thread_index_in_threadgroup;
    uint g = thread_position_in_grid.x;
    float sum = 0.0f;
    for (int step = 0; step < 4; step++) {
        s[i] = x[g] * (step + 1);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        sum += simd_sum(s[127 - i]) * 0.1f;
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    y[g] = sum;
"""


@pytest.mark.parametrize("instrumented", [False, True])
def test_twenty_random_orders_are_bit_identical(instrumented: bool) -> None:
    kernel = emulator.metal_kernel("reverse", ["x"], ["y"], REVERSE)
    x = mx.array(np.random.default_rng(0).standard_normal(512).astype(np.float32))

    def run() -> np.ndarray:
        shapes, dtypes = [(512,)], [mx.float32]
        launch = {"output_shapes": shapes, "output_dtypes": dtypes, "grid": (512, 1, 1), "threadgroup": (128, 1, 1)}
        return np.array(kernel(inputs=[x], **launch)[0])

    expected = run()
    for seed in range(1, 21):
        with emulator.using(seed=seed, instrumented=instrumented):
            assert (run().view(np.uint32) == expected.view(np.uint32)).all()
    assert emulator.last_report().barriers == 4 * 8
