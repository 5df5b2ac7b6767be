from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.errors import InvalidRequest
from qwen3_mlx.text.messages import json_copy, normalize_messages, normalize_tools, thinking_requested

USER = {"role": "user", "content": "hi"}
PARTS = "messages[0].content[0]"


def assistant(**fields: object) -> list[dict]:
    return [USER, {"role": "assistant", **fields}]


def call(**fields: object) -> list[dict]:
    return assistant(tool_calls=[fields])


WRONG = [
    ([], "messages", "empty"),
    ("hi", "messages", "list of messages"),
    ({"role": "user"}, "messages", "list of messages"),
    (None, "messages", "list of messages"),
    (["hi"], "messages[0]", "object"),
    ([USER, None], "messages[1]", "object"),
    ([{"content": "x"}], "messages[0].role", "missing"),
    ([{"role": "robot", "content": "x"}], "messages[0].role", "system, user, assistant, tool"),
    ([{"role": 5, "content": "x"}], "messages[0].role", "one of"),
    ([{"role": ["user"], "content": "x"}], "messages[0].role", "one of"),
    ([{"role": "user"}], "messages[0].content", "missing"),
    ([{"role": "user", "content": None}], "messages[0].content", "missing"),
    ([{"role": "system", "content": None}, USER], "messages[0].content", "missing"),
    ([USER, {"role": "tool", "content": None}], "messages[1].content", "missing"),
    ([{"role": "user", "content": ""}], "messages[0].content", "prompt is empty"),
    ([USER, {"role": "user", "content": " \n\t"}], "messages[1].content", "prompt is empty"),
    ([{"role": "user", "content": []}], "messages[0].content", "prompt is empty"),
    ([{"role": "user", "content": 5}], "messages[0].content", "text"),
    ([{"role": "user", "content": {"type": "text", "text": "x"}}], "messages[0].content", "list of text parts"),
    ([{"role": "user", "content": b"x"}], "messages[0].content", "text"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], PARTS, "reads text only"),
    ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], PARTS, "reads text only"),
    ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], PARTS, "reads text only"),
    ([{"role": "user", "content": [{"text": "x"}]}], PARTS, "reads text only"),
    ([{"role": "user", "content": ["x"]}], PARTS, "part"),
    ([{"role": "user", "content": [{"type": "text"}]}], PARTS + ".text", "text"),
    ([{"role": "user", "content": "a\ud800"}], "messages[0].content", "surrogate"),
    ([{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}], PARTS + ".text", "surrogate"),
    ([{**USER, "name": 5}], "messages[0].name", "text"),
    ([USER, {"role": "tool", "content": "x", "tool_call_id": 5}], "messages[1].tool_call_id", "text"),
    ([{**USER, "tool_calls": [{}]}], "messages[0].tool_calls", "only an assistant"),
    (assistant(reasoning=[1]), "messages[1].reasoning", "text"),
    (assistant(reasoning_content={}), "messages[1].reasoning_content", "text"),
    (assistant(tool_calls={}), "messages[1].tool_calls", "list"),
    (assistant(tool_calls="f()"), "messages[1].tool_calls", "list"),
    (assistant(tool_calls=["f()"]), "messages[1].tool_calls[0]", "object"),
    (assistant(content="Sure", prefix=True), "messages[1].prefix", "not supported"),
    (assistant(content="Sure", partial=True), "messages[1].partial", "not supported"),
    (assistant(function_call={"name": "f"}), "messages[1].function_call", "tool_calls"),
    (call(type="function"), "messages[1].tool_calls[0].function", "name and arguments"),
    (call(type="custom", function={"name": "f"}), "messages[1].tool_calls[0].type", "'function'"),
    (call(function={"arguments": "{}"}), "messages[1].tool_calls[0].function.name", "name"),
    (call(function={"name": ""}), "messages[1].tool_calls[0].function.name", "name"),
    (call(function={"name": "f", "arguments": 5}), "messages[1].tool_calls[0].function.arguments", "JSON"),
    (call(function={"name": "f", "arguments": [1]}), "messages[1].tool_calls[0].function.arguments", "JSON"),
    (call(function={"name": "f"}, id=5), "messages[1].tool_calls[0].id", "text"),
    (
        call(function={"name": "f", "arguments": {"a": {1}}}),
        "messages[1].tool_calls[0].function.arguments.a",
        "set",
    ),
]


