"""Random packed keys and values, how a cache holds them, and what attention over them is in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels.decode_attention import Segment


class Layout(NamedTuple):
    q_per_kv: int
    head_dim: int = 128
    bits: int = 8
    group: int = 64
    dtype: Any = mx.bfloat16
    kv_heads: int = 1

    @property
    def codes(self) -> int:
        return self.head_dim * self.bits // 32

    @property
    def words(self) -> int:
        return self.codes + self.head_dim // self.group

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)


def random_history(rng: np.random.Generator, layout: Layout, tokens: int) -> np.ndarray:
    """``[kv_heads, tokens, 2 * words]``, keys and values about as large as a standard normal's."""
    groups = (layout.kv_heads, tokens, 2, layout.head_dim // layout.group)
    codes = rng.integers(0, 2**32, (*groups[:3], layout.codes), dtype=np.uint32)
    scales = rng.uniform(0.5, 1.5, groups) * 3.5 / 2**layout.bits
    biases = -scales * 2 ** (layout.bits - 1) * rng.uniform(0.8, 1.2, groups)

    def stored(values: np.ndarray) -> np.ndarray:
        array = mx.array(values.astype(np.float32)).astype(layout.dtype)
        return np.array(array.view(mx.uint16)).reshape(groups).astype(np.uint32)

    packed = np.concatenate([codes, stored(scales) | stored(biases) << 16], -1)
    return packed.reshape(layout.kv_heads, tokens, 2 * layout.words)


def unpacked(history: np.ndarray, layout: Layout) -> np.ndarray:
    """Keys and values ``[2, kv_heads, tokens, head_dim]`` in float64, exactly."""
    parts = np.moveaxis(history.reshape(*history.shape[:2], 2, layout.words), 2, 0)
    shifts = np.arange(0, 32, layout.bits, dtype=np.uint32)
    codes = parts[..., : layout.codes, None] >> shifts & (2**layout.bits - 1)
    groups = np.ascontiguousarray(parts[..., layout.codes :])

    def number(bits: np.ndarray) -> np.ndarray:
        array = mx.array(bits.astype(np.uint16)).view(layout.dtype).astype(mx.float32)
        return np.repeat(np.array(array, np.float64), layout.group, -1)

    shape = (*parts.shape[:3], layout.head_dim)
    return codes.reshape(shape).astype(np.float64) * number(groups & 0xFFFF) + number(groups >> 16)


class Expected(NamedTuple):
    """``want [q_heads, head_dim]``; ``cond``: ``sum p |v|``; ``through_scores``: what relative errors in the products
    of a score do to it, ``sum p |v - want| * scale * sum |q| |k|``."""

    want: np.ndarray
    cond: np.ndarray
    through_scores: np.ndarray


def expected(queries: mx.array, history: np.ndarray, layout: Layout) -> Expected:
    """Attention of ``queries [q_heads, head_dim]`` over a history, in float64; zeros over an empty one."""
    q = np.array(queries.astype(mx.float32), np.float64).reshape(layout.kv_heads, layout.q_per_kv, -1)
    keys, values = unpacked(history, layout)
    if not history.shape[1]:
        return Expected(*(np.zeros(queries.shape) for _ in range(3)))
    scores = layout.scale * q @ np.swapaxes(keys, 1, 2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    want = weights @ values
    sensitivity = weights * layout.scale * (np.abs(q) @ np.abs(np.swapaxes(keys, 1, 2)))
    through = np.empty_like(want)
    for head in np.ndindex(*want.shape[:2]):
        through[head] = sensitivity[head] @ np.abs(values[head[0]] - want[head])
    return Expected(*(a.reshape(queries.shape) for a in (want, weights @ np.abs(values), through)))


def segment(histories: Sequence[np.ndarray], spare: int = 0, shared: bool = False) -> Segment:
    """A segment that holds these histories, one a row; ``shared``: all rows have a beginning of the longest.

    Behind each lies what would give NaN if it were read (a scale of all ones), at least ``spare`` tokens of it.
    """
    lengths = [history.shape[1] for history in histories]
    kv_heads, _, width = histories[0].shape
    capacity = max(max(lengths) + spare, 1)
    rows = np.full((len(histories), kv_heads, capacity, width), 0xFFFFFFFF, np.uint32)
    for row, history in zip(rows, histories, strict=True):
        row[:, : history.shape[1]] = history
    if shared:
        rows = rows[np.argmax(lengths)][None]
    return Segment(mx.array(rows), mx.array(lengths, dtype=mx.int32))


def segments(histories: Sequence[np.ndarray], cuts: Sequence[Sequence[int]], spare: int = 0) -> list[Segment]:
    """The histories cut at ``cuts[i][row]`` into segments."""
    bounds = [[0] * len(histories), *cuts, [history.shape[1] for history in histories]]
    return [
        segment([h[:, a:b] for h, a, b in zip(histories, first, last, strict=True)], spare)
        for first, last in itertools.pairwise(bounds)
    ]
