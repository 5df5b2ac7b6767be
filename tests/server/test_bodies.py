"""What a chat body may say: each parameter, every spelling of thinking, and each refusal with its name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from qwen3_mlx.errors import InvalidRequest
from qwen3_mlx.server.chat import ChatTask, chat_task
from qwen3_mlx.server.chat_fields import IGNORED, Limits, numbers_below
from qwen3_mlx.types import Grammar

from .serving import HELLO, Running, error_of

LIMITS = Limits(vocab_size=1000, context=100)


def task(**fields: Any) -> ChatTask:
    return chat_task({"messages": HELLO, **fields}, LIMITS)


def refusal(body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat_task(body, LIMITS)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "enabled", "budget"),
    [
        ({}, None, None),
        ({"enable_thinking": True}, True, None),
        ({"enable_thinking": False}, False, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False, None),
        ({"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 9}}, True, 9),
        ({"chat_template_kwargs": {}}, None, None),
        ({"think": False}, False, None),
        ({"think": "low"}, True, 1024),
        ({"think": "none"}, False, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, True, 5),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "adaptive"}}, None, None),
        ({"thinking_budget": 7}, True, 7),
        ({"thinking_token_budget": 7}, True, 7),
        ({"thinking_budget_tokens": 0}, True, 0),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "minimal"}, True, 256),
        ({"reasoning_effort": "low"}, True, 1024),
        ({"reasoning_effort": "medium"}, True, 4096),
        ({"reasoning_effort": "high"}, True, None),
        ({"reasoning_effort": "xhigh"}, True, None),
        ({"reasoning_effort": None, "thinking_budget": None}, None, None),
        ({"reasoning": {"effort": "low"}}, True, 1024),
        ({"reasoning": {"max_tokens": 3}}, True, 3),
        ({"reasoning": {"enabled": False}}, False, None),
        ({"reasoning_effort": "low", "thinking_budget": 50}, True, 50),
        ({"enable_thinking": False, "thinking_budget": 50}, False, None),
        ({"enable_thinking": True, "reasoning_effort": "low", "think": True}, True, 1024),
    ],
)
def test_every_spelling_of_thinking(fields: Any, enabled: bool | None, budget: int | None) -> None:
    read = task(**fields)
    assert (read.thinking, read.thinking_budget) == (enabled, budget)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"enable_thinking": True, "think": False}, "think"),
        ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort"),
        ({"thinking_budget": 1, "thinking_token_budget": 2}, "thinking_token_budget"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning_effort"),
    ],
)
def test_two_wishes_are_refused(fields: Any, param: str) -> None:
    error = refusal({"messages": HELLO, **fields})
    assert error.param == param and "different" in str(error)


def test_reasoning_may_be_left_out() -> None:
    assert task().show_reasoning
    assert not task(reasoning={"exclude": True}).show_reasoning and not task(include_reasoning=False).show_reasoning


@pytest.mark.parametrize("name", IGNORED)
@pytest.mark.parametrize("value", [None, "x", {"a": "b"}, True])
def test_what_changes_nothing_is_accepted(name: str, value: Any) -> None:
    assert task(**{name: value}) == task()


@pytest.mark.parametrize("name", ["prediction", "audio", "web_search_options", "functions", "function_call"])
def test_what_cannot_be_honoured_is_refused_unless_it_is_null(name: str) -> None:
    assert task(**{name: None}) == task()
    assert refusal({"messages": HELLO, name: {"a": 1}}).param == name


def test_sampling_values() -> None:
    read = task(
        temperature=0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=1,
        logit_bias={"5": -3},
        seed=-4,
        max_tokens=9,
        max_completion_tokens=8,
        stop=["a", "b"],
        logprobs=True,
        top_logprobs=2,
    )
    params = read.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0, 0.5, 0, 0.1)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.1, -1, 1)
    assert params.logit_bias == {5: -3} and params.seed == -4 and params.stop == ("a", "b") and params.logprobs == 2
    assert (params.max_tokens, read.total) == (9, 8)
    assert task(stop="x").params.stop == ("x",) and task(logprobs=True).params.logprobs == 0
    assert task(logprobs=False, top_logprobs=0).params.logprobs is None and task(max_tokens=2.0).params.max_tokens == 2


def test_response_formats() -> None:
    assert task(response_format={"type": "text"}).grammar is None
    anything = task(response_format={"type": "json_object"}).grammar
    assert anything is not None and json.loads(anything.source)["type"] == "object"
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    described = {"name": "x", "strict": True, "description": None, "schema": schema}
    read = task(response_format={"type": "json_schema", "json_schema": described})
    assert read.grammar == Grammar.json_schema(schema)


CALL = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]}
USER = HELLO[0]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, {"role": "tool", "content": "x", "tool_call_id": "c1"}], "messages[1]"),
        ([{"role": "tool", "content": "x"}], "messages[0]"),
        ([USER, CALL, {"role": "tool", "content": "x", "tool_call_id": "c2"}], "messages[2].tool_call_id"),
        ([USER, CALL, USER, {"role": "tool", "content": "x", "tool_call_id": "c1"}], "messages[3]"),
        ([USER, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "x"}], "messages[2]"),
    ],
)
def test_a_result_without_its_call(messages: Any, param: str) -> None:
    assert refusal({"messages": messages}).param == param


def test_a_calls_id_may_be_anything_wrong(server: Running) -> None:
    calls = [{"id": {}, "function": {"name": "f"}}]
    messages = [USER, {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "x"}]
    assert error_of(server.chat(messages), 400)["param"] == "messages[1].tool_calls[0].id"


def test_results_of_calls_with_and_without_ids() -> None:
    two = {**CALL, "tool_calls": [*CALL["tool_calls"], {"id": "c2", "function": {"name": "g"}}]}
    answers = [{"role": "tool", "content": "x", "tool_call_id": name} for name in ("c2", "c1")]
    assert chat_task({"messages": [USER, two, *answers, USER]}, LIMITS)
    nameless = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    assert chat_task({"messages": [USER, nameless, {"role": "tool", "content": "x"}]}, LIMITS)
    assert chat_task({"messages": [USER, nameless, {"role": "tool", "content": "x", "tool_call_id": "z"}]}, LIMITS)


def test_many_results_of_many_calls_are_not_compared_one_by_one() -> None:
    compared = 0

    class Id(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    calls = [{"id": Id(i), "function": {"name": "f"}} for i in range(1000)]
    results = [{"role": "tool", "content": "x", "tool_call_id": Id(999)} for _ in range(90)]
    assert chat_task({"messages": [USER, {"role": "assistant", "tool_calls": calls}, *results]}, LIMITS)
    assert compared <= 1000
    for wrong in ([], {}, 1):
        body = {"messages": [USER, CALL, {"role": "tool", "content": "x", "tool_call_id": wrong}]}
        assert refusal(body).param == "messages[2].tool_call_id"


WRONG: list[tuple[Any, str | None]] = [
    ({"stop": [1]}, "stop[0]"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"top_k": 200000}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 1e300}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 1e30}, "presence_penalty"),
    ({"frequency_penalty": []}, "frequency_penalty"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias.99999999"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ({"seed": "x"}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": "2"}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "all"}, "max_tokens"),
    ({"max_tokens": 1e300}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": {}}, "tools"),
    ({"tools": [1]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": 1}}]}, "tools[0].function.strict"),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 2_000_000}}]}, "tools"),
    ({"tool_choice": "f"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object", "json_schema": {}}}, "response_format.json_schema"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"thinking_budget": -1}, "thinking_budget"),
    ({"chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs.tools"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"modalities": ["audio"]}, "modalities[0]"),
    ({"guided_json": {}}, "guided_json"),
    ({"draft_model": "x"}, "draft_model"),
    ({"adapters": "/tmp"}, "adapters"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": {"role": "user"}}, "messages"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": [], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [1]}]}, "messages[1].tool_calls[0]"),
    ({"messages": [USER] * 5000}, "messages"),
    ({"messages": [{"role": "user", "content": "x " * 100_000}]}, "messages"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_named_and_the_next_request_answers(server: Running, fields: Any, param: str) -> None:
    error = error_of(server.client.post("/v1/chat/completions", json={"messages": HELLO, **fields}), 400)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert server.chat(max_tokens=1, enable_thinking=False).status_code == 200


@pytest.mark.parametrize("bound", [1, 2, 9, 10, 11, 99, 100, 101, 1000, 1664, 2307])
def test_the_pattern_of_token_ids(bound: int) -> None:
    pattern = re.compile(f"^({numbers_below(bound)})$")
    assert [number for number in range(3 * bound + 20) if pattern.match(str(number))] == list(range(bound))
    assert not pattern.match("00") and not pattern.match("-1")


SCHEMAS: list[Any] = [
    {"type": "no such type"},
    {"type": "object", "not": {}},
    {"$ref": "#/nowhere"},
    {"type": "string", "pattern": "(?=x)"},
    {"type": "object", "properties": []},
    {"$ref": "#"},
    {"allOf": True},
    {"properties": {"a": {"patternProperties": 5, "allOf": 1.5}}},
]


LISTS, SCHEMA = '["lists"]', '{"schema": 1}'


@pytest.mark.parametrize("depth", [60, 300, 900, 5000])
def test_depths(server: Running, depth: int) -> None:
    """Everything that may be nested, nested: an answer or a refusal."""
    schema = '{"type":"object","properties":{"a":' * depth + '{"type":"integer"}' + "}}" * depth
    lists: Any = json.loads(LISTS)
    parameters = {"type": "function", "function": {"name": "f", "parameters": json.loads(SCHEMA)}}
    bodies: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": json.loads(SCHEMA)}}},
        {"tools": [parameters]},
        {"tools": [parameters], "tool_choice": "required"},
        {"messages": [{"role": "user", "content": lists}]},
        {"messages": lists},
        {"metadata": lists, "user": lists},
    ]
    for body in bodies:
        text = json.dumps({"messages": HELLO, "max_tokens": 1, **body})
        text = text.replace(LISTS, "[" * depth + "]" * depth).replace(SCHEMA, schema)
        headers = {"content-type": "application/json"}
        response = server.client.post("/v1/chat/completions", content=text, headers=headers)
        assert response.status_code in (200, 400), response.text


def test_heavy_schemas(server: Running) -> None:
    heavy: list[Any] = [
        {"enum": [str(i) for i in range(20_000)]},
        {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
        {"type": "string", "pattern": "(((a+)+)+)+$"},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        {"anyOf": [{"type": "object", "properties": {str(i): {}}} for i in range(1000)]},
        {"allOf": [{"type": "object", "properties": {str(i): {"type": "string"}}} for i in range(200)]},
    ]
    for schema in heavy:
        form = {"type": "json_schema", "json_schema": {"schema": schema}}
        response = server.chat(response_format=form, max_tokens=2, enable_thinking=False)
        assert response.status_code in (200, 400), (str(schema)[:80], response.text)
        assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_schema_that_cannot_be_kept(server: Running, schema: Any) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = error_of(server.chat(response_format=response_format), 400)
    assert error["param"] == "response_format.json_schema.schema" and str(error["param"]) in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"\xff\xfe", b'{"messages": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_object(server: Running, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    error_of(server.client.post("/v1/chat/completions", content=body, headers=headers), 400)


def test_lone_surrogates_are_no_text(server: Running) -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800"}]}'
    error_of(
        server.client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"}), 400
    )


def test_other_media_types(server: Running) -> None:
    error_of(server.client.post("/v1/chat/completions", content=b"a=b", headers={"content-type": "text/plain"}), 415)
