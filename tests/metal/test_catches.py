"""For everything the emulator must catch, a kernel that does it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from . import emulator
from .emulator import errors
from .test_emulator import _compiler  # noqa: F401


def launch(source: str, n: int = 64, size: int = 64, group: int = 64, header: str = "", **inputs: mx.array) -> mx.array:
    inputs = inputs or {"x": mx.arange(size).astype(mx.float32)}
    body = "uint i = thread_position_in_grid.x; uint lane = thread_index_in_simdgroup;\n" + source
    kernel = emulator.metal_kernel("broken", list(inputs), ["y"], body, header=header)
    return kernel(
        inputs=list(inputs.values()),
        output_shapes=[(n,)],
        output_dtypes=[mx.float32],
        grid=(n, 1, 1),
        threadgroup=(group, 1, 1),
    )[0]


FINE = "y[i] = x[i];"
RUNS: list[tuple[str, type[Exception], str]] = [
    ("read past", errors.OutOfBoundsError, "y[i] = x[i + 1];"),
    ("read before", errors.OutOfBoundsError, "y[i] = x[int(i) - 1];"),
    ("write past", errors.OutOfBoundsError, "y[i + 1] = x[i];"),
    ("write before", errors.OutOfBoundsError, "y[int(i) - 1] = x[i];"),
    ("read far past", errors.OutOfBoundsError, "y[i] = x[i + 100000000];"),
    ("write to an input", errors.ReadOnlyError, "y[i] = x[i]; ((device float*)x)[i] = 0;"),
    ("vector", errors.MisalignedError, "float4 v = *(const device float4*)(x + 1 + 0 * i); y[i] = dot(v, v);"),
    ("unwritten output", errors.UnwrittenOutputError, "if (i != 5) y[i] = x[i];"),
    ("output read first", errors.UninitialisedReadError, "y[i] = y[i] + x[i];"),
    (
        "threadgroup array",
        errors.UninitialisedReadError,
        "threadgroup float s[64]; s[i] = 1; y[i] = s[i] + s[0] + s[63];",
    ),
    ("threadgroup scalar", errors.UninitialisedReadError, "threadgroup float s; y[i] = s + x[i];"),
    ("threadgroup race", errors.RaceError, "threadgroup float s[64]; s[i] = x[i]; y[i] = s[i] + s[0];"),
    ("scalar race", errors.RaceError, "threadgroup float s; s = x[i]; y[i] = s;"),
    ("device race", errors.RaceError, "y[i / 2] = x[i]; y[i / 2 + 32] = x[i];"),
    (
        "barrier of the wrong memory",
        errors.RaceError,
        "threadgroup float s[64]; s[i] = x[i]; threadgroup_barrier(mem_flags::mem_device); y[i] = s[63 - i];",
    ),
    (
        "simdgroup barrier across simdgroups",
        errors.RaceError,
        "threadgroup float s[64]; s[i] = 0; threadgroup_barrier(mem_flags::mem_threadgroup); "
        "s[i] = x[i]; simdgroup_barrier(mem_flags::mem_threadgroup); y[i] = s[63 - i];",
    ),
    ("simd in a branch", errors.SimdError, "float v = 0; if (lane < 16) v = simd_sum(x[i]); y[i] = v;"),
    (
        "simd in both branches",
        errors.SimdDivergenceError,
        "float v;\nif (lane < 16)\n v = simd_sum(x[i]);\nelse\n v = simd_sum(2 * x[i]);\ny[i] = v;",
    ),
    (
        "simd mismatch",
        errors.SimdMismatchError,
        "float v; if (lane < 16) v = simd_sum(x[i]); else v = simd_max(x[i]); y[i] = v;",
    ),
    ("simd after exit", errors.SimdAfterExitError, "y[i] = 0; if (lane == 3) return; y[i] = simd_sum(x[i]);"),
    ("simd lane", errors.SimdLaneError, "y[i] = simd_shuffle(x[i], ushort(lane + 1));"),
    (
        "barrier in a branch",
        errors.BarrierDivergenceError,
        "y[i] = x[i]; if (i < 32) threadgroup_barrier(mem_flags::mem_threadgroup);",
    ),
    (
        "two barriers",
        errors.BarrierDivergenceError,
        "y[i] = x[i];\nif (i < 32)\n threadgroup_barrier(mem_flags::mem_device);\n"
        "else\n threadgroup_barrier(mem_flags::mem_device);",
    ),
    ("threadgroup memory", errors.ThreadgroupMemoryError, "threadgroup float s[8193]; s[i] = x[i]; y[i] = s[i];"),
    ("division by zero", errors.ArithmeticFault, "y[i] = float(7 / (int(x[i]) - int(x[i])));"),
]


@pytest.mark.parametrize(("kind", "source"), [r[1:] for r in RUNS], ids=[r[0] for r in RUNS])
def test_instrumented(kind: type[Exception], source: str) -> None:
    with emulator.using(instrumented=True, check_source=False), pytest.raises(kind) as raised:
        launch(source)
    assert "broken" in str(raised.value)


PLAIN = {"read past", "write past", "write before", "unwritten output", "write to an input", "simd mismatch"}
PLAIN |= {"barrier in a branch", "simd after exit", "threadgroup memory"}


@pytest.mark.parametrize("run", [r for r in RUNS if r[0] in PLAIN], ids=lambda r: r[0])
def test_plain(run: tuple[str, type[Exception], str]) -> None:
    _, kind, source = run
    with emulator.using(check_source=False), pytest.raises(kind):
        launch(source)


def test_the_error_names_where() -> None:
    with emulator.using(instrumented=True), pytest.raises(errors.OutOfBoundsError) as raised:
        launch("y[i] = x[i + 1];")
    assert str(raised.value) == (
        "broken: thread (63, 0, 0) of threadgroup (0, 0, 0) reads 4 bytes at byte 256 of buffer `x` (256 bytes)"
    )


def test_fine_kernels_pass() -> None:
    with emulator.using(instrumented=True):
        launch(FINE)
        launch(
            "threadgroup float s[64]; s[i] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); y[i] = s[63 - i];"
        )
        launch("threadgroup float s[64]; s[i] = x[i]; simdgroup_barrier(mem_flags::mem_threadgroup); y[i] = s[i ^ 31];")


SOURCES: list[tuple[type[Exception], dict[str, Any]]] = [
    (errors.NonAsciiError, {"source": FINE + " // \u00e9"}),
    (errors.DoubleError, {"source": "y[i] = x[i] * 1.5;"}),
    (errors.DoubleError, {"source": "y[i] = double(x[i]);"}),
    (
        errors.RecursiveKernelError,
        {"source": "y[i] = f(x[i], 3);", "header": "float f(float v, int n) { return n ? f(v, n - 1) * v : v; }\n"},
    ),
    (
        errors.AddressSpaceError,
        {"source": "y[i] = f(x);", "size": 4, "header": "float f(const device float* p) { return p[0]; }\n"},
    ),
    (
        errors.AddressSpaceError,
        {
            "source": "y[i] = f(x);",
            "size": 4,
            "header": "template <typename T> T f(const device T* p) { return p[0]; }\n",
        },
    ),
    (
        errors.AddressSpaceError,
        {"source": "threadgroup float s[1]; s[0] = 1; const device float* p = s; y[i] = p[0];"},
    ),
]


@pytest.mark.parametrize(("kind", "what"), SOURCES)
def test_sources(kind: type[Exception], what: dict[str, Any]) -> None:
    with pytest.raises(kind):
        launch(**what)


def test_a_device_pointer_is_fine_for_a_large_input() -> None:
    header = "template <typename T> T f(const device T* p) { return p[0]; }\n"
    launch("const device float* q = &x[1]; y[i] = f(x) + f(x + 1) + f(q);", header=header)


def test_too_many_buffers() -> None:
    inputs: Any = {f"x{i}": mx.arange(64).astype(mx.float32) for i in range(31)}
    with pytest.raises(errors.TooManyBuffersError):
        launch("y[i] = x0[i];", **inputs)


LOOPS = {
    "alone": "while (x[i] >= 0) {} y[i] = x[i];",
    "with a simd operation": "float v = x[i]; while (simd_any(v >= 0)) v = abs(v); y[i] = v;",
    "with a barrier": "y[i] = x[i]; while (true) threadgroup_barrier(mem_flags::mem_threadgroup);",
    "with a function": "float v = x[i]; while (v >= 0) v = abs(precise::sin(v)); y[i] = v;",
}


@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_never_ends(loop: str, instrumented: bool) -> None:
    with emulator.using(instrumented=instrumented, check_source=False, seconds=0.05):
        with pytest.raises(errors.TooLongError):
            launch(LOOPS[loop])
        launch(FINE)  # the next launch has its own time


def halves(source: str) -> mx.array:
    kernel = emulator.metal_kernel("halves", ["x"], ["y"], "uint i = thread_position_in_grid.x;\n" + source)
    x = mx.full((64,), 0xA5A5, mx.uint16).view(mx.float16)
    return kernel(
        inputs=[x], output_shapes=[(64,)], output_dtypes=[mx.float16], grid=(64, 1, 1), threadgroup=(64, 1, 1)
    )[0]


def test_a_result_that_looks_like_poison_is_a_result() -> None:
    assert (halves("y[i] = x[i];").view(mx.uint16) == 0xA5A5).all()
    with pytest.raises(
        errors.UnwrittenOutputError, match="2 of the 128 bytes of `y` were not written, the first at byte 10"
    ):
        halves("if (i != 5) y[i] = x[i];")
