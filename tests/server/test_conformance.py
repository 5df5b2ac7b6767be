"""What OpenAI's API promises and local servers get wrong, with the real engine over a real socket."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen3_mlx import Qwen3

from .serving import Running, error_of

QUESTION = [{"role": "user", "content": "How many r are in raspberries?"}]
GREEDY = {"temperature": 0}
PLAIN = {"enable_thinking": False, "temperature": 0}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time in a zone.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["CET", "UTC"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


def answer(server: Running, messages: Any = None, **fields: Any) -> dict[str, Any]:
    response = server.chat(messages or QUESTION, **fields)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def joined(parts: list[dict[str, Any]], key: str) -> str:
    return "".join(part["choices"][0]["delta"].get(key, "") for part in parts if part["choices"])


@pytest.mark.parametrize("fields", [GREEDY, PLAIN])
def test_log_probabilities_tell_every_token_once_streamed_too(server: Running, demo: Qwen3, fields: Any) -> None:
    fields = {**fields, "logprobs": True, "top_logprobs": 3}
    whole = answer(server, **fields)["choices"][0]
    parts = server.chat_stream(QUESTION, **fields)
    for name, text in (("content", "content"), ("reasoning_content", "reasoning")):
        told = whole["logprobs"][name]
        streamed = [t for part in parts if part["choices"][0]["logprobs"] for t in part["choices"][0]["logprobs"][name]]
        assert [one["token"] for one in told] == [one["token"] for one in streamed]
        said = whole["message"].get(text) or ""
        # Tokens at the border of a tag hold whitespace that is markup, and is not shown.
        assert bytes(byte for one in told for byte in one["bytes"]).decode().strip() == said.strip()
        for one in told:
            assert one["token"] == bytes(one["bytes"]).decode("utf-8", "replace") and one["logprob"] <= 0
            assert len(one["top_logprobs"]) == 3 and one["top_logprobs"][0]["logprob"] >= one["logprob"] - 1e-6
            assert sum(math.exp(top["logprob"]) for top in one["top_logprobs"]) < 1.001


@pytest.mark.parametrize("stop", ["r appears", "ter r", " 3 t", ["nowhere", "appears 3"]])
def test_stop_matches_text_across_tokens_and_never_leaks(server: Running, stop: Any) -> None:
    text = answer(server, **GREEDY)["choices"][0]["message"]["content"]
    assert text == "The letter r appears 3 times in raspberries."
    first = min(text.index(one) for one in ([stop] if isinstance(stop, str) else stop) if one in text)
    cut = answer(server, stop=stop, **GREEDY)["choices"][0]
    assert cut["message"]["content"] == text[:first] and cut["finish_reason"] == "stop"
    assert joined(server.chat_stream(QUESTION, stop=stop, **GREEDY), "content") == text[:first]


def test_stop_is_not_for_reasoning_and_nothing_is_lost_at_the_end(server: Running) -> None:
    whole = answer(server, **GREEDY)["choices"][0]["message"]
    stop = whole["reasoning"][:3]
    assert stop not in whole["content"]
    assert answer(server, stop=stop, **GREEDY)["choices"][0]["message"] == whole
    assert joined(server.chat_stream(QUESTION, stop="raspberries.x", **GREEDY), "content") == whole["content"]


def test_the_token_limit_inside_a_thought(server: Running) -> None:
    for fields in ({"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 500, "max_completion_tokens": 5}):
        (choice,) = answer(server, **fields, **GREEDY)["choices"]
        assert choice["finish_reason"] == "length" and choice["message"]["content"] is None
        assert choice["message"]["reasoning_content"]


def test_max_completion_tokens_goes_before_max_tokens(server: Running) -> None:
    whole = answer(server, **GREEDY)
    tokens = whole["usage"]["completion_tokens"]
    assert answer(server, max_tokens=5, max_completion_tokens=tokens, **GREEDY)["choices"] == whole["choices"]
    both = answer(server, thinking_budget=20, max_tokens=3, max_completion_tokens=500, **GREEDY)
    assert both["choices"][0]["finish_reason"] == "length"  # behind a budget max_tokens is the answer's alone


@pytest.mark.parametrize("budget", [0, 5, 20])
def test_a_budget_ends_the_thought_and_the_answer_follows(server: Running, budget: int) -> None:
    document = answer(server, thinking_budget=budget, **GREEDY)
    details = document["usage"]["completion_tokens_details"]
    assert details["budget_exhausted"] is True and details["reasoning_tokens"] > budget
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["choices"][0]["message"]["content"].startswith("The letter r")


@pytest.mark.parametrize("total", [3, 12, 40])
def test_max_completion_tokens_bounds_thought_and_answer_also_with_a_budget(server: Running, total: int) -> None:
    document = answer(server, thinking_budget=10, max_completion_tokens=total, **GREEDY)
    assert document["usage"]["completion_tokens"] <= total
    assert document["choices"][0]["finish_reason"] == "length"


def test_usage(server: Running, demo: Qwen3) -> None:
    usage = answer(server, **GREEDY)["usage"]
    assert usage["prompt_tokens"] == len(demo.encode(QUESTION))
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
    assert answer(server, **GREEDY)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert answer(server, **PLAIN)["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_reasoning_can_be_left_out(server: Running) -> None:
    message = answer(server, include_reasoning=False, **GREEDY)["choices"][0]["message"]
    assert set(message) == {"role", "content", "refusal"}
    parts = server.chat_stream(QUESTION, reasoning={"exclude": True}, **GREEDY)
    assert not joined(parts, "reasoning") and joined(parts, "content") == message["content"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "clock"}}])
def test_calls_that_are_asked_for(server: Running, stream: bool, choice: Any) -> None:
    fields = {"tools": [ADD, CLOCK] if choice != "required" else [CLOCK], "tool_choice": choice, **PLAIN}
    if stream:
        parts = server.chat_stream(QUESTION, **fields)
        deltas = [call for part in parts for call in part["choices"][0]["delta"].get("tool_calls", ())]
        assert {call["index"] for call in deltas} >= {0}
        first = [call for call in deltas if call["index"] == 0]
        name, arguments = first[0]["function"]["name"], "".join(call["function"]["arguments"] for call in first)
        finish = parts[-1]["choices"][0]["finish_reason"]
    else:
        (one,) = answer(server, **fields)["choices"]
        finish, function = one["finish_reason"], one["message"]["tool_calls"][0]["function"]
        name, arguments = function["name"], function["arguments"]
    assert finish == "tool_calls" and name == "clock" and json.loads(arguments)["zone"] in ("CET", "UTC")


def test_one_call_only(server: Running) -> None:
    fields = {"tools": [CLOCK], "tool_choice": "required", "parallel_tool_calls": False}
    (one,) = answer(server, **fields, **PLAIN)["choices"]
    assert len(one["message"]["tool_calls"]) == 1


def test_tool_choice_none_calls_nothing(server: Running) -> None:
    messages = [{"role": "user", "content": "What is the time in zone UTC?"}]
    (one,) = answer(server, messages, tools=[CLOCK], tool_choice="none", **PLAIN)["choices"]
    assert "tool_calls" not in one["message"] and one["finish_reason"] == "stop"


@pytest.mark.parametrize("thinking", [True, False])
def test_a_schema_is_kept_and_only_behind_the_thought(server: Running, thinking: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"word": {"enum": ["Oslo", "Rome"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["word", "count"],
        "additionalProperties": False,
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    fields = {"response_format": format_, "enable_thinking": thinking, "temperature": 0}
    message = answer(server, **fields)["choices"][0]["message"]
    found = json.loads(message["content"])
    assert found["word"] in ("Oslo", "Rome") and 0 <= found["count"] <= 9
    assert ("reasoning" in message) == thinking
    assert joined(server.chat_stream(QUESTION, **fields), "content") == message["content"]


def test_a_json_object(server: Running) -> None:
    format_ = {"type": "json_object"}
    choice = answer(server, response_format=format_, max_tokens=200, **PLAIN)["choices"][0]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    assert choice["message"]["content"].startswith("{")


def test_a_seed_gives_its_text_whatever_else_runs(server: Running) -> None:
    fields = {"seed": 11, "temperature": 1.5, "top_k": 0, "top_p": 1, "max_tokens": 40, "enable_thinking": False}
    alone = answer(server, **fields)["choices"][0]["message"]["content"]
    others = [{**fields, "seed": seed, "temperature": 1.0, "max_tokens": 10 + seed} for seed in range(7)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            ran = [pool.submit(answer, server, QUESTION, **one) for one in [*others[:4], fields, *others[4:]]]
            assert ran[4].result()["choices"][0]["message"]["content"] == alone


def test_choices_differ_and_the_first_is_that_of_the_seed(server: Running) -> None:
    fields = {"seed": 3, "temperature": 2.0, "top_k": 0, "top_p": 1, "max_tokens": 20, "enable_thinking": False}
    texts = [choice["message"]["content"] for choice in answer(server, n=3, **fields)["choices"]]
    assert len(set(texts)) == 3 and texts[0] == answer(server, **fields)["choices"][0]["message"]["content"]


def test_a_conversation_with_tools_in_all_its_parts(server: Running) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "12 + 30?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "I call it.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 12, "b": 30}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert answer(server, messages, tools=[ADD], **PLAIN)["choices"][0]["finish_reason"] == "stop"


def test_the_servers_own_default_of_thinking(demo: Qwen3) -> None:
    from .serving import serving

    with serving(demo, thinking=False) as server:
        assert "reasoning" not in answer(server, **GREEDY)["choices"][0]["message"]
        assert "reasoning" in answer(server, reasoning_effort="high", **GREEDY)["choices"][0]["message"]
    with serving(demo, thinking_budget=5) as server:
        assert answer(server, **GREEDY)["usage"]["completion_tokens_details"]["budget_exhausted"]
        own = answer(server, enable_thinking=True, **GREEDY)["usage"]["completion_tokens_details"]
        assert "budget_exhausted" not in own


def test_more_choices_than_may_wait(demo: Qwen3) -> None:
    from .serving import serving

    with serving(demo, running=1, queue=1) as server:
        assert error_of(server.chat(n=3), 400)["param"] == "n"
