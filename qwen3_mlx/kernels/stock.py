"""The kernels on MLX's own fused operations (``mx.fast``): for devices that have kernels for them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import mlx.core as mx

from . import reference
from .reference import Frequencies
from .views import QuantizedView, View, filled, unpacked


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


def norm_rope(heads: mx.array, weight: mx.array, eps: float, rotation: Rotation) -> mx.array:
    """:func:`reference.norm_rope`."""
    normed = mx.multiply(mx.fast.rms_norm(heads, None, eps), weight)
    width, (periods, offset) = heads.shape[-1], rotation
    return mx.fast.rope(normed, width, traditional=False, base=None, scale=1.0, offset=offset, freqs=periods)


def attend(queries: mx.array, view: View, scale: float) -> mx.array:
    """:func:`reference.attend`. One step over a packed cache reads it packed."""
    length = queries.shape[2]
    if isinstance(view, QuantizedView):
        if length == 1:
            return _attend_packed(queries, view, scale)
        view = unpacked(view)
    keys, values = filled(view.keys, view.length), filled(view.values, view.length)
    mask = "causal" if length > 1 else None
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def _attend_packed(queries: mx.array, view: QuantizedView, scale: float) -> mx.array:
    keys, key_scales, key_biases = (filled(part, view.length) for part in view.keys)
    values, value_scales, value_biases = (filled(part, view.length) for part in view.values)
    group, bits = view.group_size, view.bits
    batch, heads, _, width = queries.shape
    rows = mx.reshape(queries * scale, (batch, keys.shape[1], -1, width))
    scores = mx.quantized_matmul(rows, keys, key_scales, key_biases, True, group, bits)
    weights = mx.softmax(scores, axis=-1, precise=True)
    out = mx.quantized_matmul(weights, values, value_scales, value_biases, False, group, bits)
    return mx.reshape(out, (batch, heads, 1, width))


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
