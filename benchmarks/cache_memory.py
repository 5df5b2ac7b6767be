"""Peak memory of attention at 32k tokens of context, over a cache in bf16 and packed. Bytes, not timings.

    python -m benchmarks.cache_memory [--context 32768]

The head layout of Qwen3-8B: 36 layers, 32 query heads, 8 key/value heads of 128. One layer's cache is made and one
forward pass attends to it on stock operations (which is what a prefill does, and a step where the decode kernel is not
used); ``mx.get_peak_memory`` says what that takes besides. All layers hold a cache, one at a time attends: 36 times
the one and once the other is the peak. Fused attention, which a CPU does not have, is stood in for by something that
reads keys and values and holds no scores either. ``mx.dequantize``, one kernel on a GPU, unfolds on a CPU and takes
more here than there.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx

from qwen3_mlx.kernels import DenseView, Lengths, PackedView, Packing, View, packed_rows, stock

LAYERS, Q_HEADS, KV_HEADS, WIDTH = 36, 32, 8, 128
LENGTHS = {"a step": 1, "512 tokens of a prompt": 512}


class Peak(NamedTuple):
    """Bytes that one layer's cache holds, and that one pass takes besides, its queries and result included."""

    held: int
    scratch: int

    @property
    def total(self) -> int:
        return LAYERS * self.held + self.scratch


def fused(queries: mx.array, keys: mx.array, values: mx.array, **_: Any) -> mx.array:
    read = mx.sum(keys, axis=2, keepdims=True) + mx.sum(values, axis=2, keepdims=True)
    return queries * mx.repeat(read, queries.shape[1] // keys.shape[1], axis=1)


def view(context: int, bits: int | None) -> View:
    if bits is None:
        keys, values = (mx.zeros((1, KV_HEADS, context, WIDTH), mx.bfloat16) for _ in range(2))
        mx.eval(keys, values)
        return DenseView(keys, values, Lengths((context,)))
    packing = Packing(bits, 64)
    rows = mx.zeros((1, KV_HEADS, context, 2 * packed_rows.words(WIDTH, *packing)), mx.uint32)
    mx.eval(rows)
    return PackedView(rows, Lengths((context,)), packing)


def peak(context: int, length: int, bits: int | None) -> Peak:
    mx.clear_cache()
    before = mx.get_active_memory()
    held_view = view(context, bits)
    held = mx.get_active_memory() - before
    mx.reset_peak_memory()
    queries = mx.zeros((1, Q_HEADS, length, WIDTH), mx.bfloat16)
    with mock.patch.object(mx.fast, "scaled_dot_product_attention", fused):
        mx.eval(stock.attend(queries, held_view, 1.0))
    return Peak(held, mx.get_peak_memory() - before - held)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=32768)
    context = parser.parse_args().context
    print(f"{context} tokens; MB: a layer's cache, besides, {LAYERS} layers' peak")
    for name, length in LENGTHS.items():
        dense = peak(context, length, None)
        for bits in (None, 8, 4):
            p = peak(context, length, bits)
            print(f"  {name:24} {f'{bits} bits' if bits else 'bf16':8}", end="")
            print(f"{p.held / 1e6:8.1f} {p.scratch / 1e6:8.1f} {p.total / 1e6:9.1f} {p.total / dense.total:6.2f}x")


if __name__ == "__main__":
    main()
