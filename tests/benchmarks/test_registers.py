"""The count of registers, where its compiler is installed."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import registers
from benchmarks.registers import TARGET, Count
from qwen3_mlx.kernels import decode_attention, experts
from qwen3_mlx.kernels.packed_rows import words
from qwen3_mlx.kernels.reference import Packed
from tests.metal.sources import recorded

GREEDY = """
    uint lane = thread_index_in_simdgroup;
    float held[COUNT];
    #pragma clang loop unroll(full)
    for (int i = 0; i < COUNT; i++) { held[i] = x[i * 32 + lane]; }
    #pragma clang loop unroll(full)
    for (int i = 0; i < COUNT; i++) { held[i] = fma(simd_sum(held[i]), held[COUNT - 1 - i], held[i]); }
    float sum = 0.0f;
    #pragma clang loop unroll(full)
    for (int i = 0; i < COUNT; i++) { sum = fma(sum, held[i], held[COUNT - 1 - i]); }
    y[lane] = sum;
"""


@pytest.fixture(autouse=True)
def _compiler() -> None:
    try:
        registers.nvrtc()
    except registers.NoNvrtcError as missing:
        pytest.skip(str(missing))


def greedy(count: int) -> Count:
    """A kernel that holds so many numbers in each thread."""

    def run() -> Any:
        kernel: Any = mx.fast.metal_kernel(name="greedy", input_names=["x"], output_names=["y"], source=GREEDY)
        return kernel(
            inputs=[mx.zeros((32 * count,))],
            template=[("COUNT", count)],
            grid=(32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[(32,)],
            output_dtypes=[mx.float32],
        )

    (source,) = recorded(run)
    return registers.count(registers.cuda(source.text))


def test_a_kernel_that_must_spill_is_found() -> None:
    few, many = greedy(40), greedy(200)
    assert few.registers <= TARGET and few.local == 0
    assert many.registers > TARGET and many.local >= 4 * (200 - TARGET)


def test_the_largest_kernels_need_not_spill() -> None:
    width = 2 * words(128, 8, 64)
    segment = decode_attention.Segment(mx.zeros((1, 1, 1, width), mx.uint32), mx.zeros((1,), mx.int32))
    queries, chosen = mx.zeros((1, 8, 128), mx.bfloat16), mx.zeros((1, 8), mx.uint32)
    ends = mx.zeros((1, 256, 32), mx.bfloat16)
    stack = Packed(mx.zeros((1, 256, 256), mx.uint32), ends, ends, 4, 64)
    runs = [
        functools.partial(decode_attention.attend, queries, [segment] * held, 1.0, [tokens], 8, 64)
        for held, tokens in ((1, 1), (3, 1000))
    ]
    runs.append(functools.partial(experts.gate_up_swiglu, mx.zeros((1, 2048), mx.bfloat16), chosen, stack))
    sources = [source for run in runs for source in recorded(run)]
    assert len(sources) == 4  # one of them merges
    counts = [registers.count(registers.cuda(source.text)) for source in sources]
    assert counts[0].registers <= TARGET and all(found.local == 0 for found in counts)
