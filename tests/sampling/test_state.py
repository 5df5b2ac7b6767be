"""What the tokens so far do to the next draw: penalties, forced tokens, steps that are thrown away."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.sampling import Sampler, SamplerState

from .reference import expected, make, penalised

VOCAB = 40
PENALTIES = [
    {"repetition_penalty": 1.3},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7},
    {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    {"repetition_penalty": 0.8, "presence_penalty": -1.0, "logit_bias": {3: 2.0, 7: -4.0}},
]


def _logits(steps: int, seed: int) -> np.ndarray:
    # One half repeats from step to step, so that penalties keep deciding between the same favourites.
    rng = np.random.default_rng(seed)
    return (rng.normal(size=VOCAB) * 2 + rng.normal(size=(steps, VOCAB)) * 0.5).astype(np.float32)


def _row(x: np.ndarray) -> mx.array:
    return mx.array(x)[None]


@pytest.mark.parametrize("changes", PENALTIES, ids=str)
def test_greedy_follows_the_reference_over_a_sequence(changes: dict) -> None:
    differs = 0
    for seed in range(5):
        p, prompt, generated = make(temperature=0.0, **changes), [5, 5, 11, 30], []
        sampler = Sampler([p], [seed], VOCAB)
        state = sampler.start([prompt])
        steps = _logits(30, seed)
        for logits in steps:
            out, state = sampler(_row(logits), state)
            token = int(out.tokens.item())
            assert token == int(np.argmax(penalised(logits, p, prompt, generated)))
            generated.append(token)
        differs += generated != np.argmax(steps, axis=1).tolist()
    assert differs > 2, "the penalties never mattered"


@pytest.mark.parametrize("changes", PENALTIES, ids=str)
def test_draws_follow_the_reference_over_a_sequence(changes: dict) -> None:
    """Many rows at once, each with a history of its own; with top_k=3 a wrong count soon draws a foreign token."""
    rows, p, prompt = 24, make(temperature=0.8, top_k=3, **changes), [1, 2, 3]
    sampler = Sampler([p] * rows, range(rows), VOCAB)
    state, generated = sampler.start([prompt] * rows), [[] for _ in range(rows)]
    for logits in _logits(25, 1):
        out, state = sampler(mx.broadcast_to(mx.array(logits), (rows, VOCAB)), state)
        for history, token in zip(generated, out.tokens.tolist(), strict=True):
            assert expected(logits, p, prompt, history)[token] > 0
            history.append(token)
    assert len({tuple(history) for history in generated}) > rows // 2


def test_only_repetition_looks_at_the_prompt() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[[8, 9]] = 2.0, 1.9
    for changes, want in (
        ({"repetition_penalty": 1.5}, 9),
        ({"presence_penalty": 1.5}, 8),
        ({"frequency_penalty": 1.5}, 8),
    ):
        sampler = Sampler([make(temperature=0.0, **changes)], [0], VOCAB)
        assert sampler(_row(logits), sampler.start([[8, 8]]))[0].tokens.item() == want


def test_a_discarded_step_leaves_no_trace() -> None:
    p = make(frequency_penalty=0.5, repetition_penalty=1.1, top_k=10)
    sampler = Sampler([p], [3], VOCAB)
    steps = _logits(20, 2)

    def run(wasteful: bool) -> list[int]:
        state, tokens = sampler.start([[1]]), []
        for logits in steps:
            if wasteful:
                ahead, _ = sampler(_row(logits[::-1].copy()), state)
                mx.eval(ahead.arrays())
            out, state = sampler(_row(logits), state)
            tokens.append(int(out.tokens.item()))
        return tokens

    assert run(wasteful=True) == run(wasteful=False)


def test_forced_tokens_count_like_drawn_ones() -> None:
    steps = _logits(30, 4)
    p = make(frequency_penalty=0.6, presence_penalty=0.3, repetition_penalty=1.1, top_p=0.9)
    sampler = Sampler([p, p], [7, 8], VOCAB)
    state = sampler.start([[1], [2]])
    drawn = []
    for logits in steps[:20]:
        out, state = sampler(mx.broadcast_to(mx.array(logits), (2, VOCAB)), state)
        drawn.append(out.tokens.tolist())
    # The same history, put in by force, in one piece and row by row.
    forced = sampler.start([[1], [2]])
    for row in (0, 1):
        forced = sampler.force(forced, row, [pair[row] for pair in drawn])
    assert forced.positions == state.positions == (20, 20)
    assert mx.array_equal(forced.counts, state.counts).item()
    for logits in steps[20:]:
        both = mx.broadcast_to(mx.array(logits), (2, VOCAB))
        a, state = sampler(both, state)
        b, forced = sampler(both, forced)
        assert a.tokens.tolist() == b.tokens.tolist()
    untouched = sampler.force(state, 1, [])
    assert untouched.positions == state.positions


def test_rows_join_leave_and_go_back() -> None:
    """Three rows run alone; then the same rows, gathered into one batch halfway and scattered again, say the same."""
    params = [make(frequency_penalty=1.0, top_k=10), make(top_p=0.9), make(repetition_penalty=1.3, temperature=0.7)]
    steps = _logits(15, 6)

    def alone(row: int) -> list[int]:
        sampler = Sampler([params[row]], [row], VOCAB)
        state, tokens = sampler.start([[row]]), []
        for logits in steps:
            out, state = sampler(_row(logits), state)
            tokens.append(int(out.tokens.item()))
        return tokens

    singles = [Sampler([p], [row], VOCAB) for row, p in enumerate(params)]
    states = [s.start([[row]]) for row, s in enumerate(singles)]
    texts: list[list[int]] = [[], [], []]
    for logits in steps[:5]:
        for row in range(3):
            out, states[row] = singles[row](_row(logits), states[row])
            texts[row].append(int(out.tokens.item()))
    batch = Sampler(params, range(3), VOCAB)
    state = SamplerState.gather([(s, 0) for s in states])
    for logits in steps[5:10]:
        three = mx.broadcast_to(mx.array(logits), (3, VOCAB))
        _, early = batch(mx.broadcast_to(mx.array(logits[::-1].copy()), (3, VOCAB)), state)
        # Row 1's early step was discarded: it returns to the state before, and here the others follow it.
        state = SamplerState.gather([(state, 0), (state, 1), (state, 2)])
        assert early.positions == tuple(p + 1 for p in state.positions)
        out, state = batch(three, state)
        for text, token in zip(texts, out.tokens.tolist(), strict=True):
            text.append(token)
    pair = Sampler([params[2], params[0]], [2, 0], VOCAB)
    state = SamplerState.gather([(state, 2), (state, 0)])
    for logits in steps[10:]:
        out, state = pair(mx.broadcast_to(mx.array(logits), (2, VOCAB)), state)
        for row, token in zip((2, 0), out.tokens.tolist(), strict=True):
            texts[row].append(token)
    assert texts[0] == alone(0)
    assert texts[1] == alone(1)[:10]
    assert texts[2] == alone(2)


def test_one_row_steps_back_while_the_others_go_on() -> None:
    p = make(frequency_penalty=1.0)
    sampler = Sampler([p, p], [1, 2], VOCAB)
    before = sampler.start([[], []])
    logits = mx.array(_logits(2, 9))
    out, after = sampler(logits, before)
    mixed = SamplerState.gather([(before, 0), (after, 1)])
    assert mixed.positions == (0, 1)
    assert mixed.counts is not None
    assert mixed.counts[0].sum().item() == 0
    assert mixed.counts[1].sum().item() == 1
    again, _ = sampler(logits, mixed)
    assert again.tokens[0].item() == out.tokens[0].item()
