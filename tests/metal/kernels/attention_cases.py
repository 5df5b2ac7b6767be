"""Decode attention on random queries and histories, and how far it is from float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels import decode_attention
from qwen3_mlx.kernels.decode_attention import Segment, attend, block_size

from .. import emulator
from .errors import Errors, errors
from .histories import Expected, Layout, expected, random_history, segment
from .packing import Precision, precision, wide

Histories = list[np.ndarray]

#: Everything that ``supported`` takes.
EVERY = [
    Layout(*kind)
    for kind in itertools.product((1, 2, 4, 5, 8, 16), (64, 128), (8, 4), (64, 32), (mx.bfloat16, mx.float16))
]


def case(layout: Layout, lengths: Sequence[int], seed: int = 0) -> tuple[mx.array, Histories]:
    """Queries ``[batch, q_heads, head_dim]`` and a history for each row."""
    kernels_fit = decode_attention.supported(
        layout.q_per_kv * layout.kv_heads, layout.kv_heads, layout.head_dim, layout.bits, layout.group, layout.dtype
    )
    assert kernels_fit
    rng = np.random.default_rng(seed)
    shape = (len(lengths), layout.kv_heads * layout.q_per_kv, layout.head_dim)
    queries = mx.array(rng.standard_normal(shape).astype(np.float32)).astype(layout.dtype)
    return queries, [random_history(rng, layout, length) for length in lengths]


def run(queries: mx.array, histories: Histories, layout: Layout, parts: Sequence[Segment] | None = None) -> mx.array:
    tokens = [history.shape[1] for history in histories]
    parts = parts or [segment(histories, spare=3)]
    return attend(queries, parts, layout.scale, tokens, layout.bits, layout.group)


def all_expected(queries: mx.array, histories: Histories, layout: Layout) -> Expected:
    rows = [expected(q, history, layout) for q, history in zip(queries, histories, strict=True)]
    return Expected(*(np.stack(part) for part in zip(*rows, strict=True)))


def live(histories: Histories) -> np.ndarray:
    """The rows that have tokens."""
    return np.flatnonzero([history.shape[1] > 0 for history in histories])


def measured(got: mx.array, want: Expected, histories: Histories) -> Precision:
    """The precision of the rows that have tokens, by ``cond = sum p |v|`` alone."""
    rows = live(histories)
    assert not np.delete(wide(got), rows, axis=0).any()
    cond = np.maximum(want.cond[rows], 1e-30)  # a value can be exactly 0
    return precision(got[mx.array(rows)], want.want[rows], cond)


def lengths_of(layout: Layout, split: bool, outputs: int = 4096) -> list[int]:
    """Lengths of rows that fit in a block or (``split``) do not, odd ones among them; about so many numbers in all, at
    least five rows."""
    block = block_size(layout.q_per_kv, layout.bits)
    lengths = [block + 1, 7, 2 * block + 17, block, 0] if split else [block, 0, block - 1, 33, 1, 31, 32, 65]
    rows = max(outputs // (layout.q_per_kv * layout.head_dim), len(lengths))
    return [lengths[i % len(lengths)] for i in range(rows)]


def random_errors(layout: Layout, split: bool, jitter_seeds: Sequence[int], outputs: int = 4096) -> list[Errors]:
    """Errors without jitter, and with 4 ulp of it in ``fast::`` functions for each seed, under the current settings."""
    queries, histories = case(layout, lengths_of(layout, split, outputs))
    want, rows, found = all_expected(queries, histories, layout), live(histories), []
    for seed in (0, *jitter_seeds):
        with emulator.using(jitter_ulps=4 if seed else 0, jitter_seed=seed):
            got = run(queries, histories, layout)
        assert not np.delete(wide(got), rows, axis=0).any()
        found.append(errors(got[mx.array(rows)], want.want[rows], want.cond[rows]))
    return found