@pytest.mark.parametrize(("messages", "param", "says"), WRONG)
def test_what_is_wrong_is_named(messages: object, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        normalize_messages(messages)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_user_message_earlier_on_is_let_through() -> None:
    messages = [{"role": "user", "content": ""}, {"role": "assistant", "content": "Hello?"}, USER]
    assert normalize_messages(messages)[0]["content"] == ""


def test_empty_system_text_and_tool_results_are_fine() -> None:
    assert normalize_messages([{"role": "system", "content": ""}, USER, {"role": "tool", "content": ""}])


def test_fields_that_mean_nothing_here_are_dropped() -> None:
    sent = {**USER, "cache_control": {"type": "ephemeral"}, "id": "msg_1", "annotations": []}
    assert normalize_messages([sent]) == [USER]


def test_enums_count_as_their_text() -> None:
    class Word(str, Enum):  # noqa: UP042 - what older clients have
        user = "user"
        text = "hi"

    assert [str(value) for value in normalize_messages([{"role": Word.user, "content": Word.text}])[0].values()] == [
        "user",
        "hi",
    ]


def test_reasoning_content_goes_before_reasoning() -> None:
    both = assistant(content="x", reasoning="a", reasoning_content="b")
    assert normalize_messages(both)[1]["reasoning_content"] == "b"
    assert "reasoning_content" not in normalize_messages(assistant(content="x", reasoning=None))[1]


def tool(**function: object) -> list[dict]:
    return [{"type": "function", "function": function}]


WRONG_TOOLS = [
    ({}, "tools", "list"),
    ("f", "tools", "list"),
    (["f"], "tools[0]", "object"),
    ([{"type": "web_search"}], "tools[0].type", "'function'"),
    ([{"name": "f"}], "tools[0].type", "'function'"),
    ([{"type": "function"}], "tools[0].function", "name"),
    (tool(), "tools[0].function.name", "name"),
    (tool(name=5), "tools[0].function.name", "name"),
    (tool(name="f", description=5), "tools[0].function.description", "text"),
    (tool(name="f", parameters=[]), "tools[0].function.parameters", "schema"),
    (tool(name="f", parameters={"a": {1: 2}}), "tools[0].function.parameters.a", "keys"),
    (tool(name="f", parameters={"a": [{1, 2}]}), "tools[0].function.parameters.a[0]", "set"),
    (tool(name="f", parameters={"a": "\ud800"}), "tools[0].function.parameters.a", "surrogate"),
    (tool(name="f") + tool(name="g") + tool(name="f"), "tools[2].function.name", "tools[0]"),
]


@pytest.mark.parametrize(("tools", "param", "says"), WRONG_TOOLS)
def test_wrong_tools_are_named(tools: object, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        normalize_tools(tools)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert says in str(caught.value)


def test_bottomless_tools_are_refused() -> None:
    schema: dict = {}
    schema["properties"] = schema
    with pytest.raises(InvalidRequest, match="100 levels"):
        normalize_tools(tool(name="f", parameters=schema))


def test_tools_are_copied_whole() -> None:
    tools = [{"type": "function", "strict": True, "function": {"name": "f", "parameters": {"a": (1, 2)}, "x": None}}]
    assert normalize_tools(tools) == [
        {"type": "function", "strict": True, "function": {"name": "f", "parameters": {"a": [1, 2]}, "x": None}}
    ]
    assert normalize_tools(None) == normalize_tools([]) == []


def user(*texts: str) -> list[dict]:
    return [{"role": "user", "content": text} for text in texts]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (user("hi"), True),
        (user("hi /no_think"), False),
        (user("/no_think hi"), False),
        (user("那么，blueberries 里有多少个 'r'?/no_think"), False),
        (user("真的吗？请再想想。/think"), True),
        (user("a /no_think", "b"), False),
        (user("a /no_think", "b /think"), True),
        (user("a /think b /no_think"), False),
        (user("a /no_think b /think."), True),
        ([{"role": "system", "content": "/no_think"}, *user("hi")], False),
        ([*user("/no_think"), {"role": "system", "content": "/think"}], True),
        ([*user("hi"), {"role": "assistant", "content": "/no_think"}], True),
        ([*user("hi"), {"role": "tool", "content": "/no_think"}], True),
        (user("hi", "<tool_response>/no_think</tool_response>"), True),
        (user("see src/no_think and /no_think/x and /no_think.py and /no_thinking"), True),
        (user("a/no_think"), True),
    ],
)
def test_soft_switches(messages: list[dict], expected: bool) -> None:
    assert thinking_requested(messages, True) is expected
    assert thinking_requested(messages, False) is False


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
keys = st.sampled_from(["role", "content", "tool_calls", "function", "name", "arguments", "type", "text", "reasoning"])
likely = st.recursive(
    json_values | st.sampled_from(["user", "assistant", "tool", "function", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(likely)
@settings(max_examples=1000, deadline=None)
def test_any_json_is_accepted_or_refused_by_name(value: object) -> None:
    for check, top in ((normalize_messages, "messages"), (normalize_tools, "tools")):
        try:
            check(value)  # type: ignore[operator]
        except InvalidRequest as error:
            assert error.param is not None
            assert error.param.startswith(top)


def test_where_a_value_stands_is_spelled_out_for_an_error_only() -> None:
    """Else a long name would be copied for each of the values below it."""
    spelled = 0

    class Where(str):
        def __format__(self, spec: str) -> str:
            nonlocal spelled
            spelled += 1
            return str(self)

    value = {"a": [1, "é", {"b": None}] * 20}
    assert json_copy(value, Where("x")) == value and not spelled
    with pytest.raises(InvalidRequest) as wrong:
        json_copy({"k" * 10_000: [{1}]}, "x")
    assert wrong.value.param is not None and wrong.value.param.startswith("x.kkk") and len(str(wrong.value)) < 300
