"""The prefix cache against a plain list of what was stored: what it finds, holds and drops."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.cache.prefix import PrefixCache
from qwen3_mlx.kernels import Entry
from qwen3_mlx.kernels.views import entry
from tests.cache.test_kv import CONFIG, check

PLENTY = 1 << 30


def told(tokens: Sequence[int], layer: int, packing: object) -> Entry:
    """Keys and values that tell the tokens before them and the layer."""
    keys, told = [], layer
    for token in tokens:
        told = (told * 31 + token) % 1009
        keys.append(mx.full((1, 2, 1, 64), float(told)) * mx.arange(64))
    held = mx.concatenate(keys, axis=2)
    return entry(held, -held, packing)  # type: ignore[arg-type]


def through(tokens: Sequence[int], bits: int | None = None) -> KVCache:
    cache = KVCache(CONFIG, kv_bits=bits)
    for index, layer in enumerate(cache.layers):
        layer.append(told(tokens, index, layer.packing))
    return cache


def common(one: Sequence[int], two: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    stored=st.lists(sequences, max_size=8),
    asked=st.lists(sequences, min_size=1, max_size=4),
    bits=st.sampled_from([None, 8]),
)
def test_the_longest_stored_prefix_is_found_and_is_right(
    stored: list[list[int]], asked: list[list[int]], bits: int | None
) -> None:
    prefixes = PrefixCache(PLENTY)
    for tokens in stored:
        prefixes.store(tokens, through(tokens, bits))
    for tokens in asked:
        cache = KVCache(CONFIG, kv_bits=bits)
        longest = max((common(tokens, other) for other in stored), default=0)
        assert prefixes.fetch(tokens, cache) == longest == cache.offset == prefixes.match(tokens)[0]
        views = [layer.append(told(tokens, index, layer.packing)) for index, layer in enumerate(cache.layers)]
        for index, view in enumerate(views):
            packing = cache.layers[index].packing
            check(
                view, [[*([told(tokens[:longest], index, packing)] if longest else []), told(tokens, index, packing)]]
            )
    assert prefixes.nbytes == nbytes(prefixes)
    distinct = {tuple(tokens[:end]) for tokens in stored for end in range(1, len(tokens) + 1)}
    if stored:
        assert prefixes.nbytes == len(distinct) * through([0], bits).row_nbytes(1), "what is shared is held once"


def nbytes(prefixes: PrefixCache) -> int:
    nodes, total = list(prefixes._root.children.values()), 0
    while nodes:
        node = nodes.pop()
        total += node.nbytes
        nodes += node.children.values()
    return total


def test_what_follows_on_the_branch_used_last_is_told() -> None:
    prefixes = PrefixCache(PLENTY)
    for tokens in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 7]):
        prefixes.store(tokens, through(tokens))
    prefixes.fetch([1, 2, 3, 5, 9], KVCache(CONFIG))
    assert prefixes.match([1, 2, 3, 0]) == (3, [5, 6])
    assert prefixes.match([1, 2]) == (2, [3, 5, 6])
    assert prefixes.match([8]) == (0, [1, 2, 3, 5, 6])
    assert PrefixCache(PLENTY).match([8]) == (0, [])


def test_the_oldest_leaves_are_dropped_first() -> None:
    one = through([0]).row_nbytes(1)
    prefixes = PrefixCache(10 * one)
    prefixes.store([1, 1, 1, 1], through([1, 1, 1, 1]))
    prefixes.store([1, 1, 2, 2], through([1, 1, 2, 2]))
    prefixes.store([3, 3], through([3, 3]))
    assert prefixes.nbytes == 8 * one
    prefixes.fetch([1, 1, 1, 1], KVCache(CONFIG))
    prefixes.store([4, 4, 4, 4], through([4, 4, 4, 4]))
    assert prefixes.nbytes == 10 * one
    assert prefixes.match([1, 1, 2, 2])[0] == 2, "the branch that was not used last"
    assert [prefixes.match(tokens)[0] for tokens in ([1, 1, 1, 1], [3, 3], [4, 4, 4, 4])] == [4, 2, 4]
    prefixes.store([5] * 11, through([5] * 11))
    assert prefixes.match([5])[0] == 0, "more than the budget"
    assert prefixes.shrink(1) == 2 * one and prefixes.match([3])[0] == 0
    assert prefixes.shrink(PLENTY) == 8 * one and prefixes.nbytes == nbytes(prefixes) == 0


def test_nothing_is_kept_without_a_budget() -> None:
    prefixes = PrefixCache(0)
    prefixes.store([1, 2], through([1, 2]))
    assert prefixes.fetch([1, 2], KVCache(CONFIG)) == prefixes.nbytes == 0


@pytest.mark.parametrize("bits", [None, 4])
def test_what_is_kept_keeps_nothing_else_alive(bits: int | None) -> None:
    """Neither the row that it was copied from nor, after a branch, the whole run."""
    prefixes, tokens = PrefixCache(PLENTY), [7] * 3000
    cache = KVCache(CONFIG, kv_bits=bits)
    for layer in cache.layers:
        shape = (1, 2, 3000, 64)
        layer.append(entry(mx.random.normal(shape), mx.random.normal(shape), layer.packing))
    mx.eval(cache.arrays)
    mx.clear_cache()
    before = mx.get_active_memory()
    prefixes.store(tokens[:1000], cache)
    mx.clear_cache()
    grown = mx.get_active_memory() - before
    assert prefixes.nbytes <= grown < 1.1 * prefixes.nbytes
    prefixes.store([7] * 100 + [8], cache)
    prefixes.shrink(cache.row_nbytes(900))
    mx.clear_cache()
    assert mx.get_active_memory() - before < 1.2 * prefixes.nbytes < 0.2 * grown
