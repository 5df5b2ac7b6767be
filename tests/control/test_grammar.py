"""Answers under a grammar, on the controller alone: which tokens may come, which are forced, and what is shown."""

from __future__ import annotations

import gc
import json
import random
import re
import weakref
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.control import schema as schemas
from qwen3_mlx.control.budget import EARLY_STOP
from qwen3_mlx.control.controller import SHORTEST_LEAP, Controller, Force, Stop
from qwen3_mlx.control.grammar import follow
from qwen3_mlx.errors import EngineError, InvalidRequest
from qwen3_mlx.types import Grammar, Request, TextDelta, ThinkingDelta

from .schemas import random_schema
from .toys import (
    CALL_CLOSE,
    CALL_OPEN,
    EOS,
    THINK_CLOSE,
    THINK_OPEN,
    WEATHER,
    Choose,
    Run,
    ToyVocabulary,
    allowed,
    draw,
    play,
    request,
)

vocabulary = ToyVocabulary()
PIECES = (b'{"', b'": ', b'", "', b"ab", b"\xe5\x90", b"\x8d\xe5\x89", b"}}", b"</think>x", b"<think", b"e\xcc", b"}\n")
for piece in PIECES:
    vocabulary.token(piece)
ZONE, CITY = ({"properties": {name: {"enum": values}}} for name, values in (("zone", ["CET", "UTC"]), ("city", ["名"])))
TIME = {"type": "function", "function": {"name": "time", "parameters": ZONE}}
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": CITY}}, TIME)


def json_request(schema: Any, **options: Any) -> Request:
    return request(grammar=Grammar.json_schema(schema), **{"thinking": False, **options})


def regex(pattern: str, **options: Any) -> Request:
    return request(grammar=Grammar.regex(pattern), **{"thinking": False, **options})


def script(text: str | list[int], then: Choose | None = None) -> Choose:
    """A model that wants to write ``text``, and takes what it may where it may not."""
    tokens = vocabulary.encode(text) if isinstance(text, str) else text

    def choose(position: int, options: list[int]) -> int:
        want = tokens[position] if position < len(tokens) else EOS
        return want if want in options else (then or draw(0))(position, options)

    return choose  # type: ignore[return-value]


def masks(req: Request, tokens: list[int]) -> list[set[int]]:
    """What may come at the beginning, and behind each of ``tokens``."""
    controller = Controller(req, vocabulary)
    controller.start()
    out = [set(allowed(controller.mask(), vocabulary))]
    for token in tokens:
        assert not isinstance(controller.step(token), Stop)
        out.append(set(allowed(controller.mask(), vocabulary)))
    return out


def written(out: Run) -> str:
    """The text of the tokens that the events name."""
    return vocabulary.decode_bytes(out.shown()).decode()


# -- which tokens may come ---------------------------------------------------------------------------------------------


def test_an_end_is_allowed_exactly_where_the_answer_may_end() -> None:
    first, second, third = masks(regex("xy?z*"), [*b"x", *b"y"])
    assert first == {ord("x")}
    assert second == {ord("y"), ord("z"), EOS}
    assert third == {ord("z"), EOS}


def test_no_text_makes_a_control_token() -> None:
    inside = masks(json_request({"type": "string"}), [*b'"a'])[-1]
    assert vocabulary.token(b"</think>x") in inside and vocabulary.token(b"<think") in inside
    assert inside.isdisjoint({THINK_OPEN, THINK_CLOSE, CALL_OPEN, CALL_CLOSE, EOS})
    for text in ("<think>", "</think>", "<tool_call>"):
        out = play(request(grammar=Grammar.choice(text), thinking=False), draw(1), vocabulary)
        assert out.completion.content == text and not set(out.tokens) & {THINK_OPEN, THINK_CLOSE, CALL_OPEN}


def test_a_token_outside_of_the_mask_is_an_error_of_this_request() -> None:
    controller = Controller(regex("[xy]z"), vocabulary)
    with pytest.raises(EngineError, match=r"does not fit|cannot be followed"):
        controller.step(ord("q"))


def test_an_answer_that_is_whole_ends_without_an_end_token() -> None:
    out = play(regex("(ab|cd)[xy]"), draw(2), vocabulary)
    assert out.reason == "stop" and EOS not in out.tokens and re.fullmatch("(ab|cd)[xy]", out.text)


