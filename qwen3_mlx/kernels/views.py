"""What a cache hands to ``attend``: the keys and values so far. Only the kernels look inside."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class DenseView(NamedTuple):
    """Buffers ``[batch, kv_heads, capacity, head_dim]`` of which the first ``length`` positions are filled."""

    keys: mx.array
    values: mx.array
    length: int


class QuantizedView(NamedTuple):
    """Affine-packed buffers ``(weight, scales, biases)``, each ``[batch, kv_heads, capacity, ...]`` with the head's
    values packed along the last axis; the first ``length`` positions are filled."""

    keys: tuple[mx.array, mx.array, mx.array]
    values: tuple[mx.array, mx.array, mx.array]
    length: int
    bits: int
    group_size: int
    dtype: mx.Dtype


View = DenseView | QuantizedView


def filled(buffer: mx.array, length: int) -> mx.array:
    """The filled part of a buffer, as a view of it (``split`` is the cheapest way to a static slice)."""
    return buffer if buffer.shape[2] == length else mx.split(buffer, [length], axis=2)[0]


def unpacked(view: QuantizedView) -> DenseView:
    """The filled part in full precision."""

    def dequantize(packed: tuple[mx.array, mx.array, mx.array]) -> mx.array:
        weight, scales, biases = (filled(part, view.length) for part in packed)
        return mx.dequantize(weight, scales, biases, view.group_size, view.bits, dtype=view.dtype)

    return DenseView(dequantize(view.keys), dequantize(view.values), view.length)
