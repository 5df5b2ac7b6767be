"""Work grows with the output's length and no faster, whatever the output: counted, not timed.

Two things could make it quadratic: steps that repeat, which is seen in the number of lines executed, and copying text
that is held back, which is seen in the length of the strings that are kept between tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pytest

from qwen3_mlx.control.controller import Controller
from qwen3_mlx.control.parser import OutputParser
from qwen3_mlx.types import Request, ToolCallDelta

from .toys import WEATHER, ToyVocabulary, parse, request

TYPED = {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}}
TOOLS = [WEATHER, TYPED]

# What comes first, and what is repeated.
HOSTILE = {
    "text": ("so ", "word "),
    "spaces": ("", " "),
    "spaces in the answer": ("so", " "),
    "spaces in reasoning": ("<think>so", " "),
    "spaces behind <think>": ("<think>", "\n"),
    "spaces behind </think>": ("<think>a</think>", " "),
    "spaces behind <tool_call>": ("so <tool_call>", " "),
    "spaces behind <tool_call> in reasoning": ("<think><tool_call>", " "),
    "brackets": ("<think>", "<"),
    "tags begun": ("<think>", "</think"),
    "mentions": ("so ", "<tool_call> "),
    "mentions in reasoning": ("<think>", "<tool_call>"),
    "stop begun": ("so ", "EN"),
    "json name": ('<tool_call>{"name": "', "n"),
    "json key": ('<tool_call>{"', "k"),
    "json keys": ('<tool_call>{"name": "f"', ', "k": [{"a": "b"}]'),
    "json spaces": ('<tool_call>{"name": "f",', " "),
    "json string": ('<tool_call>{"name": "f", "arguments": {"a": "', 'x\\n\\"\\u00e9'),
    "json nesting": ('<tool_call>{"name": "f", "arguments": {"a": ', '[{"a":'),
    "json members": ('<tool_call>{"name": "f", "arguments": {"a": 1', ', "b": {}'),
    "json arguments first": ('<tool_call>{"arguments": {"a": "', "x"),
    "json encoded": ('<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"', "\\\\n"),
    "json skipped": ('<tool_call>{"x": ', "[1, "),
    "json junk": ('<tool_call>{"name": "f", "arguments": {}, ] ', "<tool_c"),
    "json calls": ("", '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'),
    "json calls in one block": ("<tool_call>", '{"name": "f", "arguments": {"a": 1}}'),
    "no calls": ("", '<tool_call>{"arguments": [1]}</tool_call>'),
    "no calls, nested": ("", '<tool_call>{"a": "'),
    "coder name": ("<tool_call><function=", "f"),
    "coder key": ("<tool_call><function=f><parameter=", "k"),
    "coder string": ("<tool_call><function=f><parameter=s>\n", " "),
    "coder lines": ("<tool_call><function=f><parameter=s>\n", "\n"),
    "coder brackets": ("<tool_call><function=f><parameter=s>\n", "</parameter"),
    "coder typed": ("<tool_call><function=f><parameter=n>\n", " "),
    "coder zeros": ("<tool_call><function=f><parameter=n>\n", "0"),
    "coder parameters": ("<tool_call><function=f>", "<parameter=n>5</parameter>"),
    "coder parameters not closed": ("<tool_call><function=f>", "<parameter=s>5"),
    "coder junk": ("<tool_call><function=f>", "</func "),
}


def lines(req: Request, pieces: Iterable[str]) -> int:
    """The number of lines of the control room that run."""
    parser = OutputParser(req, lambda: "call_x")
    count = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if "control" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
    finally:
        sys.settrace(before)
    return count


def longest(thing: object, seen: set[int]) -> int:
    """The length of the longest string reachable through attributes (a list of pieces is no copy)."""
    if isinstance(thing, str):
        return len(thing)
    if id(thing) in seen or not type(thing).__module__.startswith("qwen3_mlx.control"):
        return 0
    seen.add(id(thing))
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names += getattr(thing, "__dict__", {})
    return max([longest(getattr(thing, name), seen) for name in names if hasattr(thing, name)], default=0)


@pytest.mark.parametrize("case", HOSTILE)
def test_steps_are_linear(case: str) -> None:
    head, repeated = HOSTILE[case]
    req = request(tools=TOOLS, stop=["END"])
    small, large = (lines(req, head + repeated * n) for n in (100, 200))
    larger = lines(req, head + repeated * 400)
    # From 200 to 400 repetitions it costs what it costs twice from 100 to 200, no more.
    assert larger - large <= 2.05 * (large - small) + 20


@pytest.mark.parametrize("case", HOSTILE)
def test_no_long_text_is_kept_as_one_string(case: str) -> None:
    head, repeated = HOSTILE[case]
    parser = OutputParser(request(tools=TOOLS, stop=["END"]), lambda: "call_x")
    for character in head + repeated * 60:
        parser.feed(character)
        kept = longest(parser, set())
        # Tags are the longest things there are; names and keys are kept once they are whole.
        assert kept <= max(len("<parameter="), len(repeated) + len(head))


@pytest.mark.parametrize("case", HOSTILE)
def test_long_outputs(case: str) -> None:
    """100,000 characters in one piece, and 5,000 one by one: it ends, and nothing recurses."""
    head, repeated = HOSTILE[case]
    output = head + repeated * (100_000 // len(repeated))
    parse(request(tools=TOOLS, stop=["END"]), [output])
    parse(request(tools=TOOLS, stop=["END"]), output[:5_000])


def test_a_hundred_thousand_spaces_in_a_coder_value() -> None:
    spaces = " " * 100_000
    body = "<function=f>\n<parameter=s>\n{}\n</parameter>\n<parameter=n>\n{}5\n</parameter>\n</function>"
    output = f"<tool_call>\n{body.format(spaces, spaces)}\n</tool_call>"
    want = [("call", "f"), ("args", f'{{"s": "{spaces}", "n": 5}}'), ("calls", "1")]
    assert parse(request(tools=TOOLS), [output]) == want
    parser = OutputParser(request(tools=TOOLS))
    deltas = [delta for character in output for delta in parser.feed(character)]
    assert "".join(d.arguments for d in deltas if isinstance(d, ToolCallDelta)) == want[1][1]


def test_unshown_tokens_are_forgotten() -> None:
    vocabulary = ToyVocabulary()
    controller = Controller(request(tools=TOOLS), vocabulary)
    for _ in range(50):
        for token in vocabulary.encode('<tool_call>{"name": "f", "arguments": {}}</tool_call>so'):
            controller.step(token)
    assert len(controller._unclaimed) == 0
