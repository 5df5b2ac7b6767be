"""Attention of one new token a row over packed keys and values, as one Metal kernel and the merge of its blocks.

A row's history may lie in several buffers (``docs/cache-layout.md``): a prefix that rows share, the row's own, and the
tail that steps write. It is cut into blocks at fixed positions, whichever buffer holds them, so a row's result does not
depend on the other rows, nor on what has been moved from the tail into the history: it is the same to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from .metal_source import build, factory
from .packed_rows import unpack, words

MAX_SEGMENTS = 3
#: Bits of keys and values that are not packed.
DENSE = 16
#: Tokens of a block, by bits: about 70 KB of each key/value head, against 4 KB of partial results for 8 heads.
BLOCK = {8: 256, 4: 512, DENSE: 128}
#: Heads that one threadgroup takes; of 16 heads that share keys and values two threadgroups take 8 each.
MAX_HEADS = 8
_SIMDGROUPS, _MERGE_SIMDGROUPS = 4, 8

_SEGMENT_INPUTS = [f"{name}{i}" for i in range(MAX_SEGMENTS) for name in ("rows", "lengths")]


class Segment(NamedTuple):
    """Tokens that follow one another: ``rows [batch or 1, kv_heads, capacity, 2 * words]`` (uint32; 1: all rows share
    them), of which row b has the first ``lengths[b]``, 0 or more (int32, ``[batch]``).

    The rows are those of :mod:`packed_rows`, scales and biases in the dtype of the queries. What lies behind the length
    may be anything.
    """

    rows: mx.array
    lengths: mx.array


@functools.cache
def _attention(make: Any) -> Callable[..., Any]:
    inputs = ["queries", "scale", *_SEGMENT_INPUTS]
    return build(make, "decode_attention", inputs, ["out"], "affine", "decode_attention_rows")


@functools.cache
def _merge(make: Any) -> Callable[..., Any]:
    inputs = ["partials", *(name for name in _SEGMENT_INPUTS if name.startswith("lengths"))]
    return build(make, "decode_attention_merge", inputs, ["out"])


@functools.cache
def _scalar(value: float) -> mx.array:
    return mx.array(value, dtype=mx.float32)


def supported(q_heads: int, kv_heads: int, head_dim: int, bits: int, group_size: int, dtype: mx.Dtype) -> bool:
    """Whether :func:`attend` takes heads of these numbers and this width, packed in this way, or :func:`attend_dense`
    (``DENSE`` bits, any group); ``dtype`` is that of the queries, and of scales and biases or keys and values. Any
    batch, any lengths."""
    return (
        kv_heads > 0 == q_heads % kv_heads
        and q_heads // kv_heads in (1, 2, 4, 5, 8, 16)
        and head_dim in (64, 128)
        and bits in BLOCK
        and group_size in (32, 64)
        and dtype in (mx.bfloat16, mx.float16)
    )


def block_size(q_per_kv: int, bits: int) -> int:
    """Tokens of a block when ``q_per_kv`` query heads share keys and values: ``BLOCK``, down to whole steps."""
    step = step_size(q_per_kv)
    return max(BLOCK[bits] // step, 1) * step


def step_size(q_per_kv: int) -> int:
    """Tokens that a threadgroup takes at a time."""
    return _SIMDGROUPS * (32 // min(q_per_kv, MAX_HEADS))


def attend(
    queries: mx.array, segments: Sequence[Segment], scale: float, tokens: Sequence[int], bits: int, group_size: int
) -> mx.array:
    """``queries [batch, q_heads, head_dim]`` (normed and rotated) over 1 to 3 segments in the order of their tokens ->
    the same shape and dtype.

    ``softmax(scale * queries @ keys) @ values`` in float32, rounded once, by blocks whose partial results are merged
    (Dao et al. 2022; Milakov and Gimelshein 2018). ``tokens``: how many each row has in all segments, the host's copy
    of the sums of their lengths, which it must equal: with too few, tokens are left out without a word. A row with none
    gives zeros.
    """
    batch, q_heads, head_dim = queries.shape
    assert 1 <= len(segments) <= MAX_SEGMENTS and len(tokens) == batch
    q_per_kv = q_heads // _kv_heads(segments, 2 * words(head_dim, bits, group_size))
    return in_blocks(queries, segments, scale, tokens, bits, group_size, block_size(q_per_kv, bits))


def in_blocks(
    queries: mx.array,
    segments: Sequence[Segment],
    scale: float,
    tokens: Sequence[int],
    bits: int,
    group_size: int,
    block: int,
) -> mx.array:
    """:func:`attend` in blocks of ``block`` tokens, a multiple of :func:`step_size`."""
    return _launch(queries, segments, len(segments), scale, tokens, bits, group_size, block)


def attend_dense(
    queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float, tokens: Sequence[int]
) -> mx.array:
    """:func:`attend` over keys and values ``[batch or 1, kv_heads, capacity, head_dim]`` of the queries' dtype that are
    not packed, row b over the first ``lengths[b]`` (int32, ``[batch]``)."""
    q_heads, kv_heads = queries.shape[1], keys.shape[1]
    assert keys.shape == values.shape and keys.dtype == values.dtype == queries.dtype
    both = [Segment(keys, lengths), Segment(values, lengths)]
    return _launch(queries, both, 1, scale, tokens, DENSE, keys.shape[3], block_size(q_heads // kv_heads, DENSE))


def _launch(
    queries: mx.array,
    buffers: Sequence[Segment],
    segments: int,
    scale: float,
    tokens: Sequence[int],
    bits: int,
    group_size: int,
    block: int,
) -> mx.array:
    """The kernel, and the merge where a row has several blocks."""
    batch, q_heads, head_dim = queries.shape
    q_per_kv = q_heads // buffers[0].rows.shape[1]
    # The kernel has three segments and looks at SEGMENTS of them.
    inputs = [*buffers, *[buffers[0]] * (MAX_SEGMENTS - len(buffers))]
    slots = sum(-(-length // block) for length in tokens)
    split = max(tokens) > block
    common = [("HEAD_DIM", head_dim), ("SEGMENTS", segments), ("BLOCK", block)]
    (out,) = _attention(factory())(
        inputs=[queries, _scalar(scale), *(array for segment in inputs for array in segment)],
        template=[
            ("T", queries.dtype),
            ("OUT", mx.float32 if split else queries.dtype),
            ("SPLIT", split),
            ("Q_PER_KV", q_per_kv),
            ("BITS", bits),
            ("GROUP", group_size),
            *common,
        ],
        grid=(_SIMDGROUPS * 32 * (q_heads // min(q_per_kv, MAX_HEADS)), slots if split else batch, 1),
        threadgroup=(_SIMDGROUPS * 32, 1, 1),
        output_shapes=[(q_heads, slots, head_dim + 2) if split else queries.shape],
        output_dtypes=[mx.float32 if split else queries.dtype],
    )
    if not split:
        return out
    (out,) = _merge(factory())(
        inputs=[out, *(segment.lengths for segment in inputs)],
        template=[("T", queries.dtype), *common],
        grid=(_MERGE_SIMDGROUPS * 32 * q_heads, batch, 1),
        threadgroup=(_MERGE_SIMDGROUPS * 32, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    return out


def _kv_heads(segments: Sequence[Segment], width: int) -> int:
    """How many key/value heads the segments have; their rows must be ``width`` words wide."""
    kv_heads = segments[0].rows.shape[1]
    for rows, _ in segments:
        _, heads, capacity, wide = rows.shape
        assert (heads, wide) == (kv_heads, width) and capacity > 0, f"no segment of {kv_heads}x{width}: {rows.shape}"
    return kv_heads


def reference(queries: mx.array, segments: Sequence[Segment], scale: float, bits: int, group_size: int) -> mx.array:
    """What :func:`attend` computes, in plain MLX and float32: ``[batch, q_heads, head_dim]``, not rounded."""
    batch, q_heads, head_dim = queries.shape
    seen, keys, values = [], [], []
    for rows, lengths in segments:
        filled = (mx.arange(rows.shape[2]) < lengths[:, None])[:, None, :, None]
        key, value = unpack(rows, head_dim, bits, group_size, queries.dtype)
        seen.append(filled)
        keys.append(mx.where(filled, key, 0.0))
        values.append(mx.where(filled, value, 0.0))
    mask = mx.swapaxes(mx.concatenate(seen, axis=2), 2, 3)
    columns = mx.swapaxes(mx.concatenate(keys, axis=2), 2, 3)
    grouped = mx.reshape(queries.astype(mx.float32) * scale, (batch, columns.shape[1], -1, head_dim))
    weights = mx.softmax(mx.where(mask, grouped @ columns, -1e38), axis=-1, precise=True)
    out = mx.where(mask, weights, 0.0) @ mx.concatenate(values, axis=2)
    return mx.reshape(out, (batch, q_heads, head_dim))
