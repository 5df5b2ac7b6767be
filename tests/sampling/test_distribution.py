"""What is drawn, and how often, against probabilities computed in numpy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx import sampling
from qwen3_mlx.sampling import Sampler

from .reference import chi_square_ok, draws, expected, filtered, make, measured

GRID = [
    {},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
    {"temperature": 0.7, "top_p": 0.8, "top_k": 20},
    {"temperature": 2.0, "top_k": 7},
    {"top_k": 2},
    {"top_k": 299},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"temperature": 0.3, "top_p": 0.9, "min_p": 0.05},
    {"min_p": 0.2},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 100.0},
    {"temperature": 100.0, "top_k": 40, "top_p": 0.5},
]


@pytest.mark.parametrize("vocab", [300, 5003])
@pytest.mark.parametrize("changes", GRID, ids=str)
def test_frequencies_fit_the_reference(changes: dict, vocab: int) -> None:
    logits = np.random.default_rng(vocab).normal(size=vocab) * 3
    count = 2000 if vocab < 1000 else 500
    assert chi_square_ok(draws(logits, make(**changes), count), expected(logits, make(**changes)))


@pytest.mark.parametrize("changes", [g for g in GRID if g.get("top_k", 64) < 64 or "top_p" in g], ids=str)
def test_probabilities_and_support_are_exact(monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    logits = np.random.default_rng(3).normal(size=64) * 2
    count = 4000
    want = expected(logits, make(**changes))
    got = measured(monkeypatch, logits, make(**changes), count)
    assert np.abs(got - want).max() <= 1.01 / count
    assert not got[want == 0].any()
    assert got[want > 1.01 / count].all(), "a token of the support was never drawn"


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        # 0.4, 0.3, 0.2, 0.1: what top_k leaves is renormalised before top_p looks at it (0.4 / 0.7 >= 0.5) ...
        ({"top_k": 2, "top_p": 0.5}, [1, 0, 0, 0]),
        # ... without top_k the second token is needed to reach a half: the token that crosses is kept.
        ({"top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
        # top_p comes before min_p: the other way round 0.4 / 0.7 alone would reach 0.5.
        ({"top_p": 0.5, "min_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        # Temperature comes first: squared probabilities 16, 9, 4, 1 of 30.
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        ({"temperature": 0.5, "top_p": 0.5}, [1, 0, 0, 0]),
        ({"temperature": 0.5, "min_p": 0.3}, [16 / 25, 9 / 25, 0, 0]),
        ({"min_p": 0.3}, [4 / 9, 3 / 9, 2 / 9, 0]),
        # min_p is relative to the most probable token.
        ({"min_p": 0.8}, [1, 0, 0, 0]),
        ({"top_k": 3, "min_p": 0.7}, [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_order_of_the_filters(monkeypatch: pytest.MonkeyPatch, changes: dict, want: list[float]) -> None:
    logits = np.log([0.2, 0.4, 0.1, 0.3])
    got = measured(monkeypatch, logits, make(**changes), 2000)[[1, 3, 0, 2]]
    # Drawn in two steps (no order needed), the measure is a little coarser.
    assert np.allclose(got, want, atol=2e-3)
    assert not got[np.array(want) == 0].any()


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        # Token 1 holds 2 and was generated twice; token 0 is at 0. Bias before repetition: (2 - 3) * 2, not 2/2 - 3.
        ({"logit_bias": {1: -3.0}, "repetition_penalty": 2.0}, -2.0),
        # Repetition before presence and frequency: 2/2 - 1 - 0.5 * 2, not (2 - 2) / 2.
        ({"repetition_penalty": 2.0, "presence_penalty": 1.0, "frequency_penalty": 0.5}, -1.0),
        # All of it before temperature: (2 - 1) / 0.5, not 2 / 0.5 - 1.
        ({"presence_penalty": 1.0, "temperature": 0.5}, 2.0),
        ({"logit_bias": {1: -1.0}, "temperature": 0.5}, 2.0),
        # ... and before the filters: bias and penalties decide who is among the best.
        ({"presence_penalty": 3.0, "top_k": 1}, -np.inf),
        ({"presence_penalty": 3.0, "top_p": 0.6}, -np.inf),
        ({"presence_penalty": 3.0, "min_p": 0.5}, -np.inf),
        ({"logit_bias": {1: -np.inf}}, -np.inf),
    ],
)
def test_order_of_bias_penalties_and_temperature(monkeypatch: pytest.MonkeyPatch, changes: dict, want: float) -> None:
    logits = np.array([0.0, 2.0, -np.inf])
    got = measured(monkeypatch, logits, make(**changes), 1000, generated=[1, 1])
    share = np.exp(want) / (1 + np.exp(want))
    assert np.allclose(got, [1 - share, share, 0], atol=3e-3)
    assert share > 0 or got[1] == 0


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.zeros(5000)
    logits[[4000, 17, 300]] = 2.5
    for changes in ({"temperature": 0.0}, {"top_k": 1}, {"temperature": 1e-42}):
        assert set(draws(logits, make(**changes), 20)) == {17}


def test_ties_at_the_edge_of_top_k_and_top_p_go_to_the_lowest_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    # In the large vocabulary the winners lie in late blocks, which must not pull their neighbours in.
    for vocab, high in ((40, [30, 9]), (5000, [4000, 2000])):
        logits = np.zeros(vocab)
        logits[high] = 1.0
        got = measured(monkeypatch, logits, make(top_k=4), 2000)
        assert set(np.nonzero(got)[0]) == {*high, 0, 1}
    logits = np.zeros(40)
    assert set(np.nonzero(measured(monkeypatch, logits, make(top_p=0.25)))[0]) == set(range(10))
    assert set(np.nonzero(measured(monkeypatch, logits, make(top_p=0.251)))[0]) == set(range(11))


def test_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(5).normal(size=500)
    best = int(np.argmax(logits))
    for top in ({}, {"top_k": 20}, {"top_p": 0.9}):
        assert set(draws(logits, make(temperature=1e-6, **top), 200)) == {best}
    for changes in ({"top_p": 1e-9}, {"top_p": 1e-9, "top_k": 20}, {"min_p": 1.0}, {"min_p": 1.0, "top_p": 0.9}):
        assert set(draws(logits, make(**changes), 200)) == {best}
    twins = np.array([3.0, 1.0, 3.0, 2.0])
    assert np.allclose(measured(monkeypatch, twins, make(min_p=1.0, top_k=3)), [0.5, 0, 0.5, 0], atol=1e-3)
    assert np.allclose(measured(monkeypatch, twins, make(temperature=1e-6, top_p=0.9)), [0.5, 0, 0.5, 0], atol=1e-3)


def test_a_vocabulary_smaller_than_any_block() -> None:
    logits = np.array([1.0, 0.0, 2.0])
    for changes in ({}, {"top_k": 2}, {"top_k": 3}, {"top_k": 9}, {"top_p": 0.9}, {"min_p": 0.3}):
        assert chi_square_ok(draws(logits, make(**changes), 2000), expected(logits, make(**changes)))


@pytest.mark.parametrize("changes", [{}, {"top_k": 20}, {"top_p": 0.9}, {"temperature": 0.0}, {"min_p": 1e-6}], ids=str)
def test_banned_tokens_are_never_drawn(changes: dict) -> None:
    vocab, allowed = 700, [3, 128, 699]
    bias = {token: -np.inf for token in range(vocab) if token not in allowed}
    tokens = draws(np.random.default_rng(8).normal(size=vocab), make(logit_bias=bias, **changes), 60)
    assert set(tokens) <= set(allowed)


def test_a_flat_nucleus_of_many_thousands_ends_at_the_right_token(monkeypatch: pytest.MonkeyPatch) -> None:
    vocab = 30_000
    logits = np.random.default_rng(9).normal(size=vocab) * 0.1
    want = filtered(logits, make(top_p=0.95))
    last = min(np.nonzero(want)[0], key=lambda token: (logits[token], -token))
    monkeypatch.setattr(sampling, "_uniform", lambda *_: (1 - 2.0**-24, 0.0))
    (token,) = draws(logits, make(top_p=0.95), 1)
    ranks = np.argsort(np.argsort(-logits.astype(np.float32), kind="stable"), kind="stable")
    # float32 sums of 30,000 terms may move the edge by a token, not by more.
    assert abs(int(ranks[token]) - int(ranks[last])) <= 1


def test_a_thin_tail_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    # 40,000 tokens of 2.5e-8 each: added one by one to a float32 sum of 1 they would all vanish.
    vocab = 40_001
    logits = np.full(vocab, np.log(2.5e-8))
    logits[0] = np.log(0.999)
    count = 20_000
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "_uniform", lambda key, _: key)
        patch.setattr(sampling, "_stream_key", lambda i: ((i + 0.5) / count, i % 97 / 97))
        sampler = Sampler([make()] * 200, range(count - 200, count), vocab)
        batch = mx.broadcast_to(mx.array(logits.astype(np.float32)), (200, vocab))
        tokens = np.array(sampler(batch, sampler.start([()] * 200))[0].tokens)
    assert abs(np.count_nonzero(tokens) - 20) <= 1
    assert len(set(tokens[tokens > 0])) > 10, "the tail's mass must be spread over the tail"


CHANGES = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 1e-6, 0.1, 0.6, 1.0, 3.0, 100.0]),
        "top_k": st.sampled_from([0, 1, 2, 3, 5, 20, 33, 150, 1000]),
        "top_p": st.sampled_from([1e-6, 0.1, 0.33, 0.5, 0.8, 0.95, 0.999, 1.0]),
        "min_p": st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]),
    }
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    changes=CHANGES,
    vocab=st.sampled_from([1, 2, 31, 32, 33, 128, 257, 1200, 4100, 6000]),
    step=st.sampled_from([0.0, 0.125, 1.0]),
    seed=st.integers(0, 2**40),
)
def test_each_draw_lies_where_the_reference_puts_it(changes: dict, vocab: int, step: float, seed: int) -> None:
    """Logits on a coarse grid, so that ties are everywhere; the drawn token must own the row's random number."""
    p = make(**changes)
    logits = (np.random.default_rng(seed).normal(size=vocab) * 4).astype(np.float32).astype(float)
    if step:
        logits = np.round(logits / step) * step
    (token,) = draws(logits, p, 1, first_seed=seed)
    want = filtered(logits, p)
    # A sum that meets top_p but for rounding may fall either way.
    near = [want, filtered(logits, p, 1e-5), filtered(logits, p, -1e-5)] if p.top_p < 1 else [want]
    assert any(q[token] > 0 for q in near)
    if p.temperature == 0 or (p.top_p == 1 and not 0 < p.top_k < vocab):
        return  # nothing is ordered: only membership is promised
    u, _ = sampling._uniform(sampling._stream_key(seed), 0)

    def owns(q: np.ndarray) -> bool:
        order = np.lexsort((np.arange(vocab), -logits))
        rank = int(np.nonzero(order == token)[0][0])
        upto = np.cumsum(q[order])
        return upto[rank] - q[token] - 2e-5 <= u <= upto[rank] + 2e-5

    assert any(owns(q) for q in near)
