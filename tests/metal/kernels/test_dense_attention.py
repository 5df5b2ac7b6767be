"""Decode attention over keys and values that are not packed: against float64, and the same in any company."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels.attention_trials import ATTENTION
from qwen3_mlx.kernels.decode_attention import DENSE, attend_dense, block_size

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from ..wrong import swapping
from .packing import precision, wide
from .test_invariance import flat, in_any_order

BF16, FP16 = mx.bfloat16, mx.float16


class Heads(NamedTuple):
    q_per_kv: int
    head_dim: int = 128
    dtype: Any = BF16
    kv_heads: int = 2


HEADS = [Heads(1, 64, FP16), Heads(2, 128), Heads(4, 64), Heads(5, 128, FP16), Heads(8, 128), Heads(16, 64, kv_heads=1)]
by_heads = pytest.mark.parametrize("heads", HEADS, ids=lambda heads: f"{heads.q_per_kv} heads")


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


class Case(NamedTuple):
    """``queries [rows, q_heads, head_dim]``, ``keys`` and ``values [rows or 1, kv_heads, capacity, head_dim]``, NaN
    behind the longest row."""

    queries: mx.array
    keys: mx.array
    values: mx.array
    lengths: Sequence[int]

    def run(self) -> mx.array:
        filled, scale = mx.array(list(self.lengths), mx.int32), self.queries.shape[2] ** -0.5
        return attend_dense(self.queries, self.keys, self.values, filled, scale, self.lengths)

    def of(self, rows: Sequence[int]) -> Case:
        at = mx.array(list(rows))
        lengths = [self.lengths[row] for row in rows]
        if self.keys.shape[0] == 1:
            return Case(self.queries[at], self.keys, self.values, lengths)
        return Case(self.queries[at], self.keys[at], self.values[at], lengths)


def case(heads: Heads, lengths: Sequence[int], shared: bool = False) -> Case:
    """``shared``: rows are positions of one sequence, as in a prompt."""
    rng = np.random.default_rng(len(lengths))
    batch = 1 if shared else len(lengths)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    keys, values = draw(2, batch, heads.kv_heads, max(lengths) + 3, heads.head_dim)
    for row in range(batch):
        end = max(lengths) if shared else lengths[row]
        keys[row, :, end:], values[row, :, end:] = np.nan, np.nan
    queries = 2 * draw(len(lengths), heads.kv_heads * heads.q_per_kv, heads.head_dim)
    return Case(*(mx.array(part).astype(heads.dtype) for part in (queries, keys, values)), lengths)


def expected(c: Case) -> tuple[np.ndarray, np.ndarray]:
    """In float64; and ``sum p |v|``."""
    rows, out = [], []
    keys, values = wide(c.keys), wide(c.values)
    for row, (query, length) in enumerate(zip(wide(c.queries), c.lengths, strict=True)):
        at = 0 if len(keys) == 1 else row
        k, v = keys[at, :, :length], values[at, :, :length]
        grouped = query.reshape(len(k), -1, query.shape[-1])
        scores = query.shape[-1] ** -0.5 * grouped @ np.swapaxes(k, 1, 2)
        weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
        weights /= weights.sum(-1, keepdims=True)
        rows.append((weights @ v).reshape(query.shape))
        out.append((weights @ np.abs(v)).reshape(query.shape))
    return np.stack(rows), np.stack(out)


@by_heads
def test_it_is_float64s(heads: Heads) -> None:
    """In one block, in blocks that are merged, and for positions that share keys and values."""
    block = block_size(heads.q_per_kv, DENSE)
    for lengths, shared in (([5, 1, 70], False), ([block + 3, 1, block, 2 * block + 1], False), ([1, 2, 3, 40], True)):
        c = case(heads, lengths, shared)
        with emulator.using(instrumented=True):
            got = c.run()
        assert precision(got, *expected(c)).c <= 32


@by_heads
def test_a_row_does_not_depend_on_others(heads: Heads) -> None:
    """Alone, in batches, beside rows of more blocks and of none, and as a position of a prompt in any piece of it."""
    block = block_size(heads.q_per_kv, DENSE)
    c = case(heads, [7, block + 5, 0, block, 33])
    together = flat(tuple(c.run()))
    for rows in ([0], [1], [2], [3], [4], [4, 0], [3, 2, 1], [4, 1, 0, 0, 3], [2, 0, 4]):
        assert flat(tuple(c.of(rows).run())) == [together[row] for row in rows]
    prompt = case(heads, range(block - 5, block + 8), shared=True)
    whole = flat(tuple(prompt.run()))
    for first, last in itertools.pairwise((0, 1, 3, 8, 9, 13)):
        assert flat(tuple(prompt.of(range(first, last)).run())) == whole[first:last]


def test_any_order_of_threads_gives_the_same() -> None:
    c = case(HEADS[2], [7, block_size(4, DENSE) + 5, 0, 33])
    in_any_order(c.of([0, 2, 3]).run)
    in_any_order(c.of([0, 1]).run)


@by_heads
def test_its_trial_passes(heads: Heads) -> None:
    for split, few in ((False, False), (True, True)):
        error = ATTENTION.error(heads.dtype, heads.q_per_kv, heads.head_dim, DENSE, heads.head_dim, split, few)
        assert float(error.item()) <= 1


WRONG = [
    ("segments.rows[1], token.word, lane", "segments.rows[0], token.word, lane"),
    ("lane * (V / 2) + i", "lane * (V / 2)"),
    ("BITS == 16 ? words : 2 * words", "2 * words"),
    ("SEGMENTS > 1 || BITS == 16", "SEGMENTS > 1"),
    ("rows1_shape[2] * width", "rows1_shape[2] * words / 2"),
]


@pytest.mark.parametrize(("written", "broken"), WRONG)
def test_a_mistake_is_noticed(written: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping("decode_attention", written, broken))
    noticed = pytest.raises((AssertionError, emulator.KernelError))
    with emulator.using(instrumented=True, check_source=False), noticed:
        c = case(Heads(4), [5, 1, 70])
        assert precision(c.run(), *expected(c)).c <= 32


def test_a_row_that_depends_on_others_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = swapping("decode_attention", "float highest = lowest;", "float highest = 0.7f * (slot % 7);")
    monkeypatch.setattr(mx.fast, "metal_kernel", swap)
    c = case(Heads(5, 128, FP16), range(20, 53), shared=True)
    with emulator.using(check_source=False):
        whole = flat(tuple(c.run()))
        alone = functools.reduce(list.__add__, (flat(tuple(c.of([row]).run())) for row in range(33)))
        assert precision(c.run(), *expected(c)).c <= 32 and alone != whole
