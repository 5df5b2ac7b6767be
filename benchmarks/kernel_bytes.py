"""Bytes that one decode step's attention asks for, ours and MLX's, counted in emulation. Counts, not timings.

    python -m benchmarks.kernel_bytes [--tokens 4096]

One key/value head of Qwen3-30B-A3B (8 query heads, width 128) and one row. A byte that several lanes of a simdgroup ask
for with one instruction counts once; what several simdgroups ask for counts each time, though a GPU's caches may hold
it. MLX's kernels are those of its installed headers, launched as its host code does: over bf16,
``sdpa_vector_2pass_1`` in 128 blocks (the Max and Ultra chips') below 8192 tokens and its ``gqa`` variant from there,
then ``sdpa_vector_2pass_2``; over a quantized cache, ``qmv_quad``, softmax and ``qmm_n``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels import decode_attention
from tests.metal import emulator
from tests.metal.emulator.report import Report
from tests.metal.kernels.histories import Layout, random_history, segment

HEADS, WIDTH, GROUP = 8, 128, 64
SCALE = WIDTH**-0.5
FOLDER = "mlx/backend/metal/kernels"
UTILS = f'#include "{FOLDER}/utils.h"\n'
SDPA = f'{UTILS}#include "{FOLDER}/sdpa_vector.h"\n'
QUANTIZED = f"""{UTILS}#include "{FOLDER}/steel/gemm/gemm.h"
#include "{FOLDER}/quantized_utils.h"
#include "{FOLDER}/quantized.h"
"""


class Row(NamedTuple):
    """Bytes of one way: ``cache`` of distinct keys and values, ``read`` of them requested, ``other``: queries, scores
    and partial results, read and written."""

    name: str
    cache: int
    read: int
    other: int
    launches: int
    simdgroups: int


def counted(name: str, run: Callable[[], object], cache: Sequence[str]) -> Row:
    """The launches of ``run``, whose buffers named in ``cache`` hold keys and values."""
    with emulator.using(instrumented=True, check_source=False), emulator.recording() as reports:
        run()

    def total(value: Callable[[Report, str], int], held: bool) -> int:
        return sum(value(r, b) for r in reports for b in r.buffers if (b in cache) == held)

    return Row(
        name,
        total(lambda r, b: r.buffers[b].distinct, True),
        total(lambda r, b: r.buffers[b].bytes, True),
        total(lambda r, b: r.buffers[b].bytes + r.buffers[b].store_bytes, False),
        sum(r.dispatches for r in reports),
        sum(r.simdgroups for r in reports),
    )


def ours(tokens: int, bits: int) -> Row:
    layout = Layout(HEADS, WIDTH, bits, GROUP)
    rng = np.random.default_rng(0)
    queries = mx.array(rng.standard_normal((1, HEADS, WIDTH)).astype(np.float32)).astype(mx.bfloat16)
    held = segment([random_history(rng, layout, tokens)])

    def run() -> None:
        with mock.patch.object(mx.fast, "metal_kernel", emulator.metal_kernel):
            decode_attention.attend(queries, [held], SCALE, [tokens], bits, GROUP)

    return counted(f"ours, {bits} bits", run, ["rows0"])


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(mx.bfloat16)


def mlx_bf16(tokens: int) -> Row:
    gqa, blocks = tokens >= 8192, 128 if tokens <= 8192 else 256
    kind = f"_gqa<bfloat16_t, {WIDTH}, {WIDTH}, {HEADS}, 4>" if gqa else f"<bfloat16_t, {WIDTH}, {WIDTH}>"
    attention = emulator.Function(SDPA, f"sdpa_vector_2pass_1{kind}", {26: blocks})
    merge = emulator.Function(SDPA, f"sdpa_vector_2pass_2<bfloat16_t, {WIDTH}>")
    strides = {"head_stride": tokens * WIDTH, "seq_stride": WIDTH}
    inputs = {
        "queries": normal(HEADS, WIDTH),
        "keys": normal(tokens, WIDTH, seed=1),
        "values": normal(tokens, WIDTH, seed=2),
        "N": np.int32(tokens),
        "scale": np.float32(SCALE),
        **{f"{side}_{name}": np.uint64(stride) for side in "kv" for name, stride in strides.items()},
    }
    partials = {
        "out": emulator.Output((HEADS, blocks, WIDTH), mx.bfloat16),
        "sums": emulator.Output((HEADS, blocks), mx.float32),
        "maxs": emulator.Output((HEADS, blocks), mx.float32),
    }

    def run() -> None:
        parts = attention.run({**inputs, **partials}, (32, HEADS, blocks), (32, HEADS, 1))
        parts["partials"] = parts.pop("out")
        out = emulator.Output((HEADS, WIDTH), mx.bfloat16)
        merge.run({**parts, "blocks": np.int32(blocks), "out": out}, (1024 * HEADS, 1, 1), (1024, 1, 1))

    return counted(f"MLX, bf16{' (gqa)' if gqa else ''}", run, ["keys", "values"])


def mlx_quantized(tokens: int, bits: int) -> Row:
    names, packing = ("w", "scales", "biases"), f"bfloat16_t, {GROUP}, {bits}"
    products = emulator.Function(QUANTIZED, f"affine_qmv_quad<{packing}, {WIDTH}, false>")
    sums = emulator.Function(QUANTIZED, f"affine_qmm_n<{packing}, false>")
    keys, values = (
        dict(zip(names, mx.quantize(normal(tokens, WIDTH, seed=seed), GROUP, bits), strict=True)) for seed in (1, 2)
    )
    scores = emulator.Output((HEADS, tokens), mx.bfloat16)
    out = emulator.Output((HEADS, WIDTH), mx.bfloat16)
    long, wide, high = np.int32(tokens), np.int32(WIDTH), np.int32(HEADS)

    def run() -> None:
        sizes = {"in_vec_size": wide, "out_vec_size": long}
        grid = (32 * HEADS, -(-tokens // 64), 1)
        x = products.run({**keys, **sizes, "x": normal(HEADS, WIDTH), "y": scores}, grid, (32, 1, 1))["y"]
        x = mx.softmax(x, axis=-1, precise=True)
        sizes = {"K": long, "N": wide, "M": high}
        sums.run({**values, **sizes, "x": x, "y": out}, (WIDTH, 2, 2), (32, 2, 2))

    row = counted(f"MLX, {bits} bits", run, names)
    # The softmax is not run: a threadgroup a row, at least one read and one write of every score.
    softmax = 2 * HEADS * tokens * mx.bfloat16.size
    threads = min(1024, -(-tokens // 128) * 32)
    return row._replace(
        other=row.other + softmax, launches=row.launches + 1, simdgroups=row.simdgroups + HEADS * threads // 32
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, default=4096, help="1024 or more (MLX runs other kernels below)")
    tokens = p.parse_args().tokens
    print(f"{HEADS} query heads over one key/value head of {tokens} tokens; kB, counted in emulation")
    print(f"  {'':22} {'cache':>8} {'requested':>10} {'':>6} {'the rest':>9} {'launches':>9} {'simdgroups':>11}")
    for row in (ours(tokens, 8), ours(tokens, 4), mlx_bf16(tokens), mlx_quantized(tokens, 8), mlx_quantized(tokens, 4)):
        print(
            f"  {row.name:22} {row.cache / 1e3:8.0f} {row.read / 1e3:10.0f} {row.read / row.cache:5.2f}x"
            f" {row.other / 1e3:9.0f} {row.launches:9} {row.simdgroups:11}"
        )


if __name__ == "__main__":
    main()
