"""A mask is one more input of a draw: nothing outside of it is drawn, nothing inside of it changes otherwise."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.masks import masked
from qwen3_mlx.sampling import Sampler
from qwen3_mlx.types import SamplingParams

from .reference import make

KINDS = [
    make(temperature=0.0),
    make(temperature=1.0),
    make(temperature=0.6, top_k=20, top_p=0.95),
    make(temperature=1.3, top_p=0.9),
    make(temperature=1.0, min_p=0.3),
    make(temperature=1.0, top_k=3, repetition_penalty=1.3, presence_penalty=0.5, logit_bias={3: 4.0}),
    make(temperature=1.0, top_k=0, logprobs=3),
]


def bits(tokens: list[int], vocab: int) -> bytes:
    out = np.zeros(-(-vocab // 32) * 32, dtype=np.uint8)
    out[tokens] = 1
    return np.packbits(out, bitorder="little").tobytes()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("vocab", [32, 50, 1200])
def test_scores_outside_are_minus_infinity(vocab: int, dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(vocab)
    scores = mx.array(rng.normal(size=(3, vocab)).astype(np.float32)).astype(dtype)
    allowed = sorted(rng.choice(vocab, size=7, replace=False).tolist())
    out = masked(scores, [bits(allowed, vocab), None, bits(allowed, 32) if allowed[-1] < 32 else b"\x05\0\0\0"])
    assert out.dtype == dtype and mx.all(out[1] == scores[1]).item()
    inside = np.isin(np.arange(vocab), allowed)
    assert np.isneginf(np.array(out[0].astype(mx.float32))).tolist() == (~inside).tolist()
    assert mx.all(mx.where(mx.array(inside), out[0], 0) == mx.where(mx.array(inside), scores[0], 0)).item()
    if allowed[-1] >= 32:
        kept = np.flatnonzero(np.isfinite(np.array(out[2].astype(mx.float32)))).tolist()
        assert kept == [0, 2], "a mask that is shorter than the vocabulary ends there"


@pytest.mark.parametrize("p", KINDS)
@pytest.mark.parametrize("vocab", [40, 1200, 5003])
def test_only_what_is_allowed_is_drawn(p: SamplingParams, vocab: int) -> None:
    """However unlikely it is, and as often as its share among what is allowed says."""
    rng = np.random.default_rng(vocab)
    logits = (rng.normal(size=(1, vocab)) * 3).astype(np.float32)
    allowed = np.argsort(logits[0])[:4].tolist()  # the least likely
    mask = bits(allowed, vocab)
    seen: set[int] = set()
    for seed in range(60):
        sampler = Sampler([p], [seed], vocab)
        out, _ = sampler(mx.array(logits), sampler.start([[1, 2]]), [mask])
        seen.add(out.tokens.tolist()[0])  # type: ignore[index]
    assert seen <= set(allowed)
    assert len(seen) == 1 if p.temperature == 0 else len(seen) > 1


def test_one_token_allowed_is_drawn_by_every_kind() -> None:
    vocab = 1200
    logits = mx.array((np.random.default_rng(0).normal(size=(len(KINDS), vocab)) * 30).astype(np.float32))
    for token in (0, 31, 32, 700, vocab - 1):
        sampler = Sampler(KINDS, range(len(KINDS)), vocab)
        out, after = sampler(logits, sampler.start([[1]] * len(KINDS)), [bits([token], vocab)] * len(KINDS))
        assert out.tokens.tolist() == [token] * len(KINDS)
        assert after.positions == (1,) * len(KINDS)


def test_rows_without_a_mask_draw_as_ever_and_log_probabilities_are_of_the_raw_distribution() -> None:
    vocab = 1200
    logits = mx.array((np.random.default_rng(5).normal(size=(len(KINDS), vocab)) * 3).astype(np.float32))
    sampler = Sampler(KINDS, range(len(KINDS)), vocab)
    state = sampler.start([[1]] * len(KINDS))
    free, _ = sampler(logits, state)
    for row in range(len(KINDS)):
        masks: list[bytes | None] = [None] * len(KINDS)
        masks[row] = bits([5, 9], vocab)
        out, _ = sampler(logits, state, masks)
        tokens: list[int] = out.tokens.tolist()  # type: ignore[assignment]
        assert tokens.pop(row) in (5, 9)
        rest: list[int] = free.tokens.tolist()  # type: ignore[assignment]
        rest.pop(row)
        assert tokens == rest and out.peak.tolist() == free.peak.tolist()
        reported = out.token_logprobs()[-1]
        assert reported is not None
        whole = logits[-1] - mx.logsumexp(logits[-1])
        assert reported.logprob == pytest.approx(whole[reported.token_id].item(), abs=1e-5)
        assert reported.top == free.token_logprobs()[-1].top  # type: ignore[union-attr]