# -- what is written ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 10**6))
def test_any_draw_gives_a_valid_document(seed: int) -> None:
    schema = random_schema(random.Random(seed))
    out = play(json_request(schema), draw(seed), vocabulary)
    assert out.reason == "stop" and out.text == written(out)
    jsonschema.Draft202012Validator(schema).validate(json.loads(out.text))
    assert out.usage.completion_tokens >= len(out.tokens)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), thinking=st.booleans())
def test_leaping_over_forced_tokens_changes_nothing(seed: int, thinking: bool) -> None:
    """Nor does it lose or repeat any of the text. With log-probabilities every token is drawn."""
    schema = random_schema(random.Random(seed))
    choose = script([THINK_OPEN, *b"hm", THINK_CLOSE] if thinking else [], then=draw(seed))
    leaping = play(json_request(schema, thinking=thinking), choose, vocabulary)
    drawn = play(json_request(schema, thinking=thinking, logprobs=1), choose, vocabulary)
    assert drawn.text == leaping.text and drawn.thinking == leaping.thinking == ("hm" if thinking else "")
    assert drawn.usage == leaping.usage and drawn.shown() == leaping.shown()
    assert drawn.forced == ([10, 10] if thinking else [])
    assert written(leaping) == leaping.thinking + leaping.text


def test_a_run_of_forced_tokens_is_one_leap() -> None:
    controller = Controller(json_request({"const": {"key": [1, 2, 3]}}), vocabulary)
    whole = controller.start()
    assert isinstance(whole, Stop) and whole.reason == "stop", "nothing is left to the model"
    assert "".join(e.text for e in whole.events if isinstance(e, TextDelta)) == '{"key": [1, 2, 3]}'
    controller = Controller(regex("(a|b)c{2}[xy]"), vocabulary)
    assert not isinstance(controller.start(), Force) and not isinstance(controller.step(ord("a")), Force)
    assert set(allowed(controller.mask(), vocabulary)) == {ord("c")}, "too few to leap: drawn from a mask of one"
    controller = Controller(regex("(a|b)" + "c" * SHORTEST_LEAP + "[xy]"), vocabulary)
    leap = controller.step(ord("a"))
    assert isinstance(leap, Force) and leap.tokens == (ord("c"),) * SHORTEST_LEAP


def test_text_keeps_its_form() -> None:
    """A tokenizer would compose what is decomposed; a schema means what it says."""

    class Composing(ToyVocabulary):
        def encode(self, text: str, trusted: bool = True) -> list[int]:
            return super().encode(text.replace("e\u0301", "é"), trusted)

    composing = Composing()
    for text in ("e\u0301", "é", "ae\u0301b"):
        out = play(json_request({"enum": [text, "no"]}), script([34, *text.encode()]), composing)
        assert json.loads(out.text) == text


@pytest.mark.parametrize(
    "pattern", [r"a/b", r"a\/b", "a\nb", "a\\\nb", r"[/]\d", r"^\d{3}$", r"é+|名?", r"a#b//c", r"\\/", ""]
)
def test_regular_expressions(pattern: str) -> None:
    for seed in range(8):
        out = play(regex(pattern), draw(seed), vocabulary)
        assert re.fullmatch(pattern, out.text), (pattern, out.text)


def test_choices() -> None:
    texts = ("yes", 'no "never"', "名前\n", "", "yes, but", "\x01")
    seen = {play(request(grammar=Grammar.choice(*texts), thinking=False), draw(s), vocabulary).text for s in range(80)}
    assert seen == set(texts)
    many = [f"{n:05} of many" for n in range(20_000)]
    assert play(request(grammar=Grammar.choice(*many), thinking=False), draw(1), vocabulary).text in many


def test_an_object_has_the_properties_it_lists_and_no_others_unless_it_says_so() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    assert play(json_request(schema), draw(1), vocabulary).text == '{"a": null}'
    assert ord(",") in masks(json_request({**schema, "additionalProperties": True}), [])[0] | set().union(
        *masks(json_request({**schema, "additionalProperties": True}, logprobs=0), [*b'{"a": null'])
    )
    parts = {"allOf": [schema, {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}]}
    assert set(json.loads(play(json_request(parts), script('{"a": null, "b": null}'), vocabulary).text)) == {"a", "b"}


