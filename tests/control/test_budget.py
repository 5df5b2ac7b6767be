"""The thinking budget, to the token."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.control.budget import EARLY_STOP, GRACE
from qwen3_mlx.control.controller import Controller, Emit, Force
from qwen3_mlx.types import TextDelta, ThinkingDelta

from .toys import CALL_OPEN, EOS, THINK_CLOSE, THINK_OPEN, WEATHER, Run, ToyVocabulary, request, run

SENTENCE = EARLY_STOP.partition("</think>")[0]
NEWLINE = ord("\n")

vocabulary = ToyVocabulary()
FORCED = vocabulary.encode(EARLY_STOP)


def go(output: str | list[int], **options: Any) -> Run:
    tokens = vocabulary.encode(output) if isinstance(output, str) else output
    return run(request(**options), tokens, vocabulary)


def test_the_sentence_is_qwens() -> None:
    assert EARLY_STOP == (
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly "
        "now.\n</think>\n\n"
    )


@pytest.mark.parametrize("budget", range(1, 6))
def test_forced_after_exactly_n_tokens(budget: int) -> None:
    out = go("<think>\nabcdefgh", thinking_budget=budget)
    opening = [THINK_OPEN, NEWLINE]
    assert out.tokens[: 2 + budget + len(FORCED)] == opening + vocabulary.encode("abcdefgh")[:budget] + FORCED
    assert out.thinking == "abcdefgh"[:budget] + SENTENCE.rstrip()
    assert out.text == "abcdefgh"[budget:]
    assert out.usage.budget_exhausted
    assert out.usage.reasoning_tokens == budget + len(FORCED)
    assert out.usage.completion_tokens == len(out.tokens) == 2 + 8 + len(FORCED)


@pytest.mark.parametrize("prompt", [[65, THINK_OPEN, NEWLINE], [65]])
@pytest.mark.parametrize("budget", range(1, 4))
def test_prompt_inside_the_block_counts_from_the_start(budget: int, prompt: list[int]) -> None:
    out = go("\nbcd", thinking_budget=budget, in_thinking=True, prompt=prompt)
    assert out.tokens == vocabulary.encode("\nbcd")[:budget] + FORCED + vocabulary.encode("\nbcd")[budget:]
    assert out.usage.reasoning_tokens == budget + len(FORCED)


def test_prompt_that_ends_in_the_tag_leaves_its_newline_to_the_model() -> None:
    out = go("\nab", thinking_budget=1, in_thinking=True, prompt=[65, THINK_OPEN])
    assert out.tokens == [NEWLINE, *b"a", *FORCED, *b"b"]
    out = go("ab", thinking_budget=1, in_thinking=True, prompt=[65, THINK_OPEN])
    assert out.tokens == [*b"a", *FORCED, *b"b"]


@pytest.mark.parametrize("newline", ["\n", "\n\n"])
def test_one_newline_token_belongs_to_the_opening(newline: str) -> None:
    tokens = [THINK_OPEN, vocabulary.token(newline.encode()), *b"ab"]
    assert go(tokens, thinking_budget=1).tokens == [*tokens[:3], *FORCED, *b"b"]
    # Only the first token behind the tag can be it.
    assert go([THINK_OPEN, *b"a\n"], thinking_budget=2).tokens == [THINK_OPEN, *b"a\n", *FORCED]
    assert go([THINK_OPEN, *b"\n\na"], thinking_budget=1).tokens == [THINK_OPEN, *b"\n\n", *FORCED, *b"a"]


def test_an_empty_block_is_no_thinking_to_cut() -> None:
    out = go([THINK_OPEN, vocabulary.token(b"\n\n"), THINK_CLOSE, vocabulary.token(b"\n\n"), *b"so"], thinking_budget=1)
    assert (out.forced, out.thinking, out.text) == ([], "", "so")
    assert out.completion.reasoning_content is None


def test_zero_on_the_opening_tag_brings_the_newline_along() -> None:
    out = go("<think>so", thinking_budget=0)
    assert out.tokens == [THINK_OPEN, NEWLINE, *FORCED, *b"so"]
    assert (out.thinking, out.text) == (SENTENCE.strip(), "so")
    assert out.usage.reasoning_tokens == 1 + len(FORCED)
    assert out.usage.completion_tokens == len(out.tokens)


def test_zero_on_a_tag_of_ordinary_tokens() -> None:
    assert go([*b"<think>so"], thinking_budget=0).tokens == [*b"<think>", NEWLINE, *FORCED, *b"so"]
    tag = vocabulary.token(b"k>\n")  # the newline has come
    assert go([*b"<thin", tag, *b"so"], thinking_budget=0).tokens == [*b"<thin", tag, *FORCED, *b"so"]


@pytest.mark.parametrize("newline", [[], [NEWLINE]])
def test_zero_inside_forces_before_the_first_token(newline: list[int]) -> None:
    controller = Controller(request(thinking_budget=0, in_thinking=True, prompt=[65, THINK_OPEN, *newline]), vocabulary)
    result = controller.start()
    forced = ([] if newline else [NEWLINE]) + FORCED
    assert isinstance(result, Force) and list(result.tokens) == forced
    assert [type(e) for e in result.events] == [ThinkingDelta]
    assert result.events[0].text == SENTENCE.strip()
    usage = controller.usage(3, 0)
    assert (usage.reasoning_tokens, usage.completion_tokens) == (len(forced), len(forced))
    assert controller.step(ord("x")) == Emit((TextDelta("x", (ord("x"),)),))


@pytest.mark.parametrize("options", [{}, {"thinking_budget": 1}, {"thinking_budget": 0}])
def test_start_does_nothing_otherwise(options: dict[str, Any]) -> None:
    inside = options.get("thinking_budget") != 0
    assert Controller(request(in_thinking=inside, **options), vocabulary).start() == Emit(())


def test_the_sentence_is_shown_with_its_tokens() -> None:
    out = go("<think>\nab", thinking_budget=1)
    shown = vocabulary.encode(SENTENCE.rstrip())
    assert [e for e in out.events if isinstance(e, ThinkingDelta)] == [
        ThinkingDelta("a", (ord("a"),)),
        ThinkingDelta(SENTENCE.rstrip(), tuple(shown)),
    ]


@pytest.mark.parametrize("budget", [3, 4, 100, None])
def test_a_natural_end_in_time_changes_nothing(budget: int | None) -> None:
    output = "<think>\nab</think>\n\nso"
    out = go(output, thinking_budget=budget)
    assert out.tokens == vocabulary.encode(output)
    assert not out.usage.budget_exhausted
    assert out.usage.reasoning_tokens == 3  # the closing tag is one of them


def test_one_token_short() -> None:
    out = go("<think>\nab</think>\n\nso", thinking_budget=2)
    assert out.usage.budget_exhausted
    assert (out.thinking, out.text) == ("ab" + SENTENCE.rstrip(), "so")  # the model's own close is swallowed


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("</think>so", "so"),
        ("\n</think>\n\nso", "so"),
        ("so</think>", "so</think>"),
        ("</think></think>so", "</think>so"),
        ("</thing>", "</thing>"),
        ("</thi", "</thi"),
        ("\n\nso", "so"),
        ("<think>so", "<think>so"),
    ],
)
def test_a_second_close_right_after_a_forced_one_is_swallowed(answer: str, want: str) -> None:
    for tokens in (vocabulary.encode(answer), list(answer.encode())):
        assert go([THINK_OPEN, *b"\nab", *tokens], thinking_budget=2).text == want


@pytest.mark.parametrize(
    ("last", "over"),
    [("é", 1), ("思", 2), ("👩", 3)],
)
def test_waits_for_a_whole_character(last: str, over: int) -> None:
    tokens = [THINK_OPEN, *b"\na", *last.encode(), *b"bcd"]
    out = go(tokens, thinking_budget=2)
    assert out.tokens == [THINK_OPEN, *b"\na", *last.encode(), *FORCED, *b"bcd"]
    assert out.thinking == f"a{last}" + SENTENCE.rstrip()
    assert out.usage.reasoning_tokens == 2 + over + len(FORCED)


def test_waits_no_longer_than_three_tokens() -> None:
    tokens = [THINK_OPEN, *b"\na", *(0xE6, 0xE6, 0xE6, 0xE6, 0xE6, 0xE6)]  # one incomplete character after the other
    out = go(tokens, thinking_budget=2)
    assert out.tokens.index(FORCED[0], 3) == 2 + 2 + GRACE
    assert out.thinking == "a" + "\ufffd" * 4 + SENTENCE.rstrip()
    assert out.usage.budget_exhausted


F = '\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("tools", [[], [WEATHER]])
@pytest.mark.parametrize("budget", [2, 3, 4])
def test_never_inside_a_tool_call(budget: int, tools: list[Any]) -> None:
    """The budget ends on the tag, on the newline behind it, and within the call."""
    out = go([THINK_OPEN, *b"\na", CALL_OPEN, *vocabulary.encode(F)], thinking_budget=budget, tools=tools)
    assert out.forced == [] and not out.usage.budget_exhausted
    assert out.thinking == "a"
    assert out.usage.reasoning_tokens == 1  # the call belongs to the answer
    assert out.completion.tool_calls if tools else out.text == "<tool_call>" + F


def test_a_mention_is_no_call() -> None:
    out = go([THINK_OPEN, *b"\na", CALL_OPEN, *b"s are"], thinking_budget=2)
    assert out.tokens == [THINK_OPEN, *b"\na", CALL_OPEN, *b"s", *FORCED, *b" are"]
    assert out.thinking == "a<tool_call>s" + SENTENCE.rstrip()
    out = go([THINK_OPEN, *b"\na", CALL_OPEN, *b"      "], thinking_budget=2)
    assert out.tokens == [THINK_OPEN, *b"\na", CALL_OPEN, *b"   ", *FORCED, *b"   "]


def test_without_a_block_nothing_is_forced() -> None:
    out = go("just an answer", thinking_budget=0, thinking=False)
    assert (out.forced, out.text, out.usage.reasoning_tokens) == ([], "just an answer", 0)
    out = go("<think>a</think>", thinking_budget=0, in_thinking=True, raw=True)
    assert (out.forced, out.text, out.usage.reasoning_tokens) == ([], "<think>a</think>", 0)


@pytest.mark.parametrize("budget", [1, 3, 50])
def test_max_tokens_bounds_the_answer_on_top_of_the_budget(budget: int) -> None:
    out = go("<think>\n" + "t" * budget + "abcdefgh", thinking_budget=budget, max_tokens=3)
    assert (out.reason, out.text) == ("length", "abc")
    out = go("<think>\nt</think>abcdefgh", thinking_budget=budget + 1, max_tokens=3)
    assert (out.reason, out.text) == ("length", "abc")
    out = go("abcdefgh", thinking_budget=budget, max_tokens=3)
    assert (out.reason, out.text, out.usage.completion_tokens) == ("length", "abc", 3)


def test_a_call_in_the_block_counts_as_answer() -> None:
    call = [CALL_OPEN, *vocabulary.encode(F)]
    out = go([THINK_OPEN, *b"\nabc", *call, *b"more"], thinking_budget=9, max_tokens=len(call), tools=[WEATHER])
    assert (out.reason, out.text, out.usage.completion_tokens) == ("length", "", 5 + len(call))
    assert out.completion.tool_calls


def test_without_a_budget_max_tokens_bounds_everything() -> None:
    out = go("<think>\nabcdefgh", max_tokens=5)
    assert (out.reason, out.thinking, out.text, out.usage.completion_tokens) == ("length", "abc", "", 5)
    assert out.usage.reasoning_tokens == 3
    assert out.completion.content is None


def test_eos_inside_the_block_ends_the_request() -> None:
    out = go([THINK_OPEN, *b"\nab", EOS], thinking_budget=3)
    assert (out.reason, out.forced, out.thinking) == ("stop", [], "ab")
    assert out.usage.reasoning_tokens == 2 and out.usage.completion_tokens == 5
