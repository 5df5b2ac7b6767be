"""Sampling written a second time, in numpy and float64 and one token after the other, to judge the product by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from qwen3_mlx import sampling
from qwen3_mlx.sampling import Sampler, SamplerState
from qwen3_mlx.types import SamplingParams

OFF = SamplingParams(
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)


def make(**changes: Any) -> SamplingParams:
    """Resolved parameters in which everything is off but ``changes``."""
    return replace(OFF, **changes)


def penalised(
    logits: np.ndarray, p: SamplingParams, prompt: Sequence[int] = (), generated: Sequence[int] = ()
) -> np.ndarray:
    """The scores of one row [vocab] before temperature."""
    scores = [float(x) for x in logits]
    for token, bias in (p.logit_bias or {}).items():
        scores[token] += bias
    for token in {*prompt, *generated}:
        by = p.repetition_penalty
        scores[token] = scores[token] * by if scores[token] < 0 else scores[token] / by
    for token in set(generated):
        scores[token] -= p.presence_penalty + p.frequency_penalty * list(generated).count(token)
    return np.array(scores)


def filtered(scores: np.ndarray, p: SamplingParams, top_p_shift: float = 0.0) -> np.ndarray:
    """The probabilities [vocab] from which a token is drawn. ``top_p_shift`` moves top_p, to find borderline tokens."""
    if p.temperature == 0:
        only = np.zeros(len(scores))
        only[int(np.argmax(scores))] = 1.0
        return only
    logits = scores / p.temperature
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if p.top_k:
        order = order[: p.top_k]
    weights = {token: np.exp(logits[token] - logits[order[0]]) for token in order}
    if p.top_p < 1:
        whole = sum(weights.values())
        kept: list[int] = []
        reached = 0.0
        for token in order:
            if kept and reached >= (p.top_p + top_p_shift) * whole:
                break
            kept.append(token)
            reached += weights[token]
        order = kept
    order = [token for token in order if weights[token] >= p.min_p]
    out = np.zeros(len(scores))
    for token in order:
        out[token] = weights[token]
    return out / out.sum()


def expected(
    logits: np.ndarray, p: SamplingParams, prompt: Sequence[int] = (), generated: Sequence[int] = ()
) -> np.ndarray:
    return filtered(penalised(logits, p, prompt, generated), p)


def draws(
    logits: np.ndarray,
    p: SamplingParams,
    count: int,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
    first_seed: int = 0,
) -> np.ndarray:
    """``count`` tokens drawn from the same row [vocab] by the product, with as many seeds; one batch."""
    sampler = Sampler([p] * count, range(first_seed, first_seed + count), len(logits))
    state = sampler.start([prompt] * count)
    if generated:
        one = Sampler([p], [0], len(logits))
        state = SamplerState.gather([(one.force(one.start([prompt]), 0, generated), 0)] * count)
    batch = mx.broadcast_to(mx.array(logits.astype(np.float32)), (count, len(logits)))
    return np.array(sampler(batch, state)[0].tokens)


def measured(monkeypatch: Any, logits: np.ndarray, p: SamplingParams, count: int = 2000, **row: Any) -> np.ndarray:
    """The product's probabilities [vocab], each exact to 1 / count: drawn at evenly spaced 'random' numbers."""
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_stream_key", lambda seed: seed)
        # The second number, which only unordered draws use, runs through a golden-ratio sequence.
        patch.setattr(sampling, "_uniform", lambda i, _: ((i + 0.5) / count, (i * 0.6180339887498949) % 1.0))
        tokens = draws(logits, p, count, **row)
    return np.bincount(tokens, minlength=len(logits)) / count


def chi_square_ok(tokens: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether counts fit the probabilities: Pearson's statistic within five standard deviations of its mean."""
    count = len(tokens)
    seen = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    assert not seen[probabilities == 0].any(), "a token outside the support was drawn"
    common = probabilities * count >= 5
    wanted, got = probabilities[common] * count, seen[common]
    rest = count - wanted.sum()
    if rest > 5:
        wanted, got = np.append(wanted, rest), np.append(got, count - got.sum())
    statistic = float(((got - wanted) ** 2 / wanted).sum())
    freedom = max(len(wanted) - 1, 1)
    return statistic < freedom + 5 * np.sqrt(2 * freedom)
