"""What is computed in idle time: the next turn as its template will write it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx import Completion, Qwen3, SamplingParams
from qwen3_mlx.engine.warmup import CHUNK, KEPT, Warmup

GREEDY = SamplingParams(temperature=0, max_tokens=200)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_time",
        "description": "Get current time in a specific timezone",
        "parameters": {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]},
    },
}


@pytest.fixture
def q() -> Iterator[Qwen3]:
    with Qwen3.load("demo") as loaded:
        yield loaded


def idle(q: Qwen3) -> None:
    """Wait until there is nothing left to compute."""
    loop = q._engine._loop  # type: ignore[attr-defined]
    for _ in range(2000):
        if loop.inbox.empty() and not loop._warmup:
            return
        time.sleep(0.005)
    raise AssertionError("the engine does not come to rest")


def same(one: Completion, other: Completion) -> bool:
    return (one.content, one.reasoning_content, one.finish_reason) == (
        other.content,
        other.reasoning_content,
        other.finish_reason,
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_the_next_turn_computes_its_message_and_the_wrapping_only(q: Qwen3, thinking: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": "How many r are in strawberry?"}]
    with Qwen3.load("demo", prefix_cache_bytes=0) as cold:
        for turn in range(4):
            answer = q.generate(messages, thinking, params=GREEDY)
            assert same(answer, cold.generate(messages, thinking, params=GREEDY)), "exact, warm or cold"
            if turn:
                # The end of the turn before is shared; the message and what the template puts around it is new.
                message = q.tokenizer.encode("How many a are in banana?")
                assert answer.usage.prompt_tokens - answer.usage.cached_tokens <= len(message) + 12
            idle(q)
            messages += [answer.to_message(), {"role": "user", "content": "How many a are in banana?"}]


def test_after_a_tool_call_its_result_is_all_that_is_new(q: Qwen3) -> None:
    messages: list[Any] = [{"role": "user", "content": "What time is it in Tokyo?"}]
    answer = q.generate(messages, tools=[TOOL], params=GREEDY)
    assert answer.tool_calls
    idle(q)
    result = '{"timezone": "Asia/Tokyo", "datetime": "2026-11-24T21:09:00+09:00"}'
    messages += [answer.to_message(), {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": result}]
    usage = q.generate(messages, tools=[TOOL], params=GREEDY).usage
    assert usage.prompt_tokens - usage.cached_tokens <= len(q.tokenizer.encode(result)) + 16


def test_a_request_that_comes_waits_for_one_chunk(q: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was computed by then is kept, the rest is taken up when there is time again."""
    waited: list[int] = []
    real = Warmup.step
    long = q.tokenizer.encode("How many r are in strawberry? " * 80)

    def step(self: Warmup) -> None:
        real(self)
        if len(waited) == 2:
            stream.append(q.stream("How many r are in pear?", params=GREEDY))
        waited.append(self._cache.offset if self._cache is not None else -1)

    monkeypatch.setattr(Warmup, "step", step)
    stream: list[Any] = []
    q._engine.expect(lambda: long)
    for _ in range(1000):
        if stream:
            break
        time.sleep(0.005)
    assert list(stream[0])[-1].finish_reason == "stop"
    assert waited[:3] == [CHUNK, 2 * CHUNK, 3 * CHUNK]
    idle(q)
    assert q._prefixes.match(long)[0] == len(long)
    assert waited[3] == 4 * CHUNK or waited[3] == -1, "nothing is computed twice"


def test_what_cannot_be_had_is_forgotten(q: Qwen3) -> None:
    def broken() -> list[int]:
        raise ValueError("no such template")

    q._engine.expect(broken)
    q._engine.expect(lambda: [10**9])
    idle(q)
    assert q.generate("How many r are in pear?", params=GREEDY).content


def test_only_the_newest_are_remembered(q: Qwen3) -> None:
    seen: list[int] = []
    warmup = Warmup(q._engine._loop._runner)  # type: ignore[attr-defined]
    for index in range(KEPT + 3):
        warmup.add(lambda index=index: seen.append(index) or [65, 66])  # type: ignore[func-returns-value,misc]
    while warmup:
        warmup.step()
    assert seen == [*range(KEPT + 2, 2, -1)]


def test_without_a_cache_nothing_is_expected() -> None:
    with Qwen3.load("demo", prefix_cache_bytes=0) as q:
        stream = q.stream("How many r are in pear?", params=GREEDY)
        assert stream._then is None
        list(stream)


def test_the_cache_explains_itself(q: Qwen3) -> None:
    messages: list[Any] = [{"role": "user", "content": "How many r are in strawberry?"}]
    assert q.explain_cache(messages).reason == "nothing is stored"
    answer = q.generate(messages, params=GREEDY)
    idle(q)
    assert q.explain_cache(messages).reason == "the whole prompt is stored"
    report = q.explain_cache([*messages, answer.to_message(), {"role": "user", "content": "And in pear?"}])
    assert report.reason == "all that is stored is used, and new text follows"
    report = q.explain_cache([{"role": "user", "content": "How many p are in strawberry?"}])
    assert report.reason == "the first message of the user changed"
    assert report.stored.startswith(" r") and report.asked.startswith(" p")


def test_what_does_not_fit_is_not_computed_ahead(q: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    loop: Any = q._engine._loop  # type: ignore[attr-defined]
    monkeypatch.setattr(loop._warmup._runner, "warm", lambda *given: ran.append(1))
    loop._memory.limit = loop._memory.footprint.peak([(1, 256)], 64)
    q._engine.expect(lambda: q.tokenizer.encode("How many r are in strawberry? " * 100))
    idle(q)
    assert not ran
    loop._memory.limit = 1 << 40
    q._engine.expect(lambda: q.tokenizer.encode("How many?"))
    for _ in range(1000):
        if ran:
            return
        time.sleep(0.005)
    raise AssertionError("what fits is computed")
