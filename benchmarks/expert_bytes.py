"""Bytes that a layer's experts ask for, ours and MLX's, counted in emulation. Counts, not timings.

    python -m benchmarks.expert_bytes [--tokens 32] [--bits 4]

The experts of Qwen3-30B-A3B (width 2048, inner width 768, 8 of 128 a token, chosen at random and evenly): one token on
the kernels for few, and so many tokens on the grouped ones. A byte that several lanes of a simdgroup ask for with one
instruction counts once; what several simdgroups ask for counts each time, though a GPU's caches may hold it. 32 results
of each matrix are computed and the counts multiplied, which is exact: all rows of a matrix are read alike.

MLX's kernels are those of its installed headers, launched as its host code does for fewer than 4 pairs of a token and
an expert for each expert: ``gather_qmv_fast`` over gate and up, ``gather_qmv`` over down, a pair at a time. Its
sorting, SwiGLU and weighted sum are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels import experts as few
from qwen3_mlx.kernels import grouped_experts as grouped
from qwen3_mlx.kernels.reference import Packed
from tests.metal import emulator
from tests.metal.emulator.report import Report
from tests.metal.kernels.packing import random_packed

from .kernel_bytes import QUANTIZED

HIDDEN, INNER, STACK, TOP_K, GROUP = 2048, 768, 128, 8, 64
SAMPLE = 32
WEIGHTS, ACTIVATIONS = ("weight", "w", "scales", "biases"), ("x", "inner")


class Case(NamedTuple):
    """What a layer is given; the stacks have ``SAMPLE`` rows of each matrix."""

    x: mx.array
    inner: mx.array
    experts: mx.array
    weights: mx.array
    gate_up: Packed
    down: Packed


def case(tokens: int, bits: int) -> Case:
    rng = np.random.default_rng(0)
    experts = np.stack([rng.permutation(STACK)[:TOP_K] for _ in range(tokens)]).astype(np.uint32)
    return Case(
        mx.ones((tokens, HIDDEN), mx.bfloat16),
        mx.ones((tokens, TOP_K, INNER), mx.bfloat16),
        mx.array(experts),
        mx.full((tokens, TOP_K), 1 / TOP_K),
        random_packed(rng, STACK, 2 * SAMPLE, HIDDEN, bits, GROUP, mx.bfloat16),
        random_packed(rng, STACK, SAMPLE, INNER, bits, GROUP, mx.bfloat16),
    )


class Row(NamedTuple):
    """Bytes of one way: ``distinct`` ones of weights, ``weights`` and ``activations`` requested, ``other``: indices and
    results, read and written."""

    name: str
    distinct: int
    weights: int
    activations: int
    other: int
    launches: int
    simdgroups: int


def counted(name: str, steps: list[tuple[int, Callable[[], object]]]) -> Row:
    """The launches of the steps, each with how often it has to be counted."""
    totals = dict.fromkeys(Row._fields[1:], 0)
    for times, run in steps:
        with emulator.using(instrumented=True, check_source=False), emulator.recording() as reports:
            run()
        for report in reports:
            for field, count in _counts(report).items():
                totals[field] += times * count
            totals["launches"] += report.dispatches
    return Row(name, **totals)


def _counts(report: Report) -> dict[str, int]:
    counts = {"distinct": 0, "weights": 0, "activations": 0, "other": 0, "simdgroups": report.simdgroups}
    for name, buffer in report.buffers.items():
        kind = "weights" if name in WEIGHTS else "activations" if name in ACTIVATIONS else "other"
        counts[kind] += buffer.bytes + buffer.store_bytes
        counts["distinct"] += buffer.distinct if kind == "weights" else 0
    return counts


def ours(c: Case) -> Row:
    first, second = INNER // SAMPLE, HIDDEN // SAMPLE
    tokens = len(c.x)
    with mock.patch.object(mx.fast, "metal_kernel", emulator.metal_kernel):
        if tokens <= few.MAX_ROWS:
            return counted(
                _name("ours", tokens),
                [
                    (first, lambda: few.gate_up_swiglu(c.x, c.experts, c.gate_up)),
                    (second, lambda: few.down_sum(c.inner, c.experts, c.weights, c.down)),
                ],
            )
        groups = grouped.group(c.experts, STACK)
        return counted(
            _name("ours", tokens),
            [
                (1, lambda: grouped.group(c.experts, STACK)),
                (first, lambda: grouped.gate_up_swiglu(c.x, groups, TOP_K, c.gate_up)),
                (second, lambda: grouped.down_sum(c.inner, groups, c.weights, c.down)),
            ],
        )


def _name(side: str, tokens: int) -> str:
    return f"{side}, {tokens} token{'s' * (tokens > 1)}"


def mlx_gather(x: mx.array, experts: mx.array, packed: Packed, fast: str) -> None:
    """One row of ``x [pairs, dims]`` times its expert, for each of ``experts [pairs]``."""
    (pairs, dims), (stack, out, words) = x.shape, packed.weight.shape
    kernel = emulator.Function(QUANTIZED, f"affine_gather_qmv{fast}<bfloat16_t, {packed.group_size}, {packed.bits}>")
    one, strides = np.int32(1), np.array([out * dims // packed.group_size], np.int64)
    kernel.run(
        {
            "w": packed.weight,
            "scales": packed.scales,
            "biases": packed.biases,
            "x": x,
            "lhs_indices": np.arange(pairs, dtype=np.uint32),
            "rhs_indices": experts,
            "y": emulator.Output((pairs, out), mx.bfloat16),
            "in_vec_size": np.int32(dims),
            "out_vec_size": np.int32(out),
            "x_batch_ndims": one,
            "x_shape": np.array([pairs, 1, dims], np.int32),
            "x_strides": np.array([dims, dims, 1], np.int64),
            "w_batch_ndims": one,
            "w_shape": np.array([stack, out, words], np.int32),
            "w_strides": np.array([out * words], np.int64),
            "s_strides": strides,
            "b_strides": strides,
            "batch_ndims": one,
            "batch_shape": np.array([pairs], np.int32),
            "lhs_strides": np.array([1], np.int64),
            "rhs_strides": np.array([1], np.int64),
        },
        (32, 2 * out // 8, pairs),
        (32, 2, 1),
    )


def mlxs(c: Case) -> Row:
    experts, inner = mx.flatten(c.experts), mx.flatten(c.inner, 0, 1)
    spread = mx.repeat(c.x, TOP_K, axis=0)
    return counted(
        _name("MLX", len(c.x)),
        [
            (INNER // SAMPLE, lambda: mlx_gather(spread, experts, c.gate_up, "_fast")),
            (HIDDEN // SAMPLE, lambda: mlx_gather(inner, experts, c.down, "")),
        ],
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, default=32, help="9 to 63")
    p.add_argument("--bits", type=int, default=4, choices=(4, 8))
    given = p.parse_args()
    print(f"{given.bits}-bit experts of one layer of 30B-A3B; MB, counted in emulation")
    print(f"  {'':16} {'distinct':>9} {'weights':>9} {'':6} {'activations':>12} {'':6} {'other':>7}", end="")
    print(f" {'launches':>9} {'simdgroups':>11}")
    for tokens in (1, given.tokens):
        c = case(tokens, given.bits)
        for row in (ours(c), mlxs(c)):
            mb = [count / 1e6 for count in row[1:5]]
            print(
                f"  {row.name:16} {mb[0]:9.2f} {mb[1]:9.2f} {mb[1] / mb[0]:5.2f}x {mb[2]:12.2f} {mb[2] / mb[0]:5.2f}x"
                f" {mb[3]:7.2f} {row.launches:9} {row.simdgroups:11}"
            )


if __name__ == "__main__":
    main()
