"""The token loop, with a toy model in the runner's place, against a loop that does one thing at a time."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.engine.engine import LocalEngine
from qwen3_mlx.engine.pace import Pace
from qwen3_mlx.engine.streams import EventStream, astream
from qwen3_mlx.errors import ContextOverflow, EngineError, InvalidRequest
from qwen3_mlx.types import Event, Finished, Grammar, Request, TextDelta, Timings
from tests.control.toys import EOS, THINK_CLOSE, THINK_OPEN, ToyVocabulary, request
from tests.engine.toymodel import Next, ToyRunner, babble, naive

CONTEXT = 300


def engine(runner: ToyRunner, *, max_rows: int = 1, chunk: int = 16, context: int = CONTEXT) -> LocalEngine:
    toy: Any = runner
    return LocalEngine(toy, ToyVocabulary(), context=context, vocab_size=2000, max_rows=max_rows, chunk=chunk)


def answer(text: str, thought: str | None = None) -> Next:
    """A model that always says the same thing, whatever the prompt: the prompt ends at the first ``?``."""
    vocabulary = ToyVocabulary()
    script = ([] if thought is None else [THINK_OPEN, *vocabulary.encode(thought), THINK_CLOSE]) + [
        *vocabulary.encode(text),
        EOS,
    ]

    def model(tokens: Any) -> int:
        return script[min(len(tokens) - tokens.index(63) - 1, len(script) - 1)]

    return model


def timeless(events: list[Event]) -> list[Event]:
    return [replace(e, timings=Timings(), resume=None) if isinstance(e, Finished) else e for e in events]


def text(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta))


requests = st.builds(
    lambda prompt, budget, max_tokens, inside, stop, grammar, thinking: request(
        prompt=[*prompt, *([THINK_OPEN, 10] if inside else [])],
        in_thinking=inside,
        thinking_budget=budget,
        max_tokens=max_tokens,
        stop=stop,
        grammar=grammar and Grammar.regex(grammar),
        thinking=thinking,
    ),
    prompt=st.lists(st.integers(65, 90), min_size=1, max_size=60),
    budget=st.none() | st.integers(0, 30),
    max_tokens=st.none() | st.integers(1, 60),
    inside=st.booleans(),
    stop=st.sampled_from([(), ("ab",), ("z", "qq")]),
    grammar=st.none() | st.sampled_from(["[a-z]{3,60}", "(a|b)(word|letter){1,9}[xy]", "one way only", "[^<>]*"]),
    thinking=st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(asked=st.lists(requests, min_size=1, max_size=6), max_rows=st.integers(1, 4), chunk=st.integers(1, 40))
def test_running_ahead_changes_nothing(asked: list[Request], max_rows: int, chunk: int) -> None:
    """Same events, and the model sees the same tokens, as in a loop without look-ahead; whatever else is running."""
    runner = ToyRunner(babble)
    local = engine(runner, max_rows=max_rows, chunk=chunk)
    streams = [EventStream(local, r) for r in asked]
    got = [timeless(list(s)) for s in streams]
    local.close()
    for r, events, fed in zip(asked, got, runner.fed, strict=True):
        expected, sequence = naive(r, babble, CONTEXT)
        assert events == expected
        # The early step may have fed the last token, never one that was not read.
        assert fed == sequence[: len(fed)] and len(fed) >= len(sequence) - 1 - 80
    # A grammar that leaves no choice needs no model.
    assert len(runner.threads) <= 1 and threading.get_ident() not in runner.threads
    assert max(runner.chunks, default=0) <= chunk


def test_prompts_go_through_the_model_in_chunks() -> None:
    runner = ToyRunner(answer("yes"))
    local = engine(runner, chunk=16)
    events = list(EventStream(local, request(prompt=[65] * 40 + [63])))
    local.close()
    assert runner.chunks == [16, 16, 9]
    assert text(events) == "yes"


def test_chunks_are_what_the_pace_allows_while_somebody_streams() -> None:
    class Slow(Pace):
        def tokens(self, seconds: float, depth: int) -> int:
            return 20

        def seconds(self, count: int, depth: int) -> float:
            return 0.0

    runner: Any = ToyRunner(lambda tokens: 97 if 66 in tokens else EOS)
    local = LocalEngine(
        runner, ToyVocabulary(), context=10**8, vocab_size=2000, max_rows=2, chunk=64, stall=0.1, pace=Slow()
    )
    list(EventStream(local, request(prompt=[65] * 200)))
    endless = EventStream(local, request(prompt=[66]))
    next(endless)
    list(EventStream(local, request(prompt=[65] * 200)))
    local.close()
    assert runner.chunks == [64, 64, 64, 8, 1, *[20] * 10]


def test_what_passes_take_is_learned_from_the_loop() -> None:
    pace = Pace()
    runner: Any = ToyRunner(answer("yes"))
    local = LocalEngine(runner, ToyVocabulary(), context=300, vocab_size=2000, chunk=16, pace=pace)
    list(EventStream(local, request(prompt=[65] * 100 + [63])))
    local.close()
    assert pace.rate > 0 and pace.step_s > 0


def test_the_context_ends_an_answer_with_length() -> None:
    local = engine(ToyRunner(lambda tokens: 97), context=20)
    events = list(EventStream(local, request(prompt=[65] * 15)))
    local.close()
    finished = events[-1]
    assert isinstance(finished, Finished) and finished.finish_reason == "length"
    assert text(events) == "a" * 6, "the last token is drawn from a full context"


def test_a_thought_is_closed_early_enough_for_the_close_to_fit_the_context() -> None:
    context = 200
    runner = ToyRunner(lambda tokens: 97)
    local = engine(runner, context=context)
    asked = request(prompt=[65, THINK_OPEN, 10], in_thinking=True, thinking_budget=10_000)
    events = list(EventStream(local, asked))
    finished = events[-1]
    assert isinstance(finished, Finished) and finished.finish_reason == "length"
    assert finished.usage.budget_exhausted and text(events)
    assert finished.usage.prompt_tokens + finished.usage.completion_tokens <= context + 1
    with pytest.raises(ContextOverflow):
        EventStream(local, request(prompt=[THINK_OPEN, *[65] * 150], in_thinking=True, thinking_budget=5))
    local.close()


@pytest.mark.parametrize(
    ("prompt", "error"),
    [([], InvalidRequest), ([65] * CONTEXT, ContextOverflow), ([65, 2000], InvalidRequest), ([-1], InvalidRequest)],
)
def test_what_can_never_run_is_refused_at_once(prompt: list[int], error: type[Exception]) -> None:
    local = engine(ToyRunner(answer("yes")))
    with pytest.raises(error):
        EventStream(local, request(prompt=prompt))
    assert text(list(EventStream(local, request(prompt=[63])))) == "yes"
    local.close()


def test_a_failure_is_the_request_s_own() -> None:
    runner = ToyRunner(answer("yes"), fails_at=30)
    local = engine(runner, max_rows=3)
    doomed = EventStream(local, request(prompt=[65] * 29 + [63]))
    fine = EventStream(local, request(prompt=[63]))
    with pytest.raises(EngineError, match="out of memory"):
        list(doomed)
    assert text(list(fine)) == "yes"
    assert list(doomed) == [], "an ended stream stays ended"
    assert text(list(EventStream(local, request(prompt=[63])))) == "yes"
    local.close()


def test_cancelling_stops_within_a_step_and_frees_the_row() -> None:
    gate = threading.Semaphore(0)
    local = engine(ToyRunner(lambda tokens: 97 if 66 in tokens else EOS, gate=gate), context=10_000)
    endless = EventStream(local, request(prompt=[66]))
    waiting = EventStream(local, request(prompt=[65]))
    gate.release(5)
    seen = [next(endless), next(endless)]
    endless.cancel()
    gate.release(1000)
    rest = list(endless)
    assert all(isinstance(e, TextDelta) for e in seen)
    assert isinstance(rest[-1], Finished) and rest[-1].finish_reason == "cancelled"
    assert len(rest) <= 5, "at most what the gate had let through before"
    finished = list(waiting)[-1]
    assert isinstance(finished, Finished) and finished.finish_reason == "stop"
    local.close()


def test_a_request_cancelled_while_it_waits_never_runs() -> None:
    gate = threading.Semaphore(0)
    runner = ToyRunner(answer("yes"), gate=gate)
    local = engine(runner)
    first = EventStream(local, request(prompt=[63]))
    second = EventStream(local, request(prompt=[63]))
    second.cancel()
    gate.release(1000)
    assert text(list(first)) == "yes"
    finished = list(second)[-1]
    assert isinstance(finished, Finished) and finished.finish_reason == "cancelled"
    assert len(runner.fed) == 1
    local.close()


def test_dropping_a_stream_cancels_it() -> None:
    gate = threading.Semaphore(0)
    local = engine(ToyRunner(lambda tokens: 97 if 66 in tokens else EOS, gate=gate), context=100_000)
    stream = EventStream(local, request(prompt=[66]))
    gate.release(2)
    next(stream)
    del stream
    gate.release(100_000)
    assert isinstance(list(EventStream(local, request(prompt=[65])))[-1], Finished), "the row is free again"
    local.close()


def test_a_consumer_that_breaks_loses_only_its_own_request() -> None:
    local = engine(ToyRunner(answer("yes")))

    def sink(event: Event | Exception) -> None:
        raise ValueError("broken consumer")

    local.submit(request(prompt=[63]), sink)
    assert text(list(EventStream(local, request(prompt=[63])))) == "yes"
    local.close()


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    local = engine(ToyRunner(lambda tokens: 97), context=100_000_000)
    stream = EventStream(local, request(prompt=[65]))
    next(stream)
    local.close()
    local.close()
    finished = list(stream)[-1]
    assert isinstance(finished, Finished) and finished.finish_reason == "cancelled"
    with pytest.raises(EngineError, match="closed"):
        EventStream(local, request(prompt=[65]))


def test_an_engine_ends_with_its_last_reference() -> None:
    runner = ToyRunner(answer("yes"))
    stream = EventStream(engine(runner), request(prompt=[63]))
    assert text(list(stream)) == "yes", "a stream keeps its engine"
    (thread,) = (t for t in threading.enumerate() if t.name == "qwen3-engine")
    gone = weakref.ref(runner)
    del stream, runner
    gc.collect()
    thread.join(10)
    assert not thread.is_alive() and gone() is None


def test_asyncio_streams_side_by_side_and_cancels() -> None:
    local = engine(ToyRunner(lambda tokens: 97 if 66 in tokens else answer("yes")(tokens)), context=100_000_000)

    async def whole() -> list[Event]:
        return [event async for event in astream(local, request(prompt=[63]))]

    async def part() -> int:
        seen = 0
        events: Any = astream(local, request(prompt=[66]))
        async for _ in events:
            seen += 1
            if seen == 3:
                await events.aclose()
        return seen

    async def both() -> tuple[list[Event], int, list[Event]]:
        first, seen = await asyncio.gather(whole(), part())
        return first, seen, await whole()

    first, seen, after = asyncio.run(asyncio.wait_for(both(), 30))
    assert text(first) == text(after) == "yes" and seen == 3
    local.close()


def test_timings_are_told() -> None:
    local = engine(ToyRunner(answer("yes", thought="hm")))
    finished = list(EventStream(local, request(prompt=[63])))[-1]
    local.close()
    assert isinstance(finished, Finished)
    t = finished.timings
    assert t.ttft_s > 0 and t.prefill_tps > 0 and t.decode_tps > 0 and t.queued_s >= 0
    assert finished.usage.prompt_tokens == 1 and finished.usage.completion_tokens == 8
