"""The edge cases of reasoning and tool calls, as a table: what the model writes, and the message that clients get.

Each is written by the model under every cut of its bytes in two and byte by byte, goes through the controller, and is
read back from the stream's chunks and from the answer in one piece. A real socket carries each once more.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qwen3_mlx.server.chat import ChatAnswer, chat_task
from qwen3_mlx.server.chat_fields import Limits
from qwen3_mlx.server.wire import Head
from qwen3_mlx.types import Event, Finished, Request
from tests.control.toys import EOS, ToyVocabulary, request, run

from .scripted import scripted_model
from .serving import HELLO, chunks, serving

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": ["integer", "null"]},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
        },
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OSLO = ("weather", {"city": "Oslo"})
XML = "<tool_call>\n<function=weather>\n%s</function>\n</tool_call>"


@dataclass(frozen=True)
class Case:
    """``text`` is written behind a prompt that ends inside ``<think>`` or not (``inside``)."""

    name: str
    text: str
    content: str | None = None
    reasoning: str | None = None
    calls: tuple[tuple[str, Any], ...] = ()
    finish: str = "stop"
    inside: bool = False
    tools: bool = True
    stop: tuple[str, ...] = ()
    end: bool = True  # the model ends it; else it is cut off at max_tokens


CASES = [
    # reasoning
    Case("no tags", "Hello", "Hello"),
    Case("both tags", "<think>\nhm\n</think>\n\nHello", "Hello", "hm"),
    Case("no opening tag", "hm\n</think>\n\nHello", "Hello", "hm", inside=True),
    Case("no opening tag, not inside", "hm\n</think>\n\nHello", "hm\n</think>\n\nHello"),
    Case("no closing tag", "<think>\nhm", None, "hm"),
    Case("no closing tag, cut off", "<think>\nhm", None, "hm", finish="length", end=False),
    Case("inside, never closed", "hm", None, "hm", inside=True),
    Case("repeated opening tag", "<think>\nhm</think>Hello", "Hello", "hm", inside=True),
    Case("empty block", "<think>\n\n</think>\n\nHello", "Hello"),
    Case("empty block at once", "<think></think>Hello", "Hello"),
    Case("nothing behind it", "<think>hm</think>", None, "hm"),
    Case("other tags", "<think>a </thing> b <thinking> c</think>x", "x", "a </thing> b <thinking> c"),
    Case("a tag that is none", "<thinking>x</thinking>", "<thinking>x</thinking>"),
    Case("half a tag at the end", "<think>hm</thi", None, "hm</thi"),
    Case("a second closing tag", "<think>hm</think>a</think>b", "a</think>b", "hm"),
    Case("text before", "So: <think>hm</think>x", "So: <think>hm</think>x"),
    Case("a call ends reasoning", "<think>hm\n" + CALL, None, "hm", (OSLO,), "tool_calls"),
    Case("a mention does not", "<think>I use <tool_call> now</think>x", "x", "I use <tool_call> now"),
    Case("Unicode", "<think>思考…\n</think>\n\n答え 👩‍👧", "答え 👩‍👧", "思考…"),
    Case("whitespace inside stays", "<think>\n a\n\n b \n</think>\n\n x\n\n y", "x\n\n y", "a\n\n b"),
    # tool calls
    Case("a call", CALL, None, None, (OSLO,), "tool_calls"),
    Case("without newlines", CALL.replace("\n", ""), None, None, (OSLO,), "tool_calls"),
    Case("text before", "Let me see.\n\n" + CALL, "Let me see.", None, (OSLO,), "tool_calls"),
    Case("behind a thought", "<think>hm</think>\n\n" + CALL, None, "hm", (OSLO,), "tool_calls"),
    Case("two calls", CALL + "\n" + CALL, None, None, (OSLO, OSLO), "tool_calls"),
    Case(
        "Unicode in arguments",
        CALL.replace("Oslo", "東京 \\u00e9 👩‍👧"),
        calls=(("weather", {"city": "東京 é 👩‍👧"}),),
        finish="tool_calls",
    ),
    Case(
        "nested braces",
        '<tool_call>{"name": "weather", "arguments": {"a": {"b": [{}, {"c": "}"}]}}}</tool_call>',
        calls=(("weather", {"a": {"b": [{}, {"c": "}"}]}}),),
        finish="tool_calls",
    ),
    Case(
        "markers in a string",
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call><think></think>"}}</tool_call>',
        calls=(("weather", {"city": "</tool_call><think></think>"}),),
        finish="tool_calls",
    ),
    Case("no arguments", '<tool_call>{"name": "weather"}</tool_call>', calls=(("weather", {}),), finish="tool_calls"),
    Case(
        "empty arguments",
        '<tool_call>{"name": "weather", "arguments": {}}</tool_call>',
        calls=(("weather", {}),),
        finish="tool_calls",
    ),
    Case(
        "arguments first",
        '<tool_call>{"arguments": {"city": "Oslo"}, "name": "weather"}</tool_call>',
        calls=(OSLO,),
        finish="tool_calls",
    ),
    Case(
        "arguments as a string",
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}</tool_call>',
        calls=(OSLO,),
        finish="tool_calls",
    ),
    Case("a list is no call", "<tool_call>[1,2]</tool_call>", "<tool_call>[1,2]</tool_call>"),
    Case("a list of null", "<tool_call>[null]</tool_call>", "<tool_call>[null]</tool_call>"),
    Case("complete, closing tag missing", CALL.removesuffix("\n</tool_call>"), calls=(OSLO,), finish="tool_calls"),
    Case("incomplete", "Well. " + CALL[:50], "Well."),
    Case("incomplete, cut off", CALL[:40], None, finish="length", end=False),
    Case("one, and a half", CALL + "\n" + CALL[:50], calls=(OSLO,), finish="tool_calls"),
    Case("no tools: markup is text", CALL, CALL, tools=False),
    Case("no tools: in text too", "Use <tool_call> so.", "Use <tool_call> so.", tools=False),
    # Qwen3-Coder's
    Case(
        "XML",
        XML % "<parameter=city>\nOslo\n</parameter>\n",
        calls=(OSLO,),
        finish="tool_calls",
    ),
    Case(
        "XML, nullable and anyOf",
        XML % "<parameter=days>\nnull\n</parameter>\n<parameter=note>\nnull\n</parameter>\n",
        calls=(("weather", {"days": None, "note": None}),),
        finish="tool_calls",
    ),
    Case(
        "XML, several lines",
        XML % "<parameter=city>\nOslo\nBergen\n</parameter>\n<parameter=days>\n3\n</parameter>\n",
        calls=(("weather", {"city": "Oslo\nBergen", "days": 3}),),
        finish="tool_calls",
    ),
    Case("XML, no parameters", XML % "", calls=(("weather", {}),), finish="tool_calls"),
    # stop strings
    Case("stop", "one END two", "one ", stop=("END",)),
    Case("stop is held back, then let go", "one EN", "one EN", stop=("END",)),
    Case("stop at the very end", "one END", "one ", stop=("END",)),
    Case("no stop in reasoning", "<think>END</think>one END", "one ", "END", stop=("END",)),
    Case("the first of two", "aXbYc", "a", stop=("Y", "X")),
    Case("stop in Unicode", "早安思考", "早安", stop=("思",)),
]


def asked(case: Case) -> Request:
    tools = (WEATHER,) if case.tools else ()
    return request(tools=tools, in_thinking=case.inside, thinking=case.inside, stop=case.stop)


def played(case: Case, req: Request, cuts: Sequence[int], vocabulary: ToyVocabulary) -> list[Event]:
    """The engine's events for the case's text as tokens that end at ``cuts``."""
    tokens = vocabulary.chunks(case.text.encode(), cuts)
    done = run(req, [*tokens, EOS] if case.end else tokens, vocabulary, end="length")
    return [*done.events, Finished(done.reason, done.usage)]


def answer(task: Any) -> ChatAnswer:
    return ChatAnswer(Head("chatcmpl-1", 1, "demo", "fp"), task, lambda token: b"?")


def message(choice: dict[str, Any]) -> tuple[Any, ...]:
    """What counts of a choice: reasoning, content, calls, finish reason."""
    said = choice["message"]
    calls = said.get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls)
    called = tuple((call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls)
    return said.get("reasoning_content"), said["content"], called, choice["finish_reason"]


def gathered(parts: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    """The same from a stream's chunks. A call that never became whole is dropped, as clients have to."""
    reasoning, content, finish = "", "", None
    calls: list[dict[str, str]] = []
    for part in parts:
        (choice,) = part["choices"]
        delta = choice["delta"]
        assert not ("content" in delta and "reasoning_content" in delta)
        reasoning += delta.get("reasoning_content", "")
        content += delta.get("content", "")
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(calls):
                calls.append({"name": call["function"]["name"], "arguments": ""})
            calls[call["index"]]["arguments"] += call["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    whole = tuple((call["name"], json.loads(call["arguments"])) for call in calls if _whole(call["arguments"]))
    return reasoning or None, content or None, whole, finish


def _whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False


def wanted(case: Case) -> tuple[Any, ...]:
    return case.reasoning, case.content, case.calls, case.finish


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_streamed_and_whole_under_every_cut(case: Case) -> None:
    vocabulary, req = ToyVocabulary(), asked(case)
    task = chat_task({"messages": HELLO}, Limits(1000, 1000))
    size = len(case.text.encode())
    for cuts in [*([cut] for cut in range(size)), list(range(size))]:
        events = played(case, req, cuts, vocabulary)
        assert message(json.loads(answer(task).whole([events]))["choices"][0]) == wanted(case), cuts
        one_by_one, together = answer(task), answer(task)
        separate = b"".join(one_by_one.feed([(0, event)]) for event in events)
        for data in (separate, together.feed([(0, event) for event in events])):
            parts = [json.loads(block[6:]) for block in data.decode().split("\n\n") if block]
            assert gathered(parts) == wanted(case), cuts


def test_each_over_a_socket() -> None:
    vocabulary = ToyVocabulary()
    case = CASES[0]
    model, engine = scripted_model([])
    with serving(model) as server:
        for case, stream in itertools.product(CASES, (False, True)):
            size = len(case.text.encode())
            engine.script = lambda _, case=case, size=size: played(case, asked(case), range(size), vocabulary)
            response = server.chat(stream=stream)
            if stream:
                assert gathered(chunks(response)) == wanted(case), case.name
            else:
                assert message(response.json()["choices"][0]) == wanted(case), case.name


@pytest.mark.parametrize("text", ["<think>", "</think>", "<tool_call>", CALL, "<|im_end|>"])
def test_what_a_user_writes_changes_nothing(text: str) -> None:
    """Neither the prompt's control tokens nor how the answer is read."""
    model, engine = scripted_model([])
    engine.script = lambda req: played(CASES[0], asked(replace(CASES[0], inside=req.in_thinking)), (), ToyVocabulary())
    with serving(model) as server:
        said = server.chat([{"role": "user", "content": f"What is {text}?"}], enable_thinking=False)
    assert message(said.json()["choices"][0]) == (None, "Hello", (), "stop")
    control = model.tokenizer.control
    prompt = engine.requests[0].prompt
    assert prompt.count(control.im_end) == 1 and not {control.tool_call_open} & set(prompt)
    assert prompt.count(control.think_open) == prompt.count(control.think_close) == 1
    assert not engine.requests[0].in_thinking


def test_a_hundred_thousand_spaces_take_linear_time() -> None:
    text = XML % ("<parameter=city>\nOslo" + " " * 100_000 + "\n</parameter>\n")
    vocabulary = ToyVocabulary()
    events = played(Case("spaces", text), asked(CASES[0]), range(0, len(text), 7), vocabulary)
    task = chat_task({"messages": HELLO}, Limits(1000, 1000))
    assert message(json.loads(answer(task).whole([events]))["choices"][0])[3] == "tool_calls"
