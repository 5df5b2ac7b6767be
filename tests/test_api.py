"""The library on the embedded checkpoints: the whole way from messages to events."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qwen3_mlx import (
    CheckpointError,
    Completion,
    ContextOverflow,
    EngineError,
    Finished,
    InvalidRequest,
    Message,
    ModelNotFound,
    Qwen3,
    SamplingParams,
    TextDelta,
    ThinkingDelta,
    hub,
)
from qwen3_mlx.control.budget import EARLY_STOP
from qwen3_mlx.control.collect import collect

QUESTION = "How many r are in raspberries?"
GREEDY = SamplingParams(temperature=0, max_tokens=200)
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_time",
        "description": "Get current time in a specific timezone",
        "parameters": {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]},
    },
}


@pytest.fixture(scope="module", params=["demo", "demo-moe"])
def q(request: pytest.FixtureRequest) -> Iterator[Qwen3]:
    with Qwen3.load(request.param) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def demo() -> Iterator[Qwen3]:
    with Qwen3.load("demo") as loaded:
        yield loaded


def said(completion: Completion) -> tuple[object, ...]:
    usage = replace(completion.usage, cached_tokens=0)
    return completion.content, completion.reasoning_content, completion.tool_calls, usage


def test_a_stream_collects_to_what_generate_returns(q: Qwen3) -> None:
    for params in (GREEDY, SamplingParams(seed=7, max_tokens=200)):
        whole = q.generate(QUESTION, params=params)
        assert said(whole) == said(collect(q.stream(QUESTION, params=params)))
        assert whole.reasoning_content and whole.content
        assert whole.usage.prompt_tokens == len(q.encode([{"role": "user", "content": QUESTION}]))


def test_what_is_streamed_is_what_the_model_computes_without_a_cache(q: Qwen3) -> None:
    """Greedy text, token by token, against the whole sequence run through the model again at once."""
    import mlx.core as mx

    prompt = q.encode([Message("user", QUESTION)], thinking=False)
    tokens = [
        token
        for event in q.stream(QUESTION, thinking=False, params=SamplingParams(temperature=0, max_tokens=12))
        if isinstance(event, TextDelta)
        for token in event.token_ids
    ]
    logits = q.model([prompt + tokens])
    expected = mx.argmax(logits[0, len(prompt) - 1 : len(prompt) + len(tokens) - 1], axis=-1).tolist()
    assert tokens and tokens == expected


def test_thinking_can_be_switched_off(q: Qwen3) -> None:
    for messages, thinking in ((QUESTION, False), (f"{QUESTION} /no_think", True)):
        completion = q.generate(messages, thinking=thinking, params=GREEDY)
        assert completion.reasoning_content is None and completion.content
    assert q.render("Hi", thinking=False).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("budget", [0, 1, 20])
def test_a_budget_bounds_the_thought(q: Qwen3, budget: int) -> None:
    completion = q.generate(QUESTION, thinking_budget=budget, params=GREEDY)
    forced = q.tokenizer.encode(EARLY_STOP)
    assert completion.usage.budget_exhausted
    assert len(forced) + budget <= completion.usage.reasoning_tokens <= len(forced) + budget + 3 + 1
    assert completion.reasoning_content is not None
    assert completion.reasoning_content.endswith("thinking directly now.")
    assert completion.content and completion.finish_reason == "stop"


def test_a_budget_that_is_not_needed_changes_nothing(q: Qwen3) -> None:
    free = q.generate(QUESTION, params=GREEDY)
    bounded = q.generate(QUESTION, thinking_budget=5000, params=GREEDY)
    assert said(free) == said(bounded) and not bounded.usage.budget_exhausted


def test_the_thought_up_to_a_forced_close_is_that_of_an_unbounded_one(demo: Qwen3) -> None:
    params = SamplingParams(seed=3, max_tokens=200)
    free = demo.generate(QUESTION, params=params).reasoning_content
    cut = demo.generate(QUESTION, thinking_budget=25, params=params).reasoning_content
    assert free and cut
    assert free.startswith(cut[: cut.index("Considering the limited time")].rstrip("\n"))


def test_a_seed_repeats_itself_and_no_other(demo: Qwen3) -> None:
    hot = [SamplingParams(seed=s, temperature=2.0, top_k=0, top_p=1.0, max_tokens=30) for s in (1, 1, 2)]
    first, again, other = (demo.generate(QUESTION, params=p) for p in hot)
    assert said(first) == said(again) != said(other)


def test_logprobs_come_with_their_tokens(demo: Qwen3) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, logprobs=3)
    seen = 0
    for event in demo.stream(QUESTION, params=params):
        if isinstance(event, ThinkingDelta | TextDelta):
            assert event.logprobs is not None and len(event.logprobs) == len(event.token_ids)
            for token, logprob in zip(event.token_ids, event.logprobs, strict=True):
                assert logprob.token_id == token == logprob.top[0][0], "greedy draws the most likely"
                assert logprob.logprob == logprob.top[0][1] <= 0 and len(logprob.top) == 3
                seen += 1
    assert seen > 20


def test_a_stop_string_ends_the_answer(demo: Qwen3) -> None:
    whole = demo.generate("Who are you?", thinking=False, params=GREEDY)
    assert whole.content and len(whole.content) > 12
    stop = whole.content[6:9]
    cut = demo.generate(
        "Who are you?", thinking=False, params=SamplingParams(temperature=0, max_tokens=200, stop=(stop,))
    )
    assert cut.content == whole.content[: whole.content.index(stop)] and cut.finish_reason == "stop"


def test_max_tokens_ends_with_length(demo: Qwen3) -> None:
    completion = demo.generate(QUESTION, params=SamplingParams(temperature=0, max_tokens=5))
    assert completion.finish_reason == "length" and completion.usage.completion_tokens == 5
    assert completion.content is None


def test_raw_text_is_continued_as_it_is(demo: Qwen3) -> None:
    prompt = demo.render(QUESTION)
    raw = collect(demo.stream_raw(prompt, params=GREEDY))
    chat = demo.generate(QUESTION, params=GREEDY)
    assert raw.content and raw.content.startswith("<think>\n") and chat.content and chat.content in raw.content


def test_quantized_weights_and_caches_answer(tmp_path: Path, demo: Qwen3) -> None:
    exact = demo.generate(QUESTION, params=GREEDY)
    for options in ({"kv_bits": 8}, {"kv_bits": 4}, {"bits": 8}):
        with Qwen3.load("demo", **options) as q:  # type: ignore[arg-type]
            completion = q.generate(QUESTION, params=GREEDY)
            assert completion.reasoning_content and completion.content
            if options != {"kv_bits": 4}:
                assert exact.reasoning_content and completion.reasoning_content[:20] == exact.reasoning_content[:20]


def test_requests_from_many_threads_get_their_own_answers(demo: Qwen3) -> None:
    questions = [f"What is {n} + {n}?" for n in range(10, 16)]
    alone = [said(demo.generate(question, params=GREEDY)) for question in questions]
    together: dict[int, tuple[object, ...]] = {}

    def ask(i: int) -> None:
        together[i] = said(demo.generate(questions[i], params=GREEDY))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(len(questions))] == alone


def test_asyncio_streams(demo: Qwen3) -> None:
    async def run() -> list[object]:
        return [event async for event in demo.astream(QUESTION, params=GREEDY)]

    events = asyncio.run(run())
    assert isinstance(events[-1], Finished)
    assert said(collect(iter(events))) == said(demo.generate(QUESTION, params=GREEDY))  # type: ignore[arg-type]


def test_closing_a_stream_frees_the_engine(demo: Qwen3) -> None:
    stream = demo.stream(QUESTION, params=SamplingParams(logit_bias={i: -100.0 for i in demo.tokenizer.eos_ids}))
    next(stream)
    stream.close()
    assert demo.generate("Hi", thinking=False, params=GREEDY).content


def test_a_context_can_be_set_smaller(tmp_path: Path) -> None:
    with Qwen3.load("demo", context=40) as q:
        completion = q.generate(QUESTION, params=SamplingParams(temperature=0))
        assert completion.finish_reason == "length"
        assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 41
        with pytest.raises(ContextOverflow, match=r"context holds 40"):
            q.generate(QUESTION * 20)
        assert q.generate("Hi", thinking=False, params=SamplingParams(max_tokens=3)).usage.completion_tokens


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda q: q.generate(""), "messages[0].content"),
        (lambda q: q.generate([]), "messages"),
        (lambda q: q.generate(QUESTION, params=SamplingParams(temperature=-1)), "temperature"),
        (lambda q: q.generate(QUESTION, params=SamplingParams(max_tokens=0)), "max_tokens"),
        (lambda q: q.generate(QUESTION, params=SamplingParams(stop=("",))), "stop"),
        (lambda q: q.generate(QUESTION, thinking_budget=-1), "thinking_budget"),
        (lambda q: q.generate([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), None),
        (lambda q: q.generate(QUESTION, tools=[{"type": "function"}]), None),
        (lambda q: q.stream_raw(""), "prompt"),
        (lambda q: q.stream_raw([]), "prompt"),
        (lambda q: q.stream_raw(5), "prompt"),
        (lambda q: q.stream_raw(["a"]), "prompt"),
        (lambda q: q.stream_raw([1.5]), "prompt"),
        (lambda q: q.stream_raw([10**9]), "prompt"),
        (lambda q: q.generate(QUESTION, thinking_budget=1.5), "thinking_budget"),
        (lambda q: q.generate(QUESTION, params={"temperature": 0}), "params"),
        (lambda q: q.generate([1]), "messages[0]"),
        (lambda q: q.generate(None), "messages"),
        (lambda q: q.generate({"role": "user", "content": "Hi"}), "messages"),
        (lambda q: q.model([[10**6]]), "tokens"),
        (lambda q: q.model([[-1]]), "tokens"),
        (lambda q: q.model([1, 2]), "tokens"),
        (lambda q: q.model([[1], [1, 2]]), "tokens"),
        (lambda q: q.model([[1.5]]), "tokens"),
        (lambda q: q.model([[]]), "tokens"),
        (lambda q: q.generate("word " * 9000), "messages"),
    ],
)
def test_bad_requests_name_what_is_wrong_and_leave_the_engine_alone(demo: Qwen3, call, param) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequest) as caught:
        call(demo)
    assert "\n" not in str(caught.value)
    if param is not None:
        assert caught.value.param is not None and caught.value.param.startswith(param)
    assert demo.generate("Hi", thinking=False, params=GREEDY).finish_reason == "stop"


@pytest.mark.parametrize(
    "options",
    [
        {"kv_bits": 3},
        {"kv_bits": "8"},
        {"context": 1},
        {"context": 10**9},
        {"context": "100"},
        {"context": 100.5},
        {"bits": 7},
        {"stall": 0},
        {"stall": "fast"},
        {"memory_limit": -1},
        {"memory_limit": "8 GB"},
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Qwen3.load("demo", **options)  # type: ignore[arg-type]
    assert caught.value.param in options


def test_logits_may_be_computed_in_one_thread_and_read_in_another(demo: Qwen3) -> None:
    box: list[object] = []
    thread = threading.Thread(target=lambda: box.append(demo.model([[1, 2, 3]]).tolist()))
    thread.start()
    thread.join()
    made = []
    thread = threading.Thread(target=lambda: made.append(demo.model([[1, 2, 3]])))
    thread.start()
    thread.join()
    assert made[0].tolist() == box[0]


def test_an_interrupted_generate_frees_the_engine(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the traceback, and with it the stream, is kept (as a REPL does)."""
    import qwen3_mlx.api

    def interrupted(events: Iterator[object]) -> Completion:
        next(events)
        raise KeyboardInterrupt

    endless = SamplingParams(logit_bias={i: -100.0 for i in demo.tokenizer.eos_ids})
    with monkeypatch.context() as patch:
        patch.setattr(qwen3_mlx.api, "collect", interrupted)
        with pytest.raises(KeyboardInterrupt) as kept:
            demo.generate(QUESTION, params=endless)
    answer = demo.generate("Hi", thinking=False, params=GREEDY)
    assert answer.content and answer.timings.queued_s < 2 and kept is not None


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ModelNotFound, match="no-such-folder"):
        Qwen3.load("./no-such-folder")


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(hub.resolve("demo"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 640}))
    with pytest.raises(CheckpointError, match="tokenizer"):
        Qwen3.load(folder)


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    q = Qwen3.load("demo")
    q.generate("Hi", thinking=False, params=GREEDY)
    q.close()
    with pytest.raises(EngineError, match="closed"):
        q.generate("Hi")


def test_damaged_weights_fail_the_request_and_not_the_process(tmp_path: Path) -> None:
    """Infinite logits: a typed error for each request that meets them."""
    import mlx.core as mx

    folder = tmp_path / "broken"
    shutil.copytree(hub.resolve("demo"), folder)
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    weights["model.norm.weight"] = mx.full(weights["model.norm.weight"].shape, 3e38, dtype=mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    with Qwen3.load(folder) as q:
        for _ in range(2):
            with pytest.raises(EngineError, match="not a number"):
                q.generate("Hi")


def test_tool_calls_are_events_with_json_arguments(demo: Qwen3) -> None:
    completion = demo.generate("What time is it in Tokyo?", tools=[TOOL], params=GREEDY)
    assert "get_current_time" in demo.render("What time is it in Tokyo?", tools=[TOOL])
    assert completion.finish_reason == "tool_calls"
    (call,) = completion.tool_calls
    assert (call.name, call.arguments) == ("get_current_time", '{"timezone": "Asia/Tokyo"}')
