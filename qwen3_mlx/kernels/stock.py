"""The kernels on MLX's own fused operations (``mx.fast``): for devices that have kernels for them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import mlx.core as mx

from . import reference
from .reference import Frequencies, Norms
from .views import DenseView, Entry, PackedView, Packing, View, filled, unpacked


class Rotation(NamedTuple):
    """What ``mx.fast.rope`` needs at the positions of one forward pass."""

    periods: mx.array
    offset: int


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """:func:`reference.rms_norm` for ``weight [dims]``."""
    return mx.fast.rms_norm(x, weight, eps)


def rotation(frequencies: Frequencies, offset: int, length: int) -> Rotation:
    """:func:`reference.rotation`; each layer's ``rope`` computes its own sines."""
    return Rotation(frequencies.periods, offset)


def norm_rope(qkv: mx.array, norms: Norms, rotation: Rotation, packing: Packing | None) -> tuple[mx.array, Entry]:
    """:func:`reference.norm_rope`."""
    return reference.norm_rope(qkv, norms, rotation, packing, _turn)


def _turn(heads: mx.array, norms: Norms, rotation: Rotation) -> mx.array:
    normed = mx.multiply(mx.fast.rms_norm(heads, None, norms.eps), norms.heads)
    width, (periods, offset) = heads.shape[-1], rotation
    return mx.fast.rope(normed, width, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods)


def attend(queries: mx.array, view: View, scale: float) -> mx.array:
    """:func:`reference.attend`. A prefill over a packed cache unpacks one key/value head at a time."""
    if isinstance(view, DenseView):
        return _attend_dense(queries, view, scale)
    head_dim, dtype = queries.shape[3], queries.dtype
    if queries.shape[2] == 1:
        return _attend_dense(queries, unpacked(view, head_dim, dtype), scale)
    heads = mx.split(view.rows, view.rows.shape[1], axis=1)
    out = []
    for rows, sharing in zip(heads, mx.split(queries, len(heads), axis=1), strict=True):
        head = unpacked(PackedView(rows, view.length, view.packing), head_dim, dtype)
        out.append(_attend_dense(sharing, head, scale))
    return mx.concatenate(out, axis=1)


def _attend_dense(queries: mx.array, view: DenseView, scale: float) -> mx.array:
    keys, values = filled(view.keys, view.length), filled(view.values, view.length)
    mask = "causal" if queries.shape[2] > 1 else None
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


@functools.cache
def compiled_swiglu() -> reference.Activation:
    """:func:`reference.swiglu` as one kernel; made on first use, because compiling needs a device to compile for."""
    return mx.compile(reference.swiglu, shapeless=True)


def start(offset: int) -> int:
    """:func:`reference.start`."""
    return offset


def write(buffer: mx.array, new: mx.array, start: int) -> mx.array:
    """:func:`reference.write` at a position the device need not compute."""
    buffer[:, :, start : start + new.shape[2]] = new
    return buffer