def accepts(req: Request, text: str) -> bool:
    follower = follow(req, vocabulary)
    try:
        for token in text.encode():
            follower.accept(token)
        return EOS in allowed(follower.mask(), vocabulary)
    except EngineError:
        return False


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
        {
            "type": "object",
            "patternProperties": {"^a$": {"type": "integer"}},
            "additionalProperties": {"type": "string"},
        },
    ],
)
def test_a_rule_for_a_name_holds_however_the_name_is_spelled(schema: dict[str, Any]) -> None:
    for text, valid in (
        ('{"a": 1}', True),
        ('{"b": "x"}', True),
        ('{"a": "x"}', False),
        ('{"b": "x", "a": "x"}', False),
        ('{"\\u0061": "x"}', False),
    ):
        assert accepts(json_request(schema), text) == valid, text


def test_json_is_what_json_readers_read() -> None:
    for text in ('"\\ud800"', '"\n"', '"a', '"a" ', ' "a"'):
        assert not accepts(json_request({"type": "string"}), text), text
    for text in ('"\\n\\u0001"', '"名"', '""'):
        assert accepts(json_request({"type": "string"}), text), text
    for text in ("01", "1.", "+1", "NaN", "0x1", ".5"):
        assert not accepts(json_request({"type": "number"}), text), text


# -- thoughts ----------------------------------------------------------------------------------------------------------


def test_the_grammar_begins_behind_the_thought() -> None:
    choose = script([THINK_OPEN, *b"\nhm {} </think> <tool_call>{\n", THINK_CLOSE], then=draw(3))
    out = play(regex("a[bc]", thinking=True), choose, vocabulary)
    assert out.thinking == "hm {} </think> <tool_call>{" and re.fullmatch("a[bc]", out.text)
    assert out.forced[:2] == [10, 10] and out.usage.reasoning_tokens == len(b"hm {} </think> <tool_call>{\n") + 1


def test_whitespace_of_the_answer_is_the_grammar_s() -> None:
    out = play(regex(" a ", thinking=True), script([THINK_OPEN, *b"hm", THINK_CLOSE]), vocabulary)
    assert (out.thinking, out.text) == ("hm", " a ")


def test_no_thought_is_needed() -> None:
    for thinking in (True, False):
        out = play(regex("a[bc]", thinking=thinking), script("zz", then=lambda _, options: options[0]), vocabulary)
        assert out.thinking == "" and re.fullmatch("a[bc]", out.text)
    first = masks(regex("a[bc]", thinking=True), [])[0]
    assert first == {ord("a"), vocabulary.token(b"ab"), THINK_OPEN}, "a thought, or the answer"
    assert masks(regex("a[bc]"), [])[0] == first - {THINK_OPEN}


def test_a_thought_ends_with_its_close_only() -> None:
    inside = masks(regex("a", in_thinking=True, thinking=True, prompt=[THINK_OPEN, 10]), [*b"hm"])[-1]
    assert set(vocabulary.tokens) - inside == {EOS, CALL_OPEN}


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_closes_the_thought_and_the_grammar_rules(budget: int) -> None:
    req = regex("abcd[xy]", thinking=True, thinking_budget=budget, in_thinking=True, prompt=[THINK_OPEN], max_tokens=5)
    out = play(req, script("\nthinking for ever"), vocabulary)
    assert out.usage.budget_exhausted and out.reason == "stop" and re.fullmatch("abcd[xy]", out.text)
    assert out.thinking == "thinking"[:budget] + EARLY_STOP.partition("\n</think>")[0][0 if budget else 2 :]
    assert out.forced[-4:] == [*b"abcd"], "in one leap with the close"


def test_a_broken_character_before_the_close_stays_thought() -> None:
    out = play(regex("a[bc]", thinking=True), script([THINK_OPEN, *b"hm\xe5", THINK_CLOSE]), vocabulary)
    assert out.thinking == "hm\ufffd" and re.fullmatch("a[bc]", out.text)


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", range(1, 12))
def test_max_tokens_cuts_an_answer_off(limit: int) -> None:
    schema = {"type": "object", "properties": {"ab": {"type": "string"}}, "required": ["ab"]}
    for thinking in ([], [THINK_OPEN, *b"h", THINK_CLOSE]):
        req = json_request(schema, max_tokens=limit, thinking=bool(thinking))
        out = play(req, script([*thinking, *b'{"ab": "never ending']), vocabulary)
        assert out.reason == "length" and out.usage.completion_tokens == limit


