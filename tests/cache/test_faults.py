"""What goes wrong in the caches, or looks on meanwhile, takes nothing else with it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.cache import prefix
from qwen3_mlx.cache.groups import GroupedCache
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.cache.prefix import PrefixCache
from qwen3_mlx.engine import batch as batches
from qwen3_mlx.kernels import resolve
from qwen3_mlx.kernels.views import entry
from tests.cache.test_kv import CONFIG
from tests.cache.test_prefix import nbytes, through


def filled(length: int, value: float, bits: int | None, rows: int = 1) -> KVCache:
    cache = KVCache(CONFIG, batch=rows, kv_bits=bits)
    for layer in cache.layers:
        one = mx.full((rows, 2, length, 64), value) * mx.arange(1, 65)
        layer.append(entry(one, one, layer.packing))
    return cache


@pytest.mark.parametrize("bits", [None, 8])
def test_a_row_sees_nothing_of_the_one_that_had_its_place(bits: int | None) -> None:
    """What is masked weighs 0, but 0 times NaN is NaN: a request whose activations overflow takes the next one, in
    the same place, with it."""
    cache = GroupedCache([filled(60, 1.0, bits), filled(40, float("nan"), bits)])
    cache.arrange([[0, 1]])  # some healthy row, longer than what follows
    cache.clear([1])
    cache.arrange([[0, filled(10, 1.0, bits)]])
    layer, one = cache.layers[0], mx.ones((2, 2, 1, 64))
    view = layer.append(entry(one, one, layer.packing))
    out = resolve("reference").attend(mx.ones((2, 2, 1, 64)), view, 0.125)
    assert mx.isfinite(out[0]).all().item()
    assert mx.isfinite(out[1]).all().item()


def test_a_request_that_is_not_a_number_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through the engine. ``CHEAP = 0`` stands for caches of a real size: places are kept."""
    bad, greedy = 57, SamplingParams(temperature=0, max_tokens=150)
    monkeypatch.setattr(batches, "CHEAP", 0)
    with Qwen3.load("demo", max_batch=4, prefix_cache_bytes=0) as q:
        kind: Any = type(q._model.model.embed_tokens)
        real = kind.__call__
        monkeypatch.setattr(
            kind, "__call__", lambda self, x: mx.where((x == bad)[..., None], float("nan"), real(self, x))
        )
        expected = q.generate("How many b are in banana?", params=greedy).content
        endless = SamplingParams(temperature=0, max_tokens=3000, logit_bias={i: -100.0 for i in q.tokenizer.eos_ids})
        long = "How many r are in strawberry? " * 8
        others = [q.stream(long + "x" * i, params=endless) for i in range(3)]
        for stream in others:
            next(stream)
        with pytest.raises(Exception, match="not a number"):
            q.generate(long, params=SamplingParams(temperature=0, max_tokens=50, logit_bias={bad: 200.0}))
        assert q.generate("How many b are in banana?", params=greedy).content == expected
        for stream in others:
            stream.close()


@pytest.mark.parametrize("copies", [0, 1, 2, 5])
def test_a_split_that_fails_loses_nothing(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is detached first: what hangs below is then out of reach, and counted for ever."""
    prefixes = PrefixCache(1 << 30)
    for tokens in ([1, 2, 3, 4], [1, 2, 3, 4, 5]):
        prefixes.store(tokens, through(tokens))

    real, left = prefix._part, iter(range(copies))

    def no_memory(*args: Any) -> Any:
        if next(left, None) is None:
            raise MemoryError
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(prefix, "_part", no_memory)
        prefixes.store([1, 2, 9], through([1, 2, 9]))
    assert prefixes.nbytes == nbytes(prefixes)
    found, kept = KVCache(CONFIG), through([1, 2, 3, 4, 5])
    assert prefixes.fetch([1, 2, 3, 4, 5], found) == 5
    for layer, want in zip(found.layers, kept.layers, strict=True):
        assert all(map(mx.array_equal, layer.part(0, 0, 5), want.part(0, 0, 5)))


def test_where_a_split_cannot_be_undone_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes next is kept as ever."""
    prefixes, real, left = PrefixCache(1 << 30), prefix._part, iter(range(3))
    prefixes.store([1, 2, 3, 4], through([1, 2, 3, 4]))
    other = through([1, 2, 9])

    def no_memory(*args: Any, **more: Any) -> Any:
        if next(left, None) is None:
            raise MemoryError
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(prefix, "_part", no_memory)
        patch.setattr(mx, "concatenate", no_memory)
        prefixes.store([1, 2, 9], other)
    assert prefixes.nbytes == nbytes(prefixes) == prefixes.match([1, 2, 3, 4])[0] == 0
    prefixes.store([1, 2, 3], through([1, 2, 3]))
    assert prefixes.match([1, 2, 3, 4])[0] == 3


def test_a_split_holds_one_layer_twice_at_most() -> None:
    """Memory that nobody has asked for: a prompt of 30,000 tokens of Qwen3-8B is 4.4 GB."""
    prefixes, tokens, cache = PrefixCache(1 << 30), list(range(3000)), filled(3000, 1.0, None)
    prefixes.store(tokens, cache)
    mx.eval(cache.arrays)
    mx.clear_cache()
    before, held = mx.get_active_memory(), prefixes.nbytes
    mx.reset_peak_memory()
    prefixes.store([*tokens[:1000], 5], cache)
    assert mx.get_peak_memory() - before < 1.1 * held / CONFIG.num_hidden_layers


def test_a_look_from_another_thread_during_a_split_sees_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """``explain_cache`` runs on the caller's thread; a split copies, perhaps gigabytes, while the node is detached."""
    prefixes, seen, real = PrefixCache(1 << 30), list[int](), prefix._part
    prefixes.store([1, 2, 3, 4], through([1, 2, 3, 4]))

    def part(*args: Any) -> Any:
        seen.append(prefixes.match([1, 2, 3, 4])[0])
        return real(*args)

    monkeypatch.setattr(prefix, "_part", part)
    prefixes.store([1, 2, 9], through([1, 2, 9]))
    assert set(seen) == {4}


def test_storing_what_is_stored_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request for a prompt whose answer is stored splits, and so copies, the whole run on the engine's thread."""
    prefixes, copies = PrefixCache(1 << 30), list[int]()
    prefixes.store([1, 2, 3, 4], through([1, 2, 3, 4]))
    real = prefix._part
    monkeypatch.setattr(prefix, "_part", lambda *args: copies.append(1) or real(*args))  # type: ignore[func-returns-value]
    prefixes.store([1, 2], through([1, 2]))
    assert not copies
