"""A thought that its budget closed, and that goes on as if it had not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from qwen3_mlx import Completion, InvalidRequest, Qwen3, SamplingParams
from qwen3_mlx.control.budget import EARLY_STOP

QUESTION = "How many r are in raspberries?"


@pytest.fixture(scope="module", params=["demo", "demo-moe"])
def q(request: pytest.FixtureRequest) -> Iterator[Qwen3]:
    with Qwen3.load(request.param) as loaded:
        yield loaded


def said(completion: Completion) -> Completion:
    """All but the times, and what was found in the cache."""
    usage = replace(completion.usage, cached_tokens=0)
    return replace(completion, usage=usage, timings=None, resume=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [0, 1, 7, 30])
@pytest.mark.parametrize("seed", range(4))
def test_closed_and_extended_equals_never_closed(q: Qwen3, budget: int, seed: int) -> None:
    params = SamplingParams(temperature=1.0, seed=seed, presence_penalty=0.3, max_tokens=160)
    never = q.generate(QUESTION, params=params)
    closed = q.generate(QUESTION, thinking_budget=budget, params=params)
    if not closed.usage.budget_exhausted:
        assert closed.resume is None
        return
    assert EARLY_STOP.split("</think>")[0].strip() in (closed.reasoning_content or "")
    extended = q.extend(closed)
    assert said(extended) == said(never)
    prompt = extended.usage.prompt_tokens
    assert extended.usage.cached_tokens == (prompt if closed.resume.generated else prompt - 1)  # type: ignore[union-attr]


def test_a_thought_is_extended_as_often_as_one_likes(q: Qwen3) -> None:
    """Without a seed too: the one that was drawn stays."""
    params = SamplingParams(temperature=0.7, max_tokens=200)
    answer = q.generate(QUESTION, thinking_budget=3, params=params)
    thoughts = []
    for budget in (9, 15):
        answer = q.extend(answer, budget)
        assert answer.usage.budget_exhausted and answer.reasoning_content
        thoughts.append(answer.reasoning_content.split("\n\nConsidering")[0])
    assert thoughts[1].startswith(thoughts[0]) and thoughts[0] != thoughts[1]
    again = q.extend(answer)
    assert not again.usage.budget_exhausted and (again.reasoning_content or "").startswith(thoughts[1])


def test_streamed_log_probabilities_are_kept(q: Qwen3) -> None:
    params = SamplingParams(temperature=0, logprobs=2, max_tokens=120)
    never = list(q.stream(QUESTION, params=params))
    closed = list(q.stream(QUESTION, thinking_budget=10, params=params))
    resume = closed[-1].resume  # type: ignore[union-attr]
    from qwen3_mlx.engine.streams import EventStream

    assert list(EventStream(q._engine, replace(resume, thinking_budget=None)))[:-1] == never[:-1]


def test_what_cannot_be_extended(q: Qwen3) -> None:
    params = SamplingParams(temperature=0, max_tokens=200)
    whole = q.generate(QUESTION, params=params)
    with pytest.raises(InvalidRequest, match="nothing to extend"):
        q.extend(whole)
    closed = q.generate(QUESTION, thinking_budget=20, params=params)
    with pytest.raises(InvalidRequest, match="spent already") as caught:
        q.extend(closed, 5)
    assert caught.value.param == "thinking_budget"
    with pytest.raises(InvalidRequest, match="0 or more"):
        q.extend(closed, -1)
    assert said(q.extend(closed, 20)) == said(closed), "the same budget closes it again"
    assert said(q.extend(closed)) == said(whole), "the engine goes on"
