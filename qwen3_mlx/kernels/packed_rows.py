"""The layout of keys and values packed to 8 or 4 bits, with packing and unpacking in plain MLX.

A token of a key/value head is one row of ``2 * words(...)`` uint32, the key's words and then the value's, so that
appending is one ``slice_update`` of ``[batch, kv_heads, length, 2 * words]``. Each half holds the codes of the head,
lowest bits first as ``mx.quantize`` packs them, then one word a group: the scale in the low 16 bits, the bias in the
high 16, both bf16 or float16. A coordinate is ``scale * code + bias``.

How a group is packed, with ``n = 2^bits - 1``: ``bias`` is its value of largest magnitude (code 0, as in
``mx.quantize``) and ``scale = (the opposite extreme - bias) / n``, at least 1e-7 in magnitude; both are rounded *away
from zero*, so that the codes reach every value. ``code = rint((value - bias) / scale)`` with the scale and bias as
stored. So no value is further off than half a step of the stored scale.

``mx.quantize`` rounds scale and bias to nearest after it has chosen the codes: of normal values in bf16 at 8 bits its
largest error is twice this one's and its root mean square error 1.36 times (at 4 bits 1.5 and 1.01-1.03 times; measured
on the CPU). It also moves the scale so that zero gets a code, which scales and biases of 16 bits do not keep; here zero
is a value like others. A group of zeros is zeros exactly; a group with an infinity or a NaN is NaN as a whole.
"""

from __future__ import annotations

import mlx.core as mx

#: The least magnitude of a scale, that of ``mx.quantize``.
LEAST_SCALE = 1e-7


def words(head_dim: int, bits: int, group_size: int) -> int:
    """uint32 words of a packed key or value: 34 for 128 values of 8 bits in groups of 64."""
    return head_dim * bits // 32 + head_dim // group_size


def scale_dtype(dtype: mx.Dtype) -> mx.Dtype:
    """What scales and biases are stored in beside activations of ``dtype``: the same if it has 16 bits, else bf16."""
    return dtype if dtype == mx.float16 else mx.bfloat16


def pack(keys: mx.array, values: mx.array, bits: int, group_size: int, dtype: mx.Dtype) -> mx.array:
    """``keys``, ``values [..., head_dim]`` (any float type) -> ``[..., 2 * words]`` uint32; ``dtype``: that of scales
    and biases, bfloat16 or float16."""
    both = mx.stack([keys.astype(mx.float32), values.astype(mx.float32)], axis=-2)
    return mx.flatten(_pack(both, bits, group_size, dtype), -2)


def unpack(rows: mx.array, head_dim: int, bits: int, group_size: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """``rows [..., 2 * words]`` -> keys and values ``[..., head_dim]`` in float32, as exactly as that can be;
    ``dtype``: that of scales and biases."""
    keys, values = mx.split(rows, 2, axis=-1)
    return _unpack(keys, head_dim, bits, group_size, dtype), _unpack(values, head_dim, bits, group_size, dtype)


def _pack(x: mx.array, bits: int, group_size: int, dtype: mx.Dtype) -> mx.array:
    groups = mx.unflatten(x, -1, (-1, group_size))
    low, high = mx.min(groups, axis=-1, keepdims=True), mx.max(groups, axis=-1, keepdims=True)
    below = -low > high
    whole = mx.all(mx.isfinite(groups), axis=-1, keepdims=True)
    bias = _away_from_zero(mx.where(whole, mx.where(below, low, high), mx.nan), dtype)
    span = mx.where(below, high, low) - bias.astype(mx.float32)
    step = mx.maximum(mx.abs(span) / (2**bits - 1), LEAST_SCALE)
    scale = _away_from_zero(mx.where(below, step, -step), dtype)

    codes = mx.round((groups - bias.astype(mx.float32)) / scale.astype(mx.float32))
    codes = mx.where(whole, mx.clip(codes, 0, 2**bits - 1), 0).astype(mx.uint32)
    codes = mx.unflatten(mx.flatten(codes, -2), -1, (-1, 32 // bits))
    packed = mx.sum(mx.left_shift(codes, mx.arange(0, 32, bits, dtype=mx.uint32)), axis=-1)
    pairs = mx.concatenate([scale, bias], axis=-1).view(mx.uint32)
    return mx.concatenate([packed, mx.squeeze(pairs, -1)], axis=-1)


def _away_from_zero(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """The nearest value of a 16-bit ``dtype`` that is not smaller in magnitude: the next bit pattern if rounding to
    nearest has shrunk it."""
    near = x.astype(dtype)
    shrunk = mx.abs(near.astype(mx.float32)) < mx.abs(x)
    return (near.view(mx.uint16) + shrunk.astype(mx.uint16)).view(dtype)


def _unpack(half: mx.array, head_dim: int, bits: int, group_size: int, dtype: mx.Dtype) -> mx.array:
    codes, pairs = mx.split(half, [head_dim * bits // 32], axis=-1)
    pairs = mx.unflatten(mx.contiguous(pairs).view(dtype).astype(mx.float32), -1, (-1, 2))
    scales, biases = pairs[..., 0], pairs[..., 1]
    return mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits)
