"""Reasoning: every edge case in one piece, character by character, and cut in two everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.control.parser import OutputParser, Piece

from .toys import WEATHER, parse, request

CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'

# name: output, the reasoning, the answer, and what the request says.
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "plain": ("<think>\nwhy\n</think>\n\nso", "why", "so", {}),
    "no newlines": ("<think>why</think>so", "why", "so", {}),
    "whitespace around tags": (" \n<think> \t\n why \r\n </think> \n\t so ", "why", "so ", {}),
    "whitespace within": ("<think>\na\n\n  b\n</think>\n\nc\n\n  d\n", "a\n\n  b", "c\n\n  d\n", {}),
    "empty block": ("<think>\n\n</think>\n\nso", "", "so", {}),
    "empty block without space": ("<think></think>so", "", "so", {}),
    "nothing": ("", "", "", {}),
    "only a block": ("<think>\nwhy\n</think>", "why", "", {}),
    "no closing tag": ("<think>\nwhy <b> not\n", "why <b> not\n", "", {}),
    "no tags": ("  just text\n", "", "  just text\n", {}),
    "only whitespace": (" \n ", "", " \n ", {}),
    "no opening tag": ("why\n</think>\n\nso", "why", "so", {"in_thinking": True}),
    "no tag at all, inside": ("why not", "why not", "", {"in_thinking": True}),
    "no opening tag, outside": ("why\n</think>\n\nso", "", "why\n</think>\n\nso", {}),
    "opening tag repeated": ("<think>\nwhy</think>so", "why", "so", {"in_thinking": True}),
    "opening tag begun": ("<thi", "<thi", "", {"in_thinking": True}),
    "opening tag twice": ("<think><think>why</think>so", "<think>why", "so", {}),
    "text before the tag": ("Well <think>why</think>so", "", "Well <think>why</think>so", {}),
    "tag begun": ("<thin", "", "<thin", {}),
    "tag begun behind whitespace": ("\n <thin", "", "\n <thin", {}),
    "closing tag begun": ("<think>why\n</thin", "why\n</thin", "", {}),
    "other tags": (
        "<think>a </thing> <thinking> < /think> </ think> b</think>c",
        "a </thing> <thinking> < /think> </ think> b",
        "c",
        {},
    ),
    "<thinking> first": ("<thinking>a</think>", "", "<thinking>a</think>", {}),
    "near misses": ("<think><</<<th</thin<</think>c", "<</<<th</thin<", "c", {}),
    "second close": ("<think>a</think>b</think>c", "a", "b</think>c", {}),
    "second close at once": ("<think>a</think>\n</think>\nc", "a", "</think>\nc", {}),
    "second block": ("<think>a</think><think>b</think>c", "a", "<think>b</think>c", {}),
    "unicode": ("<think>\n思考 👨‍👩‍👧‍👦\n</think>\n\nสวัสดี\u3000", "思考 👨‍👩‍👧‍👦", "สวัสดี\u3000", {}),
    "call ends reasoning": ("<think>\nwhy\n" + CALL, "why", CALL, {}),
    "call ends reasoning, closed later": ("<think>\nwhy\n" + CALL + "</think>", "why", CALL + "</think>", {}),
    "mention is no call": (
        "<think>use <tool_call> or <tool_call>\n\n too</think>c",
        "use <tool_call> or <tool_call>\n\n too",
        "c",
        {},
    ),
    "mention at a tag": ("<think>use <tool_call>\n</think>c", "use <tool_call>", "c", {}),
    "mention at the end": ("<think>use <tool_call>\n", "use <tool_call>\n", "", {}),
    "mention, then a call": ("<think>use <tool_call> <tool_call>{", "use <tool_call>", "<tool_call>{", {}),
    "coder call": ("<think>a\n<tool_call>\n<function=f>", "a", "<tool_call>\n<function=f>", {}),
    "coder call, almost": ("<think>a <tool_call>\n<funktion=f>", "a <tool_call>\n<funktion=f>", "", {}),
    "raw": ("<think>a</think>\n" + CALL, "", "<think>a</think>\n" + CALL, {"raw": True, "tools": (WEATHER,)}),
    "raw, inside": ("a</think>b", "", "a</think>b", {"raw": True, "in_thinking": True}),
}


def expected(reasoning: str, answer: str) -> list[tuple[str, str]]:
    pieces = [("thinking", reasoning), ("text", answer)]
    return [piece for piece in pieces if piece[1]] + [("calls", "0")]


@pytest.mark.parametrize("case", CASES)
def test_reasoning_and_answer(case: str) -> None:
    output, reasoning, answer, options = CASES[case]
    want = expected(reasoning, answer)
    assert parse(request(**options), [output]) == want
    assert parse(request(**options), list(output)) == want
    for cut in range(1, len(output)):
        assert parse(request(**options), [output[:cut], output[cut:]]) == want, cut


def test_call_in_reasoning_is_parsed_when_tools_are_offered() -> None:
    output = "<think>\nI may call <tool_call>.\n" + CALL + "\ndone"
    want = [("thinking", "I may call <tool_call>."), ("call", "f"), ("args", "{}"), ("text", "done"), ("calls", "1")]
    for pieces in ([output], list(output)):
        assert parse(request(tools=[WEATHER]), pieces) == want


@pytest.mark.parametrize("text", ["word", " word", "a\nb", "x < y", "a>b", "é"])
@pytest.mark.parametrize("before", ["<think>a", "a"])
def test_ordinary_text_is_shown_at_once(before: str, text: str) -> None:
    parser = OutputParser(request(tools=[WEATHER], stop=["END"]))
    parser.feed(before)
    shown = "".join(t for piece in parser.feed(text) if isinstance(piece, Piece) for _, t in piece.spans)
    assert shown == text
