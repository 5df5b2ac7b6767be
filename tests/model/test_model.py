"""The model's interface: cache and no cache, hidden and head, packed caches, other threads."""

from __future__ import annotations

import itertools
import threading

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig, RopeConfig
from qwen3_mlx.model.rope import inverse_frequencies
from tests.golden.cases import CASES, tokens

from .build import build, in_steps

IDS = mx.array(tokens(CASES["dense"]))


@pytest.mark.parametrize("name", ["dense", "untied", "moe"])
def test_call_is_head_of_hidden(name: str) -> None:
    model = build(CASES[name])
    hidden = model.hidden(IDS)
    assert hidden.shape == (*IDS.shape, model.config.hidden_size)
    assert mx.array_equal(model(IDS), model.head(hidden))
    last = model.head(hidden[:, -1:])
    assert last.shape == (2, 1, model.config.vocab_size)
    assert mx.allclose(last, model(IDS)[:, -1:], atol=1e-5)


def test_rows_do_not_see_each_other() -> None:
    for name in ("dense", "moe"):
        model = build(CASES[name])
        both = model(IDS)
        assert mx.allclose(model(IDS[:1])[0], both[0], atol=1e-5)
        assert mx.allclose(model(IDS[1:])[0], both[1], atol=1e-5)


def test_later_tokens_are_not_seen() -> None:
    model = build(CASES["dense"])
    changed = np.array(IDS)
    changed[:, 10:] = (changed[:, 10:] + 1) % 64
    before, after = np.array(model(IDS)), np.array(model(mx.array(changed)))
    assert np.allclose(before[:, :10], after[:, :10], atol=1e-6)
    assert not np.allclose(before[:, 10:], after[:, 10:], atol=1e-2)


def test_a_trimmed_step_can_be_taken_again() -> None:
    """What an engine that runs ahead does when a token is forced: drop one, feed another."""
    model = build(CASES["dense"])
    cache = KVCache(model.config, batch=2, kernels=model.kernels)
    mx.eval(model(IDS[:, :10], cache))
    mx.eval(model((IDS[:, 10:11] + 1) % 64, cache))
    cache.trim(1)
    assert mx.allclose(model(IDS[:, 10:11], cache), model(IDS[:, :11])[:, -1:], atol=1e-5)


@pytest.mark.parametrize("mode", ["reference", "emulate"])
@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.35)])
def test_packed_caches(mode: str, bits: int, error: float) -> None:
    model = build(CASES["theta"], mode)
    ids = mx.array(tokens(CASES["theta"]))
    exact = model(ids)
    difference = mx.abs(in_steps(model, ids, 8, kv_bits=bits) - exact)
    assert 1e-4 < mx.mean(difference).item() < error


@pytest.mark.parametrize("name", ["dense", "moe", "yarn-moe"])
def test_a_loaded_model_runs_in_another_thread(name: str) -> None:
    """MLX cannot evaluate in one thread what was left unevaluated in another: fuse leaves nothing so."""
    model = build(CASES[name])
    want = np.array(model(IDS))
    got: list[np.ndarray] = []

    def run() -> None:
        got.append(np.array(in_steps(model, IDS, 4)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert got, "the other thread failed"
    assert np.allclose(got[0], want, atol=1e-5)


def test_plain_frequencies() -> None:
    got = inverse_frequencies(RopeConfig(1e6), 128)
    assert len(got) == 64
    assert got[0] == 1.0
    assert got == pytest.approx([1e6 ** (-i / 64) for i in range(64)])


def test_yarn_keeps_fast_pairs_and_slows_slow_ones() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = ModelConfig.from_dict(CASES["dense"].config | {"rope_scaling": scaling, "rope_theta": 1e6})
    plain = inverse_frequencies(RopeConfig(1e6), 128)
    yarn = inverse_frequencies(config.rope, 128)
    # pair i turns 32768 / (2 pi 10^(6 i / 64)) times: over 32 turns up to i = 23, under one from i = 40 on
    assert yarn[:24] == plain[:24]
    assert yarn[40:] == pytest.approx([f / 4 for f in plain[40:]])
    ratios = [y / p for y, p in zip(yarn, plain, strict=True)]
    assert all(a >= b for a, b in itertools.pairwise(ratios))
    assert all(0.25 < r < 1 for r in ratios[24:40])
