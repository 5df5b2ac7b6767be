"""How the kernels of attention are tried on a machine: see :mod:`qwen3_mlx.kernels.verify`."""

from __future__ import annotations

import math

import mlx.core as mx

from . import decode_attention, norm_rope, packed_rows, reference
from .decode_attention import Segment
from .reference import Norms, Rotation, norms
from .tolerance import rounding, worst
from .verify import Trial

_EPS = 1e-6
# Rows and tokens of the trials of norm and rotation.
_BATCH, _LENGTH = 2, 3


def _normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def _table_error(pairs: int, few: bool) -> mx.array:
    """Against integers and double precision, at positions near and far."""
    turns = [round(2.0**64 / (2 * math.pi) * 1e4 ** (-pair / pairs)) for pair in range(pairs)]
    offsets = [0, 100_001] if few else [0, 100_001, 1, 5, 2, 1000, 77, 40_000]
    got = norm_rope.rotation(mx.array(turns, mx.uint64), mx.array(offsets, mx.int32), _LENGTH)
    want = []
    for offset in offsets:
        for position in range(offset, offset + _LENGTH):
            angles = [position * turn % 2**64 * (2 * math.pi / 2**64) for turn in turns]
            want += [*map(math.cos, angles), *map(math.sin, angles)]
    return worst(got, mx.array(want, mx.float32).reshape(got.shape), mx.array(2.0**-20))


def _drawn(dtype: mx.Dtype, q_heads: int, kv_heads: int, head_dim: int) -> tuple[mx.array, Norms, mx.array]:
    """A projection, norms, and a table of angles that differ from row to row."""
    qkv = _normal(1, _BATCH, _LENGTH, (q_heads + 2 * kv_heads) * head_dim).astype(dtype)
    weights = (1 + 0.3 * _normal(2, 2, head_dim)).astype(dtype)
    angles = _normal(3, _BATCH, _LENGTH, head_dim // 2)
    table = mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)
    return qkv, norms(weights[0], weights[1], _EPS, q_heads, kv_heads), table


def _turned(qkv: mx.array, given: Norms, table: mx.array) -> tuple[tuple[mx.array, ...], tuple[mx.array, ...]]:
    """The reference's queries, keys and values in float32, and the sums of the magnitudes of what it adds up."""
    cos, sin = mx.split(table[:, None], 2, axis=-1)
    cos, sin = mx.concatenate([cos, cos], axis=-1), mx.concatenate([-sin, sin], axis=-1)
    pairs = table.shape[-1] // 2
    swap = mx.array([*range(pairs, 2 * pairs), *range(pairs)])
    x, weights = qkv.astype(mx.float32), given.heads.astype(mx.float32)
    plain = Rotation(cos, sin, swap), Rotation(mx.abs(cos), mx.abs(sin), swap)
    queries, entry = reference.norm_rope(x, given._replace(heads=weights), plain[0], None)
    terms, parts = reference.norm_rope(mx.abs(x), given._replace(heads=mx.abs(weights)), plain[1], None)
    return (queries, *entry), (terms, *parts)


def _norm_rope_error(dtype: mx.Dtype, q_heads: int, kv_heads: int, head_dim: int) -> mx.array:
    given = _drawn(dtype, q_heads, kv_heads, head_dim)
    got = norm_rope.norm_rope(*given)
    errors = [
        worst(part, want, rounding(want, terms, dtype)) for part, want, terms in zip(got, *_turned(*given), strict=True)
    ]
    return mx.max(mx.stack(errors))


def _pack_error(dtype: mx.Dtype, q_heads: int, kv_heads: int, head_dim: int, bits: int, group_size: int) -> mx.array:
    """Keys and values may be half a step of their group off; steps grow a little when scale and bias are rounded."""
    given = _drawn(dtype, q_heads, kv_heads, head_dim)
    queries, rows = norm_rope.norm_rope_pack(*given, bits, group_size)
    (want, *exact), (terms, *parts) = _turned(*given)
    errors = [worst(queries, want, rounding(want, terms, dtype))]
    unpacked = packed_rows.unpack(rows, head_dim, bits, group_size, dtype)
    for got, x, added in zip(unpacked, exact, parts, strict=True):
        groups = mx.unflatten(x, -1, (-1, group_size))
        step = (mx.max(groups, axis=-1) - mx.min(groups, axis=-1)) / (2**bits - 1)
        errors.append(worst(got, x, 0.52 * mx.repeat(step, group_size, axis=-1) + 2.0**-18 * added))
    return mx.max(mx.stack(errors))


def _attention_error(
    dtype: mx.Dtype, q_per_kv: int, head_dim: int, bits: int, group_size: int, split: bool, few: bool
) -> mx.array:
    """Rows of several lengths over two key/value heads, with other tokens behind them; ``bits`` may be ``DENSE``."""
    block = decode_attention.block_size(q_per_kv, bits)
    lengths = [block + 21, 37] if split else [block - 5, 37]
    lengths += [] if few else [1, 2, 3, 5, 8, 13]
    shape = (len(lengths), 2, max(lengths) + 3, head_dim)
    keys, values = _normal(4, *shape), _normal(5, *shape)
    queries = (2 * _normal(6, len(lengths), 2 * q_per_kv, head_dim)).astype(dtype)
    scale, filled = head_dim**-0.5, mx.array(lengths, mx.int32)
    if bits == decode_attention.DENSE:
        keys, values = keys.astype(dtype), values.astype(dtype)
        got = decode_attention.attend_dense(queries, keys, values, filled, scale, lengths)
        keys, values = keys.astype(mx.float32), values.astype(mx.float32)
    else:
        rows = packed_rows.pack(keys, values, bits, group_size, dtype)
        got = decode_attention.attend(queries, [Segment(rows, filled)], scale, lengths, bits, group_size)
        keys, values = packed_rows.unpack(rows, head_dim, bits, group_size, dtype)

    # Without matrix products, which some chips round to 19 bits.
    wide = mx.unflatten(scale * queries.astype(mx.float32), 1, (2, q_per_kv))[:, :, :, None]
    scores = mx.sum(wide * keys[:, :, None], axis=-1)
    seen = mx.arange(shape[2]) < filled[:, None, None, None]
    weights = mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1)[..., None]
    want, terms = (mx.sum(weights * x[:, :, None], axis=3) for x in (values, mx.abs(values)))
    return worst(got, mx.flatten(want, 1, 2), mx.flatten(rounding(want, terms, dtype), 1, 2))


_OF_NORM_ROPE = (norm_rope.__file__, packed_rows.__file__)
_OF_ATTENTION = (decode_attention.__file__, packed_rows.__file__)

TABLE = Trial("norm_rope_table", ("norm_rope_table",), _OF_NORM_ROPE, _table_error)
NORM_ROPE = Trial("norm_rope", ("affine", "norm_rope_head", "norm_rope"), _OF_NORM_ROPE, _norm_rope_error)
PACK = Trial("norm_rope_pack", ("affine", "norm_rope_head", "norm_rope_pack"), _OF_NORM_ROPE, _pack_error)
ATTENTION = Trial(
    "decode_attention",
    ("affine", "decode_attention_rows", "decode_attention", "decode_attention_merge"),
    _OF_ATTENTION,
    _attention_error,
)
