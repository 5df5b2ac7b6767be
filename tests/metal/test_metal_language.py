"""What the emulator models of Metal: types, simd operations, fast maths, counts, orders and memory."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .emulator import errors, toolchain
from .test_emulator import _compiler  # noqa: F401

START = "uint i = thread_position_in_grid.x; uint lane = thread_index_in_simdgroup;\n"


def launch(source: str, x: mx.array, dtype: mx.Dtype = mx.float32, group: int = 32, **more: object) -> np.ndarray:
    """One thread and one result for each element of `x`."""
    kernel = emulator.metal_kernel("language", ["x"], ["y"], START + source)
    y = kernel(
        inputs=[x],
        output_shapes=[(x.size,)],
        output_dtypes=[dtype],
        grid=(x.size, 1, 1),
        threadgroup=(group, 1, 1),
        **more,
    )[0]
    return np.array(y)


def test_half_arithmetic_rounds_to_half() -> None:
    x = mx.array(np.random.default_rng(0).standard_normal(64).astype(np.float16))
    h = np.array(x)
    y = launch("half a = x[i]; y[i] = a * a + half(1) / a;", x, mx.float16)
    np.testing.assert_array_equal(y, h * h + np.float16(1) / h)


def test_bfloat_is_stored_rounded_to_nearest_even() -> None:
    # Halfway, just below and just above, for even and odd last bits, infinity and the largest number.
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0xBF818000, 0x7F800000, 0x7F7FFFFF]
    x = mx.array(np.array(bits, np.uint32)).view(mx.float32)
    y = launch("y[i] = as_type<ushort>(bfloat(x[i]));", x, mx.uint16)
    assert [hex(v) for v in y] == ["0x3f80", "0x3f80", "0x3f82", "0x3f80", "0x3f81", "0xbf82", "0x7f80", "0x7f80"]


def test_vectors_have_their_sizes_and_alignments() -> None:
    sizes = "sizeof(float3), alignof(float3), sizeof(packed_float3), sizeof(half3), sizeof(uint2), alignof(uint4)"
    y = launch(f"uint s[8] = {{{sizes}, sizeof(bfloat4), sizeof(char3)}}; y[i] = s[i];", mx.zeros(8), mx.uint32)
    assert y.tolist() == [16, 16, 12, 8, 8, 16, 8, 4]


def test_a_vector_is_one_load_and_its_elements_are_two() -> None:
    x = mx.arange(64).astype(mx.uint32)

    def loads(source: str) -> int:
        with emulator.using(instrumented=True, check_source=False):
            launch(source, x, mx.uint32, group=64)
        return emulator.last_report().buffers["x"].loads

    assert loads("uint2 v = ((const device uint2*)x)[i / 2]; y[i] = v.x + v.y;") == 2
    assert loads("uint at = i / 2 * 2; y[i] = x[at] + x[at + 1];") == 4


REDUCTIONS = {
    "simd_sum(v)": np.sum,
    "simd_max(v)": np.max,
    "simd_min(v)": np.min,
    "simd_product(v)": np.prod,
    "simd_and(v)": np.bitwise_and.reduce,
    "simd_or(v)": np.bitwise_or.reduce,
    "simd_xor(v)": np.bitwise_xor.reduce,
    "simd_prefix_inclusive_sum(v)": np.cumsum,
    "simd_prefix_exclusive_sum(v)": lambda v: np.cumsum(v) - v,
    "simd_shuffle(v, ushort(31 - lane))": lambda v: v[::-1],
    "simd_shuffle_xor(v, 5)": lambda v: v[np.arange(32) ^ 5],
    "simd_shuffle_up(v, 3)": lambda v: np.concatenate([v[:3], v[:-3]]),
    "simd_shuffle_down(v, 3)": lambda v: np.concatenate([v[3:], v[-3:]]),
    "simd_broadcast(v, 7)": lambda v: v[7],
    "simd_broadcast_first(v)": lambda v: v[0],
    "quad_sum(v)": lambda v: v.reshape(8, 4).sum(-1).repeat(4),
}


def test_simd_operations() -> None:
    v = np.random.default_rng(0).integers(1, 100, 32).astype(np.uint32)
    x = mx.array(np.tile(v, len(REDUCTIONS)))
    cases = "\n".join(f"if (i / 32 == {n}) y[i] = {call};" for n, call in enumerate(REDUCTIONS))
    with np.errstate(over="ignore"):
        expected = {call: np.broadcast_to(f(v), 32).astype(np.uint32) for call, f in REDUCTIONS.items()}
    for y, (call, right) in zip(
        launch(f"uint v = x[i];\n{cases}", x, mx.uint32).reshape(-1, 32), expected.items(), strict=True
    ):
        np.testing.assert_array_equal(y, right, err_msg=call)


def test_fast_functions_err_by_at_most_what_is_asked_and_precise_ones_do_not() -> None:
    x = mx.array(np.linspace(-3, 3, 512, dtype=np.float32))
    exact = launch("y[i] = fast::exp(x[i]);", x)
    with emulator.using(jitter_ulps=4, jitter_seed=1):
        moved = launch("y[i] = fast::exp(x[i]);", x)
        precise = launch("y[i] = precise::exp(x[i]);", x)
    off = np.abs(moved.view(np.int32) - exact.view(np.int32))
    assert off.max() == 4 and (off > 0).mean() > 0.5
    np.testing.assert_array_equal(precise, exact)


def test_what_lanes_share_counts_once() -> None:
    with emulator.using(instrumented=True):
        launch("y[i] = x[0] + x[8 * lane];", mx.zeros(256), group=64)
        report = emulator.last_report()
    x = report.buffers["x"]
    # 8 simdgroups: one broadcast, and 32 values 32 bytes apart, two to a line of 64 bytes.
    assert (x.requested, x.bytes, x.lines) == (8 * 256, 8 * (4 + 128), 8 * (1 + 16))
    assert (report.threadgroups, report.simdgroups, report.threads, report.dispatches) == (4, 8, 256, 1)


def test_an_initial_value_is_a_dispatch_more() -> None:
    launch("if (i == 0) y[i] = x[i];", mx.ones(32), init_value=0.0)
    assert emulator.last_report().dispatches == 2


WRONG = {
    "past a threadgroup array": (errors.OutOfBoundsError, "threadgroup float s[32]; s[lane + 1] = x[i]; y[i] = 0;"),
    "before a threadgroup array": (
        errors.OutOfBoundsError,
        "threadgroup float s[32]; s[int(lane) - 1] = x[i]; y[i] = 0;",
    ),
    "what another threadgroup left": (
        errors.UninitialisedReadError,
        "threadgroup float s[32]; if (i < 32) s[lane] = x[i]; y[i] = s[lane];",
    ),
    "a race between threadgroups": (errors.RaceError, "y[lane] = x[i]; y[32 + lane] = x[i];"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_catches(wrong: str) -> None:
    kind, source = WRONG[wrong]
    with emulator.using(instrumented=True, check_source=False), pytest.raises(kind):
        launch(source, mx.zeros(64))


def test_a_kernel_that_depends_on_the_order_of_threads_is_seen() -> None:
    source = "threadgroup float s; if (i == 0) s = 0; threadgroup_barrier(mem_flags::mem_threadgroup); s = s + x[i];"
    source += "threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = s;"
    x = mx.array(np.random.default_rng(0).standard_normal(64).astype(np.float32))
    results = set()
    for seed in range(5):
        with emulator.using(seed=seed):
            results.add(launch(source, x, group=64)[0].item())
    assert len(results) > 1


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_buffers_go_back_when_a_launch_ends() -> None:
    x = mx.zeros(16 << 20)  # 64 MiB
    mx.eval(x)

    def run() -> None:
        kernel = emulator.metal_kernel("large", ["x"], ["y"], START + "y[i] = x[1000 * i];")
        kernel(inputs=[x], output_shapes=[(64,)], output_dtypes=[mx.float32], grid=(64, 1, 1), threadgroup=(64, 1, 1))

    run()
    before = resident()
    for _ in range(3):
        run()
    assert resident() - before < 100 << 20


def test_what_two_build_at_once_is_never_seen_in_part(tmp_path: Path) -> None:
    # A compiler that takes its time between the first byte and the last.
    slow = "import sys, time; f = open(sys.argv[-1], 'w'); f.write('a'); f.flush(); time.sleep(0.2); f.write('b')"
    target = tmp_path / "made"

    def build(delay: float) -> str:
        time.sleep(delay)
        return toolchain._build(target, [sys.executable, "-c", slow], "it").read_text()

    with ThreadPoolExecutor() as pool:
        assert set(pool.map(build, (0, 0.05, 0.1, 0.15, 0.2))) == {"ab"}
