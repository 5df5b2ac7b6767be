"""LangChain's ChatOpenAI: an answer, a stream, a batch, tools bound to it, structured outputs."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from .conftest import Client, Served

pytestmark = pytest.mark.foreign

ANSWER = "The letter r appears 3 times in raspberries."


@pytest.fixture(scope="module")
def told(served: Served, langchain: Client) -> dict[str, Any]:
    answers: dict[str, Any] = langchain.run(url=served.url, question="How many r are in raspberries?")
    return answers


def test_an_answer(told: dict[str, Any]) -> None:
    answer = told["invoke"]
    assert answer["content"] == ANSWER and answer["finish_reason"] == "stop" and answer["model_name"] == "demo"
    assert 0 < answer["usage"]["output_token_details"]["reasoning"] < answer["usage"]["output_tokens"]


def test_a_stream(told: dict[str, Any]) -> None:
    stream = told["stream"]
    assert stream["content"] == ANSWER and stream["chunks"] > 5
    for counted in ("input_tokens", "output_tokens"):
        assert stream["usage"][counted] == told["invoke"]["usage"][counted]


def test_a_batch(told: dict[str, Any]) -> None:
    assert told["batch"] == [ANSWER] * 4


@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_a_tool_bound_to_it(told: dict[str, Any], how: str) -> None:
    _, called, result, final = told["tools"][how]
    (call,) = called["tool_calls"]
    assert call["name"] == "get_current_time" and call["args"] == {"timezone": "Asia/Tokyo"} and call["id"]
    assert called["response_metadata"]["finish_reason"] == "tool_calls" and not called["invalid_tool_calls"]
    assert result["tool_call_id"] == call["id"]
    time = datetime.fromisoformat(json.loads(result["content"])["datetime"])
    assert abs(time - datetime.now(ZoneInfo("Asia/Tokyo"))) < timedelta(minutes=10)
    assert final["content"] == f"It is {time:%H:%M} in Tokyo." and not final["tool_calls"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_outputs(told: dict[str, Any], method: str) -> None:
    """In the form asked for. What it says is beyond a model this small that has never seen JSON in an answer."""
    assert told["structured"][method]["letter"] in "ber" and 0 <= told["structured"][method]["count"] <= 9
