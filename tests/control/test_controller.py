"""The controller: how a request ends, and which tokens stand in which delta."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.control.controller import Controller, Emit, Stop
from qwen3_mlx.types import Event, FinishReason, TextDelta, ThinkingDelta, TokenLogprob, ToolCallDelta

from .toys import CALL_CLOSE, CALL_OPEN, EOS, THINK_CLOSE, THINK_OPEN, WEATHER, Run, ToyVocabulary, request, run

vocabulary = ToyVocabulary()
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
CALL_TOKENS = [CALL_OPEN, *CALL.encode(), CALL_CLOSE]


def go(output: str | list[int], **options: Any) -> Run:
    tokens = vocabulary.encode(output) if isinstance(output, str) else output
    return run(request(**options), tokens, vocabulary)


def test_eos_stops_is_counted_and_not_shown() -> None:
    out = go([*b"so", EOS, *b"more"])
    assert (out.reason, out.text, out.tokens) == ("stop", "so", [*b"so", EOS])
    assert out.usage.completion_tokens == 3


def test_eos_alone() -> None:
    out = go([EOS])
    assert (out.reason, out.events, out.usage.completion_tokens) == ("stop", [], 1)
    assert out.completion.content is None


def test_eos_as_the_last_token_allowed_is_a_stop() -> None:
    assert go([*b"so", EOS], max_tokens=3).reason == "stop"
    assert go([*b"so", EOS], max_tokens=2).reason == "length"


def test_a_token_that_looks_like_eos_in_text_is_none() -> None:
    assert go([*b"<|im_end|>more"]).text == "<|im_end|>more"


def test_stop_string() -> None:
    out = go("so END more", stop=["END"])
    assert (out.reason, out.text) == ("stop", "so ")
    assert out.usage.completion_tokens == 6
    assert out.shown() == [*b"so "]


def test_stop_string_as_the_last_tokens_allowed_is_a_stop() -> None:
    assert go("so END", stop=["END"], max_tokens=6).reason == "stop"


def test_a_stop_string_that_only_shows_at_the_end_counts() -> None:
    # The "<" is held back as a tag's beginning, and the incomplete character becomes one, only when nothing follows.
    out = go("so <", stop=["<"], tools=[WEATHER], max_tokens=4)
    assert (out.reason, out.text) == ("stop", "so ")
    out = go([*b"so ", 0xE6], stop=["\ufffd"], max_tokens=4)
    assert (out.reason, out.text) == ("stop", "so ")


def test_calls_and_how_the_request_ends() -> None:
    assert go([*CALL_TOKENS, EOS], tools=[WEATHER]).reason == "tool_calls"
    assert go([*CALL_TOKENS[:-1], EOS], tools=[WEATHER]).reason == "tool_calls"
    assert go([*CALL_TOKENS, *b"so END"], tools=[WEATHER], stop=["END"]).reason == "tool_calls"
    assert go([*CALL_TOKENS, *b"so"], tools=[WEATHER], max_tokens=len(CALL_TOKENS) + 1).reason == "length"
    assert go([*CALL_TOKENS, *b"so"], tools=[WEATHER]).reason == "cancelled"
    assert go([*CALL_TOKENS, EOS]).reason == "stop"  # no tools: text


def test_an_unfinished_call_is_none() -> None:
    for size in range(1, CALL.index("}") + 1):
        out = go([*b"so\n", CALL_OPEN, *CALL.encode()[:size], EOS], tools=[WEATHER])
        assert (out.reason, out.text, out.completion.tool_calls) == ("stop", "so", ())


@pytest.mark.parametrize("end", ["cancelled", "length", "eos"])
@pytest.mark.parametrize(
    ("output", "thinking", "text"),
    [
        ("<think>why \n", "why \n", ""),
        ("<think>why </thi", "why </thi", ""),
        ("<think>why <tool_call>", "why <tool_call>", ""),
        (" <thi", "", " <thi"),
        ("so EN", "", "so EN"),
        ("so <tool", "", "so <tool"),
        ("so EN\n\n", "", "so EN\n\n"),
        ("so \n", "", "so \n"),
    ],
)
def test_nothing_held_back_is_lost(output: str, thinking: str, text: str, end: str) -> None:
    tokens = [*output.encode(), *([EOS] if end == "eos" else [])]
    limit = len(tokens) if end == "length" else None
    out = go(tokens, stop=["END"], tools=[WEATHER], max_tokens=limit)
    assert (out.thinking, out.text) == (thinking, text)
    assert out.reason == {"eos": "stop"}.get(end, end)


@pytest.mark.parametrize("before", ["", "<think>"])
def test_an_incomplete_character_at_the_end_shows(before: str) -> None:
    out = go([*before.encode(), *b"so ", 0xE6, 0x80])
    assert (out.thinking or out.text) == "so \ufffd"
    assert out.shown()[-2:] == [0xE6, 0x80]


@pytest.mark.parametrize("reason", ["cancelled", "length", "error"])
def test_finish_from_outside(reason: FinishReason) -> None:
    controller = Controller(request(stop=["END"]), vocabulary)
    for token in b"so EN":
        controller.step(token)
    assert controller.finish(reason) == (TextDelta("EN", (ord("E"), ord("N"))),)
    assert controller.finish(reason) == ()


def test_order_of_text_and_calls() -> None:
    kinds = [type(e).__name__ + e.text if not isinstance(e, ToolCallDelta) else e.index for e in _mixed().events]
    assert kinds[0] == "ThinkingDeltaw"
    text = [k for k in dict.fromkeys("text" if isinstance(k, str) else k for k in kinds[3:])]
    assert text == ["text", 0, 1]
    last = next(i for i in reversed(range(len(kinds))) if kinds[i] == 1)
    assert kinds[last + 1 :] == ["TextDelta\n\ne", "TextDeltan", "TextDeltad"]


def _mixed() -> Run:
    tokens = [THINK_OPEN, *b"why", THINK_CLOSE, *b"\n\nfirst\n\n", *CALL_TOKENS, *b"\n", *CALL_TOKENS, *b"\nend"]
    return go(tokens, tools=[WEATHER], stop=["STOP"])


def test_tokens_of_markup_stand_in_no_delta() -> None:
    assert _mixed().shown() == [*b"why", *b"first", *b"\n\n", *b"end"]


def deltas(output: list[int], **options: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(e.text, e.token_ids) for e in go(output, **options).events if isinstance(e, (ThinkingDelta, TextDelta))]


def test_tokens_of_one_character_stand_with_it() -> None:
    assert deltas([*"aéb".encode()]) == [("a", (97,)), ("é", (0xC3, 0xA9)), ("b", (98,))]
    ab_e = vocabulary.token(b"ab\xe6")
    rest = vocabulary.token(b"\x80\x9dc")
    assert deltas([ab_e, rest]) == [("ab", (ab_e,)), ("思"[:0] + b"\xe6\x80\x9d".decode() + "c", (rest,))]


def test_a_token_half_markup_stands_with_its_text() -> None:
    head, tail = vocabulary.token(b"why</th"), vocabulary.token(b"ink>so")
    assert deltas([THINK_OPEN, head, tail]) == [("why", (head,)), ("so", (tail,))]
    both = vocabulary.token(b"a</think>b")
    assert deltas([THINK_OPEN, both, *b"c"]) == [("a", (both,)), ("b", ()), ("c", (99,))]
    cut = vocabulary.token(b"so END more")
    assert deltas([cut], stop=["END"]) == [("so ", (cut,))]
    gone = vocabulary.token(b"END more")
    assert deltas([*b"so ", gone], stop=["END"]) == [("s", (115,)), ("o", (111,)), (" ", (32,))]


def test_held_text_brings_its_tokens() -> None:
    assert deltas([*b"a<b"], tools=[WEATHER]) == [("a", (97,)), ("<b", (60, 98))]
    assert deltas([*b"a ENb"], stop=["END"])[2:] == [("ENb", (69, 78, 98))]


def test_tokens_of_a_rejected_call_are_shown() -> None:
    out = go([CALL_OPEN, *b"{}", CALL_CLOSE], tools=[WEATHER])
    assert out.shown() == [CALL_OPEN, *b"{}", CALL_CLOSE]


def test_logprobs_go_with_their_tokens() -> None:
    controller = Controller(request(thinking_budget=2), vocabulary)
    events: list[Event] = []
    for token in [THINK_OPEN, *"\né".encode(), *b"</think>so"]:
        events += controller.step(token, TokenLogprob(token, -float(token))).events
    shown = [e for e in events if isinstance(e, (ThinkingDelta, TextDelta))]
    for event in shown:
        if event.logprobs is None:  # forced
            assert event.text.startswith("\n\nConsidering")
        else:
            assert event.logprobs == tuple(TokenLogprob(t, -float(t)) for t in event.token_ids)
    assert [t for e in shown if e.logprobs is not None for t in e.token_ids] == [*"é".encode(), *b"so"]
    assert go("so").events == [TextDelta("s", (115,)), TextDelta("o", (111,))]


def test_results() -> None:
    controller = Controller(request(max_tokens=3), vocabulary)
    assert controller.start() == Emit()
    assert controller.step(0xC3) == Emit()
    assert controller.step(0xA9) == Emit((TextDelta("é", (0xC3, 0xA9)),))
    assert controller.step(ord("x")) == Stop("length", (TextDelta("x", (ord("x"),)),))
    usage = controller.usage(7, 5)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (7, 5, 3)
    with pytest.raises(AssertionError):
        controller.step(ord("x"))


def test_a_vocabulary_without_think_tags() -> None:
    class Bare(ToyVocabulary):
        class control:
            think_open = None

    out = run(request(in_thinking=True, thinking_budget=2), b"abcd", Bare())
    assert (out.thinking[:2], out.text) == ("ab", "cd")
