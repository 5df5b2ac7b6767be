"""OpenAI's own client, as people use it: chat, streams and their helpers, structured outputs, a loop of tool calls."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .serving import Running, serving

README = Path(__file__).resolve().parents[2] / "README.md"
QUESTION: list[Any] = [{"role": "user", "content": "How many r are in raspberries?"}]


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
    message: Any = completion.choices[0].message
    assert message.content == "The letter r appears 3 times in raspberries." and message.reasoning_content
    assert completion.usage is not None and completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens
    again = [*QUESTION, message.model_dump(), {"role": "user", "content": "And how many e?"}]
    assert (
        client.chat.completions.create(model="demo", messages=again, temperature=0).choices[0].finish_reason == "stop"
    )


def test_a_stream(client: openai.OpenAI) -> None:
    text, reasoning, usage = "", "", None
    stream = client.chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    assert text == "The letter r appears 3 times in raspberries." and reasoning and usage is not None


def test_the_helper_for_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="demo", messages=QUESTION, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == "The letter r appears 3 times in raspberries."


class Trip(BaseModel):
    city: Literal["Oslo", "Rome"]
    days: int = Field(ge=1, le=30)


def test_structured_outputs(client: openai.OpenAI) -> None:
    extra = {"enable_thinking": False}
    parsed = client.chat.completions.parse(
        model="demo", messages=QUESTION, response_format=Trip, temperature=0, extra_body=extra
    )
    trip = parsed.choices[0].message.parsed
    assert isinstance(trip, Trip) and 1 <= trip.days <= 30
    with client.chat.completions.stream(
        model="demo", messages=QUESTION, response_format=Trip, temperature=0, extra_body=extra
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == trip


class Add(BaseModel):
    """Add two numbers."""

    a: int
    b: int


def test_a_tool_as_a_pydantic_model(client: openai.OpenAI) -> None:
    tools = [openai.pydantic_function_tool(Add, name="add")]
    completion = client.chat.completions.parse(
        model="demo", messages=QUESTION, tools=tools, tool_choice="required", extra_body={"enable_thinking": False}
    )
    (call, *_) = completion.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Add)


def test_a_loop_of_tool_calls(client: openai.OpenAI) -> None:
    """What an agent does: the model calls, the client runs it, the model reads the result."""
    tool: Any = {
        "type": "function",
        "function": {
            "name": "get_current_time",
            "description": "Get current time in a specific timezone",
            "parameters": {
                "type": "object",
                "properties": {"timezone": {"type": "string", "description": "IANA timezone name"}},
                "required": ["timezone"],
            },
        },
    }
    messages: list[Any] = [{"role": "user", "content": "What time is it in Europe/Oslo?"}]
    extra = {"enable_thinking": False}
    called = 0
    for _ in range(4):
        with client.chat.completions.stream(
            model="demo", messages=messages, tools=[tool], temperature=0, extra_body=extra
        ) as stream:
            message = stream.get_final_completion().choices[0].message
        messages.append(message.to_dict())
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            assert call.function.name == "get_current_time" and json.loads(call.function.arguments)["timezone"]
            called += 1
            messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"datetime": "2026-11-24T12:00:00"}'})
    assert called >= 1 and messages[-1]["role"] == "assistant" and messages[-1]["content"]


def test_completions_and_models(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="demo", prompt=["a", "b"], max_tokens=2, echo=True, logprobs=1)
    assert len(completion.choices) == 2 and completion.choices[1].text.startswith("b")
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_errors_are_the_clients_own(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="gpt-4o", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="demo", messages=QUESTION, temperature=-1)
    assert wrong.value.param == "temperature"
    with serving(server.service.model, api_keys=("right",)) as guarded:
        base = f"{guarded.url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=base, api_key="wrong").models.list()
        assert openai.OpenAI(base_url=base, api_key="right").models.list().data


def test_the_example_of_the_readme(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text(encoding="utf-8").split("\n## Server\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    code = code.replace("http://127.0.0.1:8080", server.url).replace("qwen3:4b", "demo")
    exec(compile(code, str(README), "exec", dont_inherit=True), {"__name__": "readme"})
    assert "strawberries" in capsys.readouterr().out


def test_many_at_a_time(server: Running) -> None:
    async def ask(client: openai.AsyncOpenAI, seed: int) -> str | None:
        completion = await client.chat.completions.create(model="demo", messages=QUESTION, seed=seed, max_tokens=30)
        return completion.choices[0].finish_reason

    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            return await asyncio.gather(*(ask(client, seed) for seed in range(24)))

    assert asyncio.run(all_of_them()) == ["length"] * 24


def test_a_stream_that_is_closed_early_frees_its_slot(client: openai.OpenAI, server: Running) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        stream=True,
        logit_bias={str(t): -100 for t in server.service.model.tokenizer.eos_ids},
    )
    next(iter(stream))
    stream.close()
    server.idle(5)