def test_an_answer_that_ends_with_the_last_token_allowed_is_whole() -> None:
    assert play(regex("ab[cd]", max_tokens=3), draw(0), vocabulary).reason == "stop"
    assert play(regex("abc", max_tokens=3), draw(0), vocabulary).reason == "stop"
    assert play(regex("abc", max_tokens=2), draw(0), vocabulary).reason == "length"


def test_stop_strings_end_it_too_in_leaps_as_well() -> None:
    out = play(regex("abcdef[xy]", stop=["de"]), draw(0), vocabulary)
    assert (out.reason, out.text) == ("stop", "abc")
    assert out.usage.completion_tokens == 5
    out = play(regex("[ab]*", stop=["bb"]), script("aabba"), vocabulary)
    assert (out.reason, out.text) == ("stop", "aa")


# -- tool calls --------------------------------------------------------------------------------------------------------


def calls_of(out: Run) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in out.completion.tool_calls]


def tool_request(**options: Any) -> Request:
    return request(tools=TOOLS, **{"thinking": False, **options})


@pytest.mark.parametrize("thought", [[], [THINK_OPEN, *b"hm", THINK_CLOSE]])
def test_a_call_that_is_required_is_made(thought: list[int]) -> None:
    seen = set()
    for seed in range(25):
        req = tool_request(must_call=("weather", "time"), thinking=bool(thought))
        out = play(req, script([*thought, *b"I will not"], then=draw(seed)), vocabulary)
        calls = calls_of(out)
        assert out.reason == "tool_calls" and calls and not out.text
        for name, arguments in calls:
            seen.add(name)
            schema = {"weather": CITY, "time": ZONE}[name]
            jsonschema.Draft202012Validator(schema).validate(arguments)
    assert seen == {"weather", "time"}


def test_calls_are_written_as_the_template_writes_them() -> None:
    text = '{"name": "time", "arguments": {"zone": "CET"}}'
    want = [CALL_OPEN, *f"\n{text}\n".encode(), CALL_CLOSE, 10, CALL_OPEN, *f"\n{text}\n".encode(), CALL_CLOSE, EOS]
    out = play(tool_request(must_call=("weather", "time")), script(want), vocabulary)
    assert vocabulary.decode_bytes(out.tokens) == vocabulary.decode_bytes(want)
    assert calls_of(out) == [("time", {"zone": "CET"})] * 2


def test_a_named_function_is_called() -> None:
    for seed in range(10):
        req = tool_request(must_call=("time",), parallel_tool_calls=False)
        assert [name for name, _ in calls_of(play(req, draw(seed), vocabulary))] == ["time"]


@pytest.mark.parametrize("must", [(), ("weather", "time")])
def test_without_parallel_calls_the_answer_ends_with_the_first(must: tuple[str, ...]) -> None:
    call = [CALL_OPEN, *b'\n{"name": "time", "arguments": {"zone": "CET"}}\n', CALL_CLOSE, 10]
    req = tool_request(must_call=must, parallel_tool_calls=False)
    out = play(req, script([*([] if must else [*b"so "]), *call, *call, *b"more"]), vocabulary)
    assert (out.reason, calls_of(out)) == ("tool_calls", [("time", {"zone": "CET"})])
    assert out.text == ("" if must else "so")
    whole = vocabulary.token(b'<tool_call>{"name": "time"}</tool_call><tool_call>{"name": "time"}</tool_call> more')
    other = play(tool_request(parallel_tool_calls=False), script([whole]), vocabulary) if not must else None
    assert other is None or (calls_of(other) == [("time", {})] and other.text == "")


def test_calls_may_take_the_place_of_a_constrained_answer() -> None:
    req = tool_request(grammar=Grammar.json_schema({"type": "string", "maxLength": 30}))
    out = play(req, script([CALL_OPEN]), vocabulary)
    assert out.reason == "tool_calls" and calls_of(out)
    out = play(req, script([*b'"<tool_call>{"']), vocabulary)
    assert out.reason == "stop" and not calls_of(out), "text that looks like a call is text"
    assert json.loads(out.text).startswith("<tool_call>{")


def test_a_tool_without_parameters_takes_none() -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    req = request(tools=tools, must_call=("now",), parallel_tool_calls=False, thinking=False)
    assert calls_of(play(req, draw(0), vocabulary)) == [("now", {})]


# -- what is refused ---------------------------------------------------------------------------------------------------

