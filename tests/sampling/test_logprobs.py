"""Reported log-probabilities are those of the raw distribution, whatever was done to draw the token."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.sampling import Sampler

from .reference import make


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("vocab", [25, 1200, 6001])
def test_raw_log_softmax_of_the_drawn_and_the_best(vocab: int) -> None:
    logits = (np.random.default_rng(vocab).normal(size=(4, vocab)) * 4).astype(np.float32)
    params = [
        make(logprobs=20, temperature=3.0, top_k=5, presence_penalty=1.0, logit_bias={3: 50.0}),
        make(logprobs=None),
        make(logprobs=0, temperature=0.0),
        make(logprobs=2, min_p=0.01, temperature=0.1),
    ]
    sampler = Sampler(params, range(4), vocab)
    out, _ = sampler(mx.array(logits), sampler.start([()] * 4))
    tokens, found = out.tokens.tolist(), out.token_logprobs()
    assert tokens[0] == 3
    assert found[1] is None
    for row, width in ((0, 20), (2, 0), (3, 2)):
        want, got = _log_softmax(logits[row]), found[row]
        assert got is not None
        assert got.token_id == tokens[row]
        assert got.logprob == pytest.approx(want[tokens[row]], abs=5e-5)
        best = np.argsort(-want, kind="stable")[:width]
        assert [token for token, _ in got.top] == best.tolist()
        assert [value for _, value in got.top] == pytest.approx(want[best].tolist(), abs=5e-5)


def test_the_drawn_token_is_among_the_top_when_it_is_one() -> None:
    sampler = Sampler([make(temperature=0.0, logprobs=3)], [0], 10)
    out, _ = sampler(mx.arange(10, dtype=mx.float32)[None], sampler.start([()]))
    (found,) = out.token_logprobs()
    assert found is not None
    assert found.top[0] == (found.token_id, found.logprob) == (9, pytest.approx(-0.4586, abs=1e-3))


def test_more_than_the_vocabulary_is_the_vocabulary() -> None:
    sampler = Sampler([make(logprobs=20)], [0], 5)
    out, _ = sampler(mx.zeros((1, 5)), sampler.start([()]))
    (found,) = out.token_logprobs()
    assert found is not None
    assert [token for token, _ in found.top] == [0, 1, 2, 3, 4]


def test_nothing_is_computed_unless_asked() -> None:
    sampler = Sampler([make()], [0], 5)
    out, _ = sampler(mx.zeros((1, 5)), sampler.start([()]))
    assert out.logprobs is None
    assert out.token_logprobs() == [None]
    assert len(out.arrays()) == 2
