"""What happens between the projection of queries, keys and values and attention, as one Metal kernel a layer.

Queries and keys are normalised and rotated; keys and values leave as the cache stores them, packed
(:func:`norm_rope_pack`) or not (:func:`norm_rope`). Everything is float32 and rounded once. A token's result depends on
nothing but that token and its position.

**Cosines and sines are a table**, made by one more launch a step for all layers (:func:`rotation`), not by each head of
each layer: a head reads 4 bytes a coordinate, where it would read 2 of frequencies and compute the cosine and sine of
each pair twice. And one table can afford to be exact: an angle is an integer product in units of 2^-64 turns, modulo
one turn, so that only the rounding of the reduced angle, its cosine and its sine to float32 are left. Up to position
131,071 (theta 1e6, YaRN too) the rotation is within 1.1e-7 radians of float64's, each cosine and sine within 3 ulp (in
emulation); ``position * frequency`` in float32 is off by up to 3.9e-3 radians, ``mx.fast.rope``, which takes the
reciprocal of rounded periods besides, by up to 1.2e-2 (MLX's on the CPU). The frequencies themselves are the model's
float32 ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from . import packed_rows
from .metal_source import build, factory
from .reference import Norms

#: Threads of a threadgroup: four heads of one token, which share its line of the table.
THREADS = 128

_INPUTS = ["x", "q_weight", "k_weight", "rotation", "eps"]


@functools.cache
def _table(make: Any) -> Callable[..., Any]:
    return build(make, "norm_rope_table", ["offsets", "turns"], ["rotation"])


@functools.cache
def _plain(make: Any) -> Callable[..., Any]:
    return build(make, "norm_rope", _INPUTS, ["queries", "keys", "values"], "affine", "norm_rope_head")


@functools.cache
def _packing(make: Any) -> Callable[..., Any]:
    return build(make, "norm_rope_pack", _INPUTS, ["queries", "rows"], "affine", "norm_rope_head")


@functools.cache
def _scalar(value: float) -> mx.array:
    return mx.array(value, mx.float32)


def supported(head_dim: int, dtype: mx.Dtype, bits: int | None = None, group_size: int = 64) -> bool:
    """Whether :func:`norm_rope` (``bits=None``) or :func:`norm_rope_pack` takes such heads; ``dtype`` is that of the
    activations and the norms' weights."""
    packs = bits is None or (bits in (4, 8) and group_size in (32, 64))
    return head_dim in (64, 128) and dtype in (mx.bfloat16, mx.float16) and packs


def rotation(turns: mx.array, offsets: mx.array, length: int) -> mx.array:
    """``[batch, length, head_dim]`` float32, the cosines of each pair of coordinates and then the sines, at the
    positions ``offsets[row] ... offsets[row] + length - 1`` of each row; ``turns``: :class:`Frequencies`' own,
    ``offsets [batch]`` int32. Once a step, for all layers."""
    (pairs,), (batch,) = turns.shape, offsets.shape
    (table,) = _table(factory())(
        inputs=[offsets, turns],
        template=[("PAIRS", pairs)],
        grid=(pairs, length, batch),
        threadgroup=(32, 1, 1),
        output_shapes=[(batch, length, 2 * pairs)],
        output_dtypes=[mx.float32],
    )
    return table


def norm_rope(projection: mx.array, norms: Norms, rotation: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """``projection [batch, length, (q_heads + 2 * kv_heads) * head_dim]``, the heads of queries, keys and values side
    by side -> queries ``[batch, q_heads, length, head_dim]``, keys and values ``[batch, kv_heads, length, head_dim]``
    in its dtype.

    Per-head RMSNorm (Zhang and Sennrich 2019) and rotary embedding (Su et al. 2021) of queries and keys; coordinate i
    is rotated with coordinate i + head_dim / 2. ``rotation``: :func:`rotation` at the tokens' positions.
    """
    batch, length, q_heads, kv_heads, head_dim = _sizes(projection, norms)
    queries, keys, values = _plain(factory())(
        inputs=[projection, norms.queries, norms.keys, rotation, _scalar(norms.eps)],
        template=_template(projection.dtype, q_heads, kv_heads, head_dim),
        grid=(32 * (q_heads + 2 * kv_heads), length, batch),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(batch, heads, length, head_dim) for heads in (q_heads, kv_heads, kv_heads)],
        output_dtypes=[projection.dtype] * 3,
    )
    return queries, keys, values


def norm_rope_pack(
    projection: mx.array, norms: Norms, rotation: mx.array, bits: int, group_size: int
) -> tuple[mx.array, mx.array]:
    """As :func:`norm_rope`, but keys and values as packed rows ``[batch, kv_heads, length, 2 * words]`` (uint32), in
    the layout and by the rule of :mod:`packed_rows`, with scales and biases in the dtype of ``projection``.

    Keys are packed from float32, not from keys rounded to 16 bits: in bf16 that rounding is up to half a step of 8
    bits by itself.
    """
    batch, length, q_heads, kv_heads, head_dim = _sizes(projection, norms)
    words = packed_rows.words(head_dim, bits, group_size)
    queries, rows = _packing(factory())(
        inputs=[projection, norms.queries, norms.keys, rotation, _scalar(norms.eps)],
        template=[
            *_template(projection.dtype, q_heads, kv_heads, head_dim),
            ("BITS", bits),
            ("GROUP", group_size),
        ],
        grid=(32 * (q_heads + 2 * kv_heads), length, batch),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(batch, q_heads, length, head_dim), (batch, kv_heads, length, 2 * words)],
        output_dtypes=[projection.dtype, mx.uint32],
    )
    return queries, rows


def _sizes(projection: mx.array, norms: Norms) -> tuple[int, int, int, int, int]:
    """Batch, length, q_heads, kv_heads, head_dim."""
    batch, length, width = projection.shape
    both, _, head_dim = norms.heads.shape
    q_heads, kv_heads = norms.q_heads, both - norms.q_heads
    assert width == (q_heads + 2 * kv_heads) * head_dim, f"{width} values a token are not heads of {head_dim}"
    assert norms.queries.dtype == norms.keys.dtype == projection.dtype, "norms and activations differ in dtype"
    return batch, length, q_heads, kv_heads, head_dim


def _template(dtype: mx.Dtype, q_heads: int, kv_heads: int, head_dim: int) -> list[tuple[str, Any]]:
    return [("T", dtype), ("Q_HEADS", q_heads), ("KV_HEADS", kv_heads), ("D", head_dim // 32)]