ENDLESS = {"$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}}}
AGAIN = {"properties": {"a": {"$ref": "#"}}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "text"}, "text"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "incompatible"),
        ({"enum": []}, "empty"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "pattern": "(?=a)b"}, "look"),
        ({"$ref": "#"}, "ends"),
        ({"$ref": "#/$defs/a", **ENDLESS}, "ends"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}, **ENDLESS}, "ends"),
        ({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#"}], **ENDLESS}, "ends"),
        ({"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}}, "ends"),
        ({"type": "object", "minProperties": 1, "additionalProperties": False, **AGAIN}, "ends"),
        ({"type": ["object", "array"], "required": ["a"], "minItems": 1, "items": {"$ref": "#"}, **AGAIN}, "ends"),
        ({"type": "object", "allOf": [{"required": ["a"]}], **AGAIN}, "ends"),
        ({"type": "object", "patternProperties": {"^a": {"$ref": "#"}}, "required": ["ab"]}, "ends"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "integer", "minimum": 1.2, "maximum": 1.8}, "integer"),
        ({"minimum": "x"}, "minimum"),
        ({"allOf": 5}, "allOf"),
        (json.loads('{"items": ' * 200 + "{}" + "}" * 200), "deep"),
        ({"enum": ["x" * 1_100_000]}, "longer"),
        ({"properties": {f"p{i}": True for i in range(2001)}}, "properties"),
        ({"enum": [[i] for i in range(5000)]}, "lists"),
        ({"items": {"properties": {f"p{i}": True for i in range(2000)}}, "enum": [True] * 3000}, "booleans"),
        (
            {"anyOf": [{"patternProperties": {f"^{i}{j}$": {} for j in range(13)}} for i in range(5)]},
            "patternProperties",
        ),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        Controller(json_request(schema), vocabulary)
    assert caught.value.param == "schema" and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    parameters = {"properties": {"a": schema}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    if "$ref" not in json.dumps(schema):
        with pytest.raises(InvalidRequest) as caught:
            Controller(request(tools=[WEATHER, tool], must_call=("weather", "f")), vocabulary)
        assert caught.value.param == "tools[1].function.parameters"
    Controller(json_request({"type": "null"}), vocabulary)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
        {"anyOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1, "maxItems": 1}, {"type": "null"}]},
        {"type": "object", "properties": {"items": {"$ref": "#/properties/anyOf"}, "anyOf": {"type": "null"}}},
        {"type": "array", "prefixItems": [{"type": "null"}], "minItems": 1, "items": {"$ref": "#"}, "maxItems": 1},
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {
            "patternProperties": {"^x$": {"type": "null"}},
            "additionalProperties": False,
            "type": "object",
            "minProperties": 1,
        },
        {
            "patternProperties": {"^x$": {"type": "null"}},
            "additionalProperties": False,
            "type": "object",
            "required": ["x"],
        },
    ],
)
def test_a_recursive_schema_with_a_way_out_is_none_of_those(schema: dict[str, Any]) -> None:
    shortest: Choose = lambda position, options: next((t for t in (EOS, *b"]}n") if t in options), options[0])  # noqa: E731
    jsonschema.Draft202012Validator(schema).validate(json.loads(play(json_request(schema), shortest, vocabulary).text))


def _chain(order: Sequence[int]) -> dict[str, Any]:
    """A schema for each number, which needs the one of the number below it; they are found in this order."""
    needed: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i - 1}"} if i else {"type": "null"} for i in order}
    return {"properties": {f"p{i}": {"$ref": f"#/$defs/d{i}"} for i in order}, "$defs": needed}


def test_knowing_whether_a_document_ends_takes_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "MAX_WORK", 2000)
    twice: Any = {"type": "null"}
    others: Any = {"type": "null"}
    for _ in range(30):  # each level would be looked at twice by the one above it
        named = {"properties": {"a": twice}, "required": ["a", "a"], "additionalProperties": False}
        twice = {"type": "object", **named, "minProperties": 1}
        others = {"type": "object", "additionalProperties": others, "required": ["a", "b"]}
    for schema in (twice, others, _chain(range(100)), _chain(range(99, -1, -1))):
        assert schemas.schema_text(schema, "schema")
    with pytest.raises(InvalidRequest, match="too many ways") as caught:
        schemas.schema_text(_chain(random.Random(1).sample(range(200), 200)), "schema")
    assert caught.value.param == "schema"


MATCHES: Any = [{"pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrstuvwxyz"]
NESTED: Any = {}
for one in MATCHES:
    NESTED = {"type": "string", **one, "allOf": [NESTED]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "allOf": MATCHES},
        NESTED,
        {"$ref": "#/$defs/a0", "$defs": {f"a{i}": {**m, "$ref": f"#/$defs/a{i + 1}"} for i, m in enumerate(MATCHES)}},
        {"type": "object", "allOf": [{"properties": {"x": one}, "required": ["x"]} for one in MATCHES]},
        {"type": "array", "minItems": 1, "allOf": [{"items": one} for one in MATCHES]},
        {
            "type": "object",
            "allOf": [{"properties": {"x": one}} for one in MATCHES[:7]]
            + [{"additionalProperties": one} for one in MATCHES[7:14]],
        },
    ],
)
def test_patterns_that_hold_together_are_few(schema: Any) -> None:
    """The compiler's work doubles with each; it would not come back from these."""
    with pytest.raises(InvalidRequest, match="patterns and formats") as caught:
        Controller(json_request(schema), vocabulary)
    assert caught.value.param == "schema"


