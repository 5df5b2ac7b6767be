"""Answers under a grammar on the embedded checkpoints, which were never trained for any of it."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pydantic
import pytest

from qwen3_mlx import Completion, EngineError, Finished, Grammar, InvalidRequest, Qwen3, SamplingParams
from qwen3_mlx.control.collect import collect
from qwen3_mlx.control.controller import Controller
from qwen3_mlx.control.grammar import Follower
from qwen3_mlx.engine.batch import Batch
from qwen3_mlx.engine.runner import Runner
from qwen3_mlx.engine.streams import EventStream
from tests.control.schemas import random_schema

QUESTION = "What is 12 + 30?"
HOT = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "größe": {"type": "integer", "minimum": 0, "maximum": 250},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "名"]}, "maxItems": 3},
    },
    "required": ["name", "größe", "tags"],
}
WEATHER, NOW = (
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in (
        ("weather", {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}),
        ("now", {"type": "object", "properties": {"zone": {"type": "string", "maxLength": 9}}, "required": ["zone"]}),
    )
)
TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)
FORMATS = jsonschema.FormatChecker(("date", "ipv4", "uuid"))


@FORMATS.checks("time")
def _is_time(text: object) -> bool:
    return not isinstance(text, str) or TIME.fullmatch(text) is not None


@FORMATS.checks("date-time")
def _is_date_time(text: object) -> bool:
    return not isinstance(text, str) or (FORMATS.conforms(text[:10], "date") and _is_time(text[11:]))


@pytest.fixture(scope="module", params=["demo", "demo-moe"])
def q(request: pytest.FixtureRequest) -> Iterator[Qwen3]:
    with Qwen3.load(request.param) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def demo() -> Iterator[Qwen3]:
    with Qwen3.load("demo") as loaded:
        yield loaded


def check(completion: Completion, schema: dict[str, Any]) -> None:
    assert completion.finish_reason == "stop" and completion.content is not None
    jsonschema.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(completion.content))


@pytest.mark.slow
def test_a_thousand_schemas_and_no_invalid_answer(demo: Qwen3) -> None:
    """Everything the generator of schemas makes is accepted, too."""
    running: list[tuple[dict[str, Any], EventStream]] = []
    for seed in range(1000):
        schema = random_schema(random.Random(seed))
        params = SamplingParams(**HOT, seed=seed, max_tokens=2000)
        running.append((schema, demo.stream(QUESTION, thinking=False, schema=schema, params=params)))
        if len(running) > 16:
            schema, stream = running.pop(0)
            check(collect(stream), schema)
    for schema, stream in running:
        check(collect(stream), schema)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_answer_is_valid_and_the_thought_is_free(q: Qwen3, thinking: bool, temperature: float) -> None:
    for seed in range(6):
        params = SamplingParams(temperature=temperature, seed=seed, max_tokens=600)
        free = q.generate(QUESTION, thinking, params=params)
        for schema in (PERSON, random_schema(random.Random(seed))):
            completion = q.generate(QUESTION, thinking, schema=schema, params=params)
            check(completion, schema)
            if thinking:
                assert completion.reasoning_content == free.reasoning_content


@pytest.mark.parametrize("thinking", [True, False])
def test_tokens_that_are_leapt_over_count_like_drawn_ones(q: Qwen3, thinking: bool) -> None:
    """With log-probabilities each is drawn. Penalties and random numbers of those behind are the same."""
    for seed in range(6):
        params = SamplingParams(**HOT, seed=seed, presence_penalty=0.4, repetition_penalty=1.1, max_tokens=300)
        leaping = q.generate(QUESTION, thinking, schema=PERSON, params=params)
        drawn = q.generate(QUESTION, thinking, schema=PERSON, params=replace(params, logprobs=0))
        assert (leaping.reasoning_content, leaping.content) == (drawn.reasoning_content, drawn.content)
        assert leaping.usage.completion_tokens == drawn.usage.completion_tokens


def test_a_budget_ends_the_thought(q: Qwen3) -> None:
    for budget in (0, 5):
        completion = q.generate(QUESTION, True, budget, schema=PERSON, params=SamplingParams(seed=1, max_tokens=100))
        check(completion, PERSON)
        assert completion.usage.budget_exhausted
    check(q.extend(completion), PERSON)


def test_a_thought_is_closed_beside_a_grammar_as_it_is_alone(q: Qwen3) -> None:
    for seed in range(4):
        params = SamplingParams(**HOT, seed=seed, presence_penalty=0.4, max_tokens=40)
        alone = q.generate(QUESTION, True, 7, params=params)
        beside = [q.stream(QUESTION, schema=PERSON, params=SamplingParams(seed=n, max_tokens=99)) for n in range(3)]
        together = q.generate(QUESTION, True, 7, params=params)
        assert (together.reasoning_content, together.content) == (alone.reasoning_content, alone.content)
        assert all(isinstance(list(stream)[-1], Finished) for stream in beside)


def test_a_pydantic_model_is_a_schema(demo: Qwen3) -> None:
    class Pet(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=8)
        age: int = pydantic.Field(ge=0, le=30)

    class Größe(pydantic.BaseModel):
        pets: list[Pet] = pydantic.Field(min_length=1, max_length=2)
        best: Pet | None

    answer = demo.generate(QUESTION, schema=Größe, params=SamplingParams(**HOT, seed=2))
    assert answer.content is not None and Größe.model_validate_json(answer.content).pets


def test_regular_expressions_and_choices(q: Qwen3) -> None:
    for seed in range(5):
        params = SamplingParams(**HOT, seed=seed)
        answer = q.generate(QUESTION, schema=Grammar.regex(r"\d{2,4}( km|%)"), params=params)
        assert re.fullmatch(r"\d{2,4}( km|%)", answer.content or "")
        assert q.generate(QUESTION, schema=Grammar.choice("yes", "no"), params=params).content in ("yes", "no")


@pytest.mark.parametrize("thinking", [True, False])
def test_tool_choice(q: Qwen3, thinking: bool) -> None:
    def calls(**options: Any) -> list[tuple[str, Any]]:
        params = SamplingParams(seed=4, max_tokens=500)
        completion = q.generate("Who are you?", thinking, tools=[WEATHER, NOW], params=params, **options)
        assert (completion.finish_reason == "tool_calls") == bool(completion.tool_calls)
        return [(call.name, json.loads(call.arguments)) for call in completion.tool_calls]

    for found in (calls(tool_choice="required"), calls(tool_choice="required", parallel_tool_calls=False)):
        assert found and all(name in ("weather", "now") for name, _ in found)
    assert len(found) == 1
    for name in ("weather", "now"):
        ((called, arguments),) = calls(tool_choice={"type": "function", "function": {"name": name}})
        assert called == name
        tool = {"weather": WEATHER, "now": NOW}[name]
        jsonschema.validate(arguments, tool["function"]["parameters"])
    assert not calls(tool_choice="none")


def test_without_tools_none_are_shown(demo: Qwen3) -> None:
    with_tools = demo.generate(QUESTION, tools=[WEATHER], params=SamplingParams(max_tokens=1))
    without = demo.generate(QUESTION, tools=[WEATHER], tool_choice="none", params=SamplingParams(max_tokens=1))
    assert without.usage.prompt_tokens < with_tools.usage.prompt_tokens
    assert (
        without.usage.prompt_tokens == demo.generate(QUESTION, params=SamplingParams(max_tokens=1)).usage.prompt_tokens
    )


def test_asyncio_takes_the_same(demo: Qwen3) -> None:
    params = SamplingParams(seed=3)

    async def run() -> list[Any]:
        return [event async for event in demo.astream(QUESTION, schema=PERSON, params=params)]

    assert collect(asyncio.run(run())).content == demo.generate(QUESTION, schema=PERSON, params=params).content


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"schema": {"type": "text"}}, "schema"),
        ({"schema": {"not": {}}}, "schema"),
        ({"schema": {"$ref": "#"}}, "schema"),
        ({"schema": "object"}, "schema"),
        ({"schema": int}, "schema"),
        ({"schema": {"enum": [float("nan")]}}, "schema"),
        ({"schema": {"enum": [object()]}}, "schema"),
        ({"schema": {"const": "\ud800"}}, "schema"),
        ({"schema": Grammar.regex("(")}, "schema"),
        ({"schema": Grammar.regex("\ud800")}, "schema"),
        ({"schema": Grammar.regex("a\0b")}, "schema"),
        ({"schema": Grammar.choice()}, "schema"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": 1, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"function": {"name": "weather"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "rain"}}, "tools": [WEATHER]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": []}}, "tools": [WEATHER]}, "tool_choice"),
        ({"parallel_tool_calls": "no", "tools": [WEATHER]}, "parallel_tool_calls"),
        (
            {
                "tool_choice": "required",
                "tools": [WEATHER, {"function": {"name": "f", "parameters": {"type": "object", "not": {}}}}],
            },
            "tools[1]",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once_and_the_next_is_answered(
    demo: Qwen3, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        demo.stream(QUESTION, **options)
    assert caught.value.param is not None and caught.value.param.startswith(param)
    assert "\n" not in str(caught.value)
    check(demo.generate(QUESTION, schema=PERSON, params=SamplingParams(seed=1)), PERSON)


def test_max_tokens_leaves_an_answer_cut_off_and_says_so(demo: Qwen3) -> None:
    params = SamplingParams(seed=1, max_tokens=8)
    completion = demo.generate(QUESTION, thinking=False, schema=PERSON, params=params)
    assert completion.finish_reason == "length" and completion.usage.completion_tokens == 8
    assert completion.content and completion.content.startswith('{"name": "')


@pytest.mark.parametrize("tail", [{}, {"b": {"enum": ["yes", "no"]}}], ids=["whole", "with a choice behind"])
def test_what_is_forced_keeps_to_the_context(tail: dict[str, Any]) -> None:
    """It is not drawn from the model, so nothing else would notice."""
    properties = {"a": {"const": "strawberry " * 40}, **tail}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    with Qwen3.load("demo", context=100) as q:
        completion = q.generate(QUESTION, thinking=False, schema=schema, params=SamplingParams(temperature=0))
        assert completion.finish_reason == "length"
        assert completion.usage.prompt_tokens + completion.usage.completion_tokens == 101
        assert (completion.content or "").startswith('{"a": "strawberry ')


def test_the_forward_pass_runs_while_the_mask_is_computed(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """And forced tokens take no step of their own."""
    order: list[str] = []

    def note(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def noted(*given: Any, **named: Any) -> Any:
            order.append(name)
            return real(*given, **named)

        monkeypatch.setattr(owner, name, noted)

    note(Batch, "step")
    note(Follower, "mask")
    note(Batch, "draw")
    note(Runner, "force")
    note(Runner, "first")
    completion = demo.generate(QUESTION, thinking=False, schema=PERSON, params=SamplingParams(seed=1))
    before = [order[i - 1] for i, name in enumerate(order) if name == "mask"]
    assert set(before) == {"step", "force", "first"}, "while a step runs, or around a leap"
    assert before.count("step") > before.count("force") > 1
    assert order.count("step") < completion.usage.completion_tokens * 0.7


def test_a_grammar_that_fails_takes_down_its_own_request_only(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Controller.mask
    doomed: list[Controller] = []

    def mask(self: Controller) -> bytes | None:
        if not doomed and self.constrained:
            doomed.append(self)
        if self in doomed and self.usage(0, 0).completion_tokens > 5:
            raise EngineError("too complex")
        return real(self)

    monkeypatch.setattr(Controller, "mask", mask)
    streams = [demo.stream(QUESTION, schema=PERSON, params=SamplingParams(seed=seed)) for seed in range(3)]
    free = demo.stream(QUESTION, params=SamplingParams(seed=1, max_tokens=50))
    with pytest.raises(EngineError, match="too complex"):
        list(streams[0])
    for stream in streams[1:]:
        check(collect(stream), PERSON)
    assert isinstance(list(free)[-1], Finished)
