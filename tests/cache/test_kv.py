"""The cache against plain concatenation, in any order of appends and trims; memory; packing."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.cache.kv import KVCache, Uncached, kv_group_size
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.costs import CACHE_STEP, grown
from qwen3_mlx.errors import InvalidRequest
from qwen3_mlx.kernels import DenseView, Entry, GroupedView, Lengths, PackedView, Packing, View, packed_rows, resolve
from qwen3_mlx.kernels.views import entry, filled, unpacked
from qwen3_mlx.types import KernelMode
from tests.golden.cases import CASES

CONFIG = ModelConfig.from_dict(CASES["theta"].config)  # 3 layers, 2 key heads of 64
MODES: tuple[KernelMode, ...] = ("reference", "emulate")


def fresh(length: int, batch: int = 1, seed: int = 0) -> tuple[mx.array, mx.array]:
    rng = np.random.RandomState(seed)
    shape = (batch, CONFIG.num_key_value_heads, length, CONFIG.head_dim)
    return mx.array(rng.standard_normal(shape).astype(np.float32)), mx.array(
        rng.standard_normal(shape).astype(np.float32)
    )


def held(view: object) -> tuple[np.ndarray, np.ndarray]:
    dense = unpacked(view, CONFIG.head_dim, mx.float32) if isinstance(view, PackedView) else view
    assert isinstance(dense, DenseView)
    return np.array(filled(dense.keys, dense.lengths.most)), np.array(filled(dense.values, dense.lengths.most))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=40, deadline=None)
@given(
    moves=st.lists(st.one_of(st.integers(1, 300), st.integers(-300, -1)), min_size=1, max_size=8),
    batch=st.integers(1, 3),
)
def test_appends_and_trims_equal_concatenation(mode: KernelMode, moves: list[int], batch: int) -> None:
    cache = KVCache(CONFIG, batch=batch, kernels=resolve(mode))
    keys, values = (np.zeros((batch, 2, 0, 64), np.float32) for _ in range(2))
    for seed, move in enumerate(moves):
        if move < 0:
            drop = min(-move, cache.offset)
            cache.trim(drop)
            length = keys.shape[2] - drop
            keys, values = keys[:, :, :length], values[:, :, :length]
        else:
            new_keys, new_values = fresh(move, batch, seed)
            views = [layer.append((new_keys, new_values)) for layer in cache.layers]
            keys = np.concatenate([keys, np.array(new_keys)], axis=2)
            values = np.concatenate([values, np.array(new_values)], axis=2)
            for view in views:
                got_keys, got_values = held(view)
                assert np.array_equal(got_keys, keys)
                assert np.array_equal(got_values, values)
        assert cache.offset == keys.shape[2] <= cache.capacity or cache.capacity == 0
        assert cache.capacity % CACHE_STEP == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_views_hold_every_token_packed_alone(mode: KernelMode, bits: int) -> None:
    cache = KVCache(CONFIG, batch=2, kv_bits=bits, kernels=resolve(mode))
    parts = [fresh(length, 2, seed) for seed, length in enumerate((40, 1, 1, 300, 1))]
    for keys, values in parts:
        view = cache.layers[1].append(entry(keys, values, cache.layers[1].packing))
    assert isinstance(view, PackedView) and view.packing == Packing(bits, 64)
    whole = [mx.concatenate([part[index] for part in parts], axis=2) for index in (0, 1)]
    alone = packed_rows.unpack(packed_rows.pack(*whole, bits, 64, mx.bfloat16), 64, bits, 64, mx.bfloat16)
    for got, unpacked_alone, exact in zip(held(view), alone, map(np.array, whole), strict=True):
        assert np.array_equal(got, np.array(unpacked_alone))
        # nowhere further off than half the step between two codes
        step = (exact.max(-1) - exact.min(-1)) / (2**bits - 1)
        assert (np.abs(got - exact).max(-1) <= 0.52 * step).all()


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_trimmed_tokens_leave_no_trace(bits: int | None) -> None:
    """What follows a trim is as if the trimmed tokens had never been."""
    first, wrong, right = fresh(7, seed=1), fresh(30, seed=2), fresh(5, seed=3)
    one, two = KVCache(CONFIG, kv_bits=bits), KVCache(CONFIG, kv_bits=bits)
    packing = one.layers[0].packing
    first, wrong, right = (entry(*tokens, packing) for tokens in (first, wrong, right))
    for layer in one.layers:
        layer.append(first)
        layer.append(wrong)
    one.trim(30)
    two.layers[0].append(first)
    for got, want in zip(held(one.layers[0].append(right)), held(two.layers[0].append(right)), strict=True):
        assert np.array_equal(got, want)


def test_trimming_more_than_there_is_is_a_mistake() -> None:
    cache = KVCache(CONFIG)
    for layer in cache.layers:
        layer.append(fresh(3))
    with pytest.raises(AssertionError):
        cache.trim(4)
    cache.trim(3)
    assert cache.offset == 0


def test_capacity_grows_geometrically() -> None:
    """Copies over a whole generation stay within a few times its length."""
    capacity, copied, growths = 0, 0, 0
    for needed in range(1, 40_001):
        if needed > capacity:
            copied += needed - 1
            capacity = grown(capacity, needed)
            growths += 1
    assert growths < 16
    assert copied < 3 * 40_000
    assert capacity < 1.5 * 40_000 + CACHE_STEP
    assert grown(0, 1) == CACHE_STEP
    assert grown(256, 5000) == 5120  # a long prompt is not rounded up by half


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", [None, 8])
def test_a_step_updates_the_buffers_in_place(mode: KernelMode, bits: int | None) -> None:
    """One token appended to a long cache may not copy the cache."""
    cache = KVCache(CONFIG, kernels=resolve(mode), kv_bits=bits)
    packing = cache.layers[0].packing
    for layer in cache.layers:
        layer.append(entry(*fresh(20_000), packing))
    mx.eval(cache.arrays)
    one = entry(*fresh(1), packing)
    mx.eval(one)

    def step() -> None:
        for layer in cache.layers:
            layer.append(one)
            mx.eval([filled(buffer, layer.lengths.most)[:, :, -1:] + 0 for buffer in layer.buffers])

    step()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(5):
        step()
    assert cache.nbytes > (30_000_000 if bits is None else 8_000_000)
    assert mx.get_peak_memory() - before < 1_000_000


def test_dtype_is_that_of_the_first_keys_or_the_one_asked_for() -> None:
    keys, values = (part.astype(mx.bfloat16) for part in fresh(3))
    assert KVCache(CONFIG).layers[0].append((keys, values)).keys.dtype == mx.bfloat16
    view = KVCache(CONFIG, dtype=mx.float16).layers[0].append((keys, values))
    assert (view.keys.dtype, view.values.dtype) == (mx.float16, mx.float16)


def test_nbytes_counts_every_buffer_and_starts_at_nothing() -> None:
    cache = KVCache(CONFIG, batch=2)
    assert (cache.nbytes, cache.capacity, cache.offset) == (0, 0, 0)
    for layer in cache.layers:
        layer.append(fresh(3, 2))
    assert cache.nbytes == 3 * 2 * (2 * 2 * CACHE_STEP * 64 * 4)
    assert len(cache.arrays) == 6


def test_the_number_of_rows_is_checked() -> None:
    with pytest.raises(AssertionError, match="rows"):
        KVCache(CONFIG, batch=2).layers[0].append(fresh(3, 1))


@pytest.mark.parametrize("bits", [0, 2, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        KVCache(CONFIG, kv_bits=bits)
    assert caught.value.param == "kv_bits"


def test_group_sizes() -> None:
    assert [kv_group_size(width, 8) for width in (128, 64, 96, 32)] == [64, 64, 32, 32]
    with pytest.raises(InvalidRequest):
        kv_group_size(48, 4)


def test_without_a_cache_a_view_is_what_came_in() -> None:
    keys, values = fresh(5)
    view = Uncached().append((keys, values))
    assert view == DenseView(keys, values, Lengths((5,)))


def test_growing_holds_a_layer_s_old_buffers_beside_the_new_ones() -> None:
    cache = KVCache(CONFIG)
    for layer in cache.layers:
        layer.append(fresh(5000))
    mx.eval(cache.arrays)
    mx.clear_cache()
    old, before = cache.nbytes, mx.get_active_memory()
    mx.reset_peak_memory()
    for layer in cache.layers:
        layer.append(fresh(200))
        mx.eval(layer.buffers)
    assert mx.get_peak_memory() - before < cache.nbytes - old + 1.1 * old / 3


def test_room_is_what_a_cache_grows_to() -> None:
    cache = KVCache(CONFIG)
    cache.reserve(1000)
    for length, capacity in ((10, 1024), (1014, 1024), (1, 1536)):
        for layer in cache.layers:
            layer.append(fresh(length))
        assert cache.capacity == capacity
    cache.reserve(1600)
    for layer in cache.layers:
        layer.append(fresh(550))
    assert cache.capacity == 1792


def check(view: View | GroupedView, rows: list[list[Entry]]) -> None:
    """A view holds these entries of each row."""
    left = list(rows)
    for one in view.views if isinstance(view, GroupedView) else (view,):
        buffers = one[:2] if isinstance(one, DenseView) else one[:1]
        for index, length in enumerate(one.lengths.each):
            for buffer, *parts in zip(buffers, *left.pop(0), strict=True):
                want = mx.concatenate(parts, axis=2)
                assert length == want.shape[2]
                assert mx.array_equal(buffer[index : index + 1, :, :length], want)
    assert not left