def test_patterns_that_hold_for_different_texts_may_be_many() -> None:
    parts = [{"type": "object", "properties": {f"x{i}{j}": {"pattern": "^a$"} for j in range(9)}} for i in range(9)]
    Controller(json_request({"allOf": parts}), vocabulary)
    Controller(json_request({"allOf": [{"type": "string"}, {"pattern": "^a+$"}, {"maxLength": 3}]}), vocabulary)
    Controller(json_request({"type": "string", "anyOf": MATCHES}), vocabulary)


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", "a$b", r"\bfoo", r"[^\s\S]"])
def test_a_regular_expression_that_cannot_be_kept_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Controller(regex(pattern), vocabulary)
    assert caught.value.param == "schema" and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "grammar",
    [
        *(Grammar.choice(), Grammar("choice", "[1]"), Grammar("json_schema", "{"), Grammar("json_schema", "[]")),
        *(Grammar("choice", "1"), Grammar("regex", 5), Grammar("word", "a")),  # type: ignore[arg-type]
    ],
)
def test_other_grammars_that_are_none(grammar: Grammar) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Controller(request(grammar=grammar), vocabulary)
    assert caught.value.param == "schema"


def test_arguments_are_an_object() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
    with pytest.raises(InvalidRequest) as caught:
        Controller(request(tools=[tool], must_call=("f",)), vocabulary)
    assert caught.value.param == "tools[0].function.parameters"


def test_a_vocabulary_is_prepared_once_and_let_go() -> None:
    class Counting(ToyVocabulary):
        asked = 0

        def token_bytes(self, token: int) -> bytes:
            self.asked += 1
            return super().token_bytes(token)

    counting = Counting()
    Controller(regex("a[bc]"), counting)
    asked = counting.asked
    Controller(regex("[bc]a"), counting)
    assert counting.asked < asked + 20
    gone = weakref.ref(counting)
    del counting
    gc.collect()
    assert gone() is None


def test_thoughts_and_text_share_no_token() -> None:
    out = play(regex("名前[xy]", thinking=True), script([THINK_OPEN, *"\n名 \n".encode(), THINK_CLOSE]), vocabulary)
    thought, text = (
        vocabulary.decode_bytes([t for e in out.events if isinstance(e, kind) for t in e.token_ids]).decode()
        for kind in (ThinkingDelta, TextDelta)
    )
    assert thought.strip() == out.thinking == "名" and text == out.text


def test_a_grammar_is_compiled_once_for_all_answers_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance

    made: list[str] = []
    real = llguidance.LLMatcher

    def compile_(tokenizer: Any, text: str, **options: Any) -> Any:
        made.append(text)
        return real(tokenizer, text, **options)

    monkeypatch.setattr(llguidance, "LLMatcher", compile_)
    req = json_request({"enum": ["once", "twice", 7]})
    whole = play(req, draw(1), vocabulary)
    assert len(made) == 1
    # Answers side by side, and one that was broken off, leave the next as the first was.
    first, second = follow(req, vocabulary), follow(req, vocabulary)
    at_first = second.mask()
    first.accept(allowed(first.mask(), vocabulary)[0])
    assert second.mask() == at_first == follow(req, vocabulary).mask() and first.mask() != at_first
    assert play(req, draw(1), vocabulary) == whole
    assert len(made) == 1
    follow(json_request({"enum": ["once"]}), vocabulary)
    assert len(made) == 2
