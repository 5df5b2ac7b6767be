"""The kernels on MLX's own fused operations (``mx.fast``): for devices that have kernels for them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import mlx.core as mx

from . import reference
from .reference import Frequencies, Norms
from .views import DenseView, Entry, Lengths, Packing, View, filled, unpacked

# Tokens times heads of a packed cache that are unpacked at a time: 16 MB of keys and values in bf16.
UNPACKED = 32768


class Rotation(NamedTuple):
    """What ``mx.fast.rope`` needs at the positions of one forward pass."""

    periods: mx.array
    offset: int | mx.array


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """:func:`reference.rms_norm` for ``weight [dims]``."""
    return mx.fast.rms_norm(x, weight, eps)


def rotation(frequencies: Frequencies, offsets: Lengths, length: int) -> Rotation:
    """:func:`reference.rotation`; each layer's ``rope`` computes its own sines."""
    return Rotation(frequencies.periods, offsets.most if offsets.equal else offsets.array)


def norm_rope(qkv: mx.array, norms: Norms, rotation: Rotation, packing: Packing | None) -> tuple[mx.array, Entry]:
    """:func:`reference.norm_rope`."""
    return reference.norm_rope(qkv, norms, rotation, packing, _turn)


def _turn(heads: mx.array, norms: Norms, rotation: Rotation) -> mx.array:
    normed = mx.multiply(mx.fast.rms_norm(heads, None, norms.eps), norms.heads)
    width, (periods, offset) = heads.shape[-1], rotation
    return mx.fast.rope(normed, width, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods)


def attend(queries: mx.array, view: View, scale: float) -> mx.array:
    """:func:`reference.attend`. Of a packed cache as many heads are unpacked at a time as ``UNPACKED`` allows."""
    if isinstance(view, DenseView):
        return _attend_dense(queries, view, scale)
    kv_heads = view.rows.shape[1]
    at_once = min(max(UNPACKED // view.lengths.most, 1), kv_heads)
    parts: list[mx.array] = []
    for first in range(0, kv_heads, at_once):
        last = min(first + at_once, kv_heads)
        rows = view.rows[:, first:last]
        if parts:
            (rows,) = mx.depends([rows], parts[-1:])  # one after the other, so that each can have the last one's memory
        some = unpacked(view._replace(rows=rows), queries.shape[3], queries.dtype)
        sharing = queries.shape[1] // kv_heads
        parts.append(_attend_dense(queries[:, first * sharing : last * sharing], some, scale))
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def _attend_dense(queries: mx.array, view: DenseView, scale: float) -> mx.array:
    keys, values = filled(view.keys, view.lengths.most), filled(view.values, view.lengths.most)
    mask: str | mx.array | None = "causal" if queries.shape[2] > 1 else None
    if not view.lengths.equal:
        assert mask is None, "several tokens of rows that differ in length"
        mask = view.lengths.seen
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


@functools.cache
def compiled_swiglu() -> reference.Activation:
    """:func:`reference.swiglu` as one kernel; made on first use, because compiling needs a device to compile for."""
    return mx.compile(reference.swiglu, shapeless=True)


def start(offsets: Lengths) -> int | mx.array:
    """:func:`reference.start`; a position that all rows share is one the device need not compute."""
    return offsets.most if offsets.equal else reference.start(offsets)


def write(buffer: mx.array, new: mx.array, start: int | mx.array) -> mx.array:
    """:func:`reference.write`."""
    if isinstance(start, mx.array):
        return reference.write(buffer, new, start)
    buffer[:, :, start : start + new.shape[2]] = new
    return buffer
