"""A row's tokens depend on its parameters, seed and logits, not on its company; and nothing waits for the device."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx import sampling
from qwen3_mlx.sampling import Sampler, fresh_seed
from qwen3_mlx.types import SamplingParams, TokenLogprob

from .reference import draws, make

THINKING = make(temperature=0.6, top_p=0.95, top_k=20)
MIXED: list[SamplingParams] = [
    THINKING,
    make(temperature=0.0, frequency_penalty=0.4),
    make(temperature=0.7, top_p=0.8, top_k=3, presence_penalty=1.5),
    make(temperature=1.3),
    make(top_p=0.9, logit_bias={5: 3.0}),
    make(top_k=290, repetition_penalty=1.2, logprobs=4),
    make(min_p=0.05, logprobs=0),
    make(temperature=0.0),
]


def _steps(count: int, vocab: int) -> np.ndarray:
    return (np.random.default_rng(vocab).normal(size=(count, len(MIXED), vocab)) * 3).astype(np.float32)


def _run(rows: list[int], steps: np.ndarray) -> dict[int, tuple[list[int], list[TokenLogprob | None]]]:
    vocab = steps.shape[-1]
    sampler = Sampler([MIXED[row] for row in rows], [100 + row for row in rows], vocab)
    state = sampler.start([[row, 1, 2] for row in rows])
    found: dict[int, tuple[list[int], list[TokenLogprob | None]]] = {row: ([], []) for row in rows}
    for logits in steps:
        out, state = sampler(mx.array(logits[rows]), state)
        for row, token, logprob in zip(rows, out.tokens.tolist(), out.token_logprobs(), strict=True):
            found[row][0].append(token)
            found[row][1].append(logprob)
    return found


@pytest.mark.parametrize("vocab", [1200, 1203, 5000])
def test_the_same_alone_and_in_any_batch(vocab: int) -> None:
    steps = _steps(12, vocab)
    together = _run(list(range(8)), steps)
    for rows in ([[row] for row in range(8)], [[0, 5], [2, 4], [7, 1], [6, 3]], [[7, 6, 5, 4, 3, 2, 1, 0]]):
        for batch in rows:
            for row, found in _run(batch, steps).items():
                assert found == together[row]


def test_a_wide_top_k_beside_a_narrow_one_changes_nothing() -> None:
    logits = mx.array((np.random.default_rng(0).normal(size=(1, 20_000)) * 2).astype(np.float32))
    narrow, wide = make(top_k=140, top_p=0.97), make(top_k=3000, temperature=1.5)
    for seed in range(40):
        alone = [Sampler([p], [seed], 20_000) for p in (narrow, wide)]
        want = [s(logits, s.start([()]))[0].tokens.item() for s in alone]
        both = Sampler([narrow, wide], [seed, seed], 20_000)
        out, _ = both(mx.broadcast_to(logits, (2, 20_000)), both.start([(), ()]))
        assert out.tokens.tolist() == want


def test_lists_longer_than_the_vocabulary_keep_their_width() -> None:
    """The width is what keeps exp() on the same vector lanes; what fills it weighs nothing."""
    values, ids = sampling._largest(mx.array([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]]), 32)
    assert values.shape == ids.shape == (2, 32)
    assert ids[:, :3].tolist() == [[1, 2, 0], [0, 1, 2]]
    assert mx.all(values[:, 3:] == -mx.inf).item()


def test_sums_do_not_depend_on_how_far_they_go() -> None:
    weights = mx.array(np.random.default_rng(4).random((2, 3000)).astype(np.float32))
    whole = sampling._cumsum(weights)
    for width in (32, 128, 160, 512, 1024, 2976):
        assert mx.array_equal(sampling._cumsum(weights[:, :width]), whole[:, :width]).item()
    assert np.allclose(np.array(whole), np.cumsum(np.array(weights, dtype=np.float64), axis=1), rtol=1e-6)


def test_seeds_and_positions_make_different_texts() -> None:
    flat = np.zeros(1000)
    by_seed = draws(flat, make(), 500)
    assert len(set(by_seed)) > 350
    assert np.array_equal(by_seed, draws(flat, make(), 500))
    sampler = Sampler([make()], [1], 1000)
    state, tokens = sampler.start([()]), []
    for _ in range(500):
        out, state = sampler(mx.zeros((1, 1000)), state)
        tokens.append(int(out.tokens.item()))
    assert len(set(tokens)) > 350
    counts = np.bincount(np.array(tokens) // 100, minlength=10)
    assert counts.min() > 25
    assert counts.max() < 75


RECORDED = [
    (THINKING, [38, 22, 46, 31, 40, 16, 39, 48]),
    (make(), [7, 3, 42, 24, 47, 15, 8, 8]),
    (make(temperature=2.0, top_p=0.7, frequency_penalty=1.0), [4, 37, 28, 46, 15, 24, 13, 6]),
]


@pytest.mark.parametrize(("params", "want"), RECORDED, ids=["thinking", "plain", "nucleus"])
def test_a_seed_means_the_same_text_in_every_release(params: SamplingParams, want: list[int]) -> None:
    """Recorded once: a change here breaks everybody's seeded requests."""
    logits = mx.array((np.arange(50) * 0.37 % 3).astype(np.float32))[None]
    sampler = Sampler([params], [42], 50)
    state, tokens = sampler.start([()]), []
    for _ in range(8):
        out, state = sampler(logits, state)
        tokens.append(int(out.tokens.item()))
    assert tokens == want


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**100, fresh_seed()], ids=["0", "-1", "2**63", "2**100", "fresh"])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert len(draws(np.zeros(10), make(), 3, first_seed=seed)) == 3


