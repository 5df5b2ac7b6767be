"""What a cache stores of a token and hands to ``attend``: keys and values, in full precision or packed. Only the
kernels look inside."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from . import packed_rows


class Packing(NamedTuple):
    """How a cache packs keys and values: codes of ``bits`` bits, ``group_size`` of which share a scale and a bias."""

    bits: int
    group_size: int


#: New tokens as a cache stores them: keys and values ``[batch, kv_heads, length, head_dim]``, or packed rows alone
#: (:mod:`packed_rows`) ``[batch, kv_heads, length, 2 * words]``.
Entry = tuple[mx.array, ...]


class DenseView(NamedTuple):
    """Buffers ``[batch, kv_heads, capacity, head_dim]`` of which the first ``length`` positions are filled."""

    keys: mx.array
    values: mx.array
    length: int


class PackedView(NamedTuple):
    """A buffer of packed rows ``[batch, kv_heads, capacity, 2 * words]`` of which the first ``length`` positions are
    filled."""

    rows: mx.array
    length: int
    packing: Packing


View = DenseView | PackedView


def entry(keys: mx.array, values: mx.array, packing: Packing | None) -> Entry:
    """Keys and values in the form of a cache that packs in this way; ``values`` are of the activations' dtype."""
    if packing is None:
        return keys, values
    return (packed_rows.pack(keys, values, *packing, packed_rows.scale_dtype(values.dtype)),)


def filled(buffer: mx.array, length: int) -> mx.array:
    """The filled part of a buffer, as a view of it (``split`` is the cheapest way to a static slice)."""
    return buffer if buffer.shape[2] == length else mx.split(buffer, [length], axis=2)[0]


def unpacked(view: PackedView, head_dim: int, dtype: mx.Dtype) -> DenseView:
    """The filled part in full precision; ``dtype``: that of the activations."""
    rows = filled(view.rows, view.length)
    keys, values = packed_rows.unpack(rows, head_dim, *view.packing, packed_rows.scale_dtype(dtype))
    return DenseView(keys.astype(dtype), values.astype(dtype), view.length)
