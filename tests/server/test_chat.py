"""``/v1/chat/completions`` over a real socket, with a scripted engine and with the real one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwen3_mlx import EngineError, TextDelta, ThinkingDelta, ToolCallDelta
from qwen3_mlx.errors import MemoryLimit

from .scripted import finished, scripted_model
from .serving import HELLO, Running, error_of, serving

TEXT = [ThinkingDelta("hm"), TextDelta("Hel"), TextDelta("lo"), finished(reasoning_tokens=2)]


def test_a_whole_answer() -> None:
    with serving(scripted_model(TEXT)[0]) as server:
        document = server.chat(model="demo").json()
    assert document["object"] == "chat.completion" and document["model"] == "demo"
    (choice,) = document["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "reasoning_content": "hm",
        "reasoning": "hm",
    }
    assert choice["finish_reason"] == "stop" and choice["logprobs"] is None
    assert document["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_a_stream() -> None:
    with serving(scripted_model(TEXT)[0]) as server:
        parts = server.chat_stream()
    assert len({part["id"] for part in parts}) == 1 and len({part["created"] for part in parts}) == 1
    assert all(part["object"] == "chat.completion.chunk" and "usage" not in part for part in parts)
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert not any("role" in delta for delta in deltas[1:])
    assert not any("content" in delta and "reasoning" in delta for delta in deltas)
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]


def test_usage_in_a_stream_comes_last_and_is_null_before() -> None:
    with serving(scripted_model(TEXT)[0]) as server:
        *parts, last = server.chat_stream(stream_options={"include_usage": True})
    assert all(part["usage"] is None for part in parts)
    assert last["choices"] == [] and last["usage"]["total_tokens"] == 12


def test_several_choices() -> None:
    with serving(scripted_model(TEXT)[0]) as server:
        document = server.chat(n=3, seed=5).json()
        parts = server.chat_stream(n=3)
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    assert document["usage"]["prompt_tokens"] == 7 and document["usage"]["completion_tokens"] == 15
    for index in range(3):
        mine = [part["choices"][0] for part in parts if part["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""} and mine[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "Hello"


CALLS = [
    ToolCallDelta(0, "call_a", "weather"),
    ToolCallDelta(0, arguments='{"city":'),
    ToolCallDelta(0, arguments=' "Oslo"}'),
    ToolCallDelta(1, "call_b", "clock"),
    ToolCallDelta(1, arguments="{}"),
    finished("tool_calls"),
]


def test_tool_calls() -> None:
    with serving(scripted_model(CALLS)[0]) as server:
        message = server.chat().json()["choices"][0]["message"]
        parts = server.chat_stream()
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]
    found: dict[int, dict[str, Any]] = {}
    for part in parts:
        for call in part["choices"][0]["delta"].get("tool_calls", ()):
            if call["index"] in found:
                assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
                found[call["index"]]["arguments"] += call["function"]["arguments"]
            else:
                assert call["type"] == "function"
                found[call["index"]] = {"id": call["id"], **call["function"]}
    assert found == {
        0: {"id": "call_a", "name": "weather", "arguments": '{"city": "Oslo"}'},
        1: {"id": "call_b", "name": "clock", "arguments": "{}"},
    }
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_token_has_its_status(stream: bool) -> None:
    with serving(scripted_model([EngineError("the model is ill")])[0]) as server:
        assert error_of(server.chat(stream=stream), 500)["message"] == "the model is ill"
        server.idle()


def test_an_unforeseen_error_tells_nothing() -> None:
    with serving(scripted_model([ZeroDivisionError("secret")])[0]) as server:
        assert "secret" not in error_of(server.chat(), 500)["message"]


def test_an_error_in_a_stream_is_an_event_of_it() -> None:
    with serving(scripted_model([TextDelta("so far"), MemoryLimit("no room")])[0]) as server:
        parts = server.chat_stream()
        server.idle()
    assert parts[-1]["error"]["message"] == "no room" and parts[-1]["error"]["code"] == "out_of_memory"
    assert any(part.get("choices", [{}])[0].get("delta", {}).get("content") == "so far" for part in parts[:-1])


def test_the_real_engine_gives_the_same_streamed_and_whole(server: Running) -> None:
    question = [{"role": "user", "content": "How many r are in raspberries?"}]
    message = server.chat(question, seed=3).json()["choices"][0]["message"]
    deltas = [part["choices"][0]["delta"] for part in server.chat_stream(question, seed=3)]
    assert message["content"] == "".join(delta.get("content", "") for delta in deltas)
    assert message["reasoning"] == "".join(delta.get("reasoning", "") for delta in deltas)
    assert "3" in message["content"]


def test_models(server: Running) -> None:
    (model,) = server.client.get("/v1/models").json()["data"]
    assert model["id"] == "demo" and model["object"] == "model"
    assert server.client.get("/v1/models/demo").json() == model
    assert error_of(server.client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    assert error_of(server.chat(model="/etc/passwd"), 404)["param"] == "model"


def test_health(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_paths_and_methods_that_are_not_there(server: Running) -> None:
    error_of(server.client.get("/v1/nothing"), 404)
    response = server.client.get("/v1/chat/completions")
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


def test_http_1_0_gets_a_stream_in_one_piece() -> None:
    with serving(scripted_model(TEXT)[0]) as server:
        body = json.dumps({"messages": HELLO, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection = server.raw(head + body)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower() and b"content-length: %d" % len(rest) in head.lower()
    assert rest.endswith(b"data: [DONE]\n\n")