def test_fresh_seeds_differ() -> None:
    assert len({fresh_seed() for _ in range(100)}) == 100


def test_nothing_is_evaluated() -> None:
    """MLX refuses to evaluate while it traces a function: a sampler that waited for a value would raise here."""
    sampler = Sampler(MIXED, range(8), 1200)
    state = sampler.start([[1]] * 8)

    def two_steps(logits: mx.array) -> list[mx.array]:
        first, after = sampler(logits, state)
        second, _ = sampler(logits * 2, sampler.force(after, 1, [4, 5]))
        return first.arrays() + second.arrays()

    shapes = [a.shape for a in mx.compile(two_steps)(mx.zeros((8, 1200)))]
    assert shapes[:2] == [(8,), (8,)]
    with pytest.raises(ValueError, match="eval"):
        mx.compile(lambda x: x * x.sum().item())(mx.ones((2,)))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_logits_are_sampled_in_float32(dtype: mx.Dtype) -> None:
    half = mx.array((np.random.default_rng(1).normal(size=(1, 1200)) * 3).astype(np.float32)).astype(dtype)
    for p in (*MIXED, make(temperature=0.7, top_p=0.9, logprobs=5), make(temperature=0.9, logit_bias={1: 0.001})):
        for seed in range(25):
            sampler = Sampler([p], [seed], 1200)
            state = sampler.start([[1]])
            out, _ = sampler(half, state)
            full, _ = sampler(half.astype(mx.float32), state)
            assert out.tokens.tolist() == full.tokens.tolist()
            assert out.token_logprobs() == full.token_logprobs()


@pytest.mark.parametrize("vocab", [3, 1200, 5003])
@pytest.mark.parametrize("poison", ["nan", "all nan", "inf", "all -inf"])
def test_broken_logits_are_reported_and_harm_no_neighbour(vocab: int, poison: str) -> None:
    params = [make(logit_bias=p.logit_bias and {1: 3.0}, **_plain(p)) for p in MIXED]
    sampler = Sampler(params, range(8), vocab)
    state = sampler.start([[1]] * 8)
    good = (np.random.default_rng(2).normal(size=(8, vocab)) * 3).astype(np.float32)
    healthy, _ = sampler(mx.array(good), state)
    for broken in range(8):
        logits = good.copy()
        logits[broken, slice(None) if poison.startswith("all") else vocab // 2] = float(poison.removeprefix("all "))
        out, after = sampler(mx.array(logits), state)
        mx.eval(out.arrays(), after.counts)
        assert np.isfinite(out.peak.tolist()).tolist() == [row != broken for row in range(8)]
        tokens = out.tokens.tolist()
        assert all(0 <= token < vocab for token in tokens)
        others = [row for row in range(8) if row != broken]
        assert [tokens[row] for row in others] == [healthy.tokens.tolist()[row] for row in others]


def _plain(p: SamplingParams) -> dict:
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    return {name: getattr(p, name) for name in (*names, "logprobs")}
