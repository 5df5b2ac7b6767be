"""Stop strings: matched on text, wherever it is cut; never shown, and nothing else lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_mlx.control.stop import StopMatcher

from .toys import WEATHER, parse, request


def match(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    out = ""
    at = 0
    for piece in pieces:
        start, text = matcher.feed(at, piece)
        assert start == len(out)
        out += text
        at += len(piece)
        if matcher.found:
            return out, True
    start, text = matcher.finish()
    assert not text or start == len(out)
    return out + text, False


@pytest.mark.parametrize(
    ("stops", "text", "want"),
    [
        (["END"], "abc END def", ("abc ", True)),
        (["END"], "abc EN", ("abc EN", False)),
        (["END"], "abc ENEND", ("abc EN", True)),
        (["aab"], "aaab", ("a", True)),
        (["abab"], "abaabab", ("aba", True)),
        (["x"], "x", ("", True)),
        (["b", "abc"], "abc", ("a", True)),  # complete first
        (["c", "abc"], "abc", ("", True)),  # complete together: the longest
        (["。"], "好。吗", ("好", True)),
        (["\n\n"], "a\n\nb", ("a", True)),
    ],
)
def test_matches(stops: list[str], text: str, want: tuple[str, bool]) -> None:
    assert match(stops, [text]) == want
    assert match(stops, list(text)) == want


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4), st.lists(st.text("abc", max_size=5)))
def test_equals_a_search_by_hand(stops: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    want = (text, False)
    for end in range(len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            want = (text[: end - max(map(len, hits))], True)
            break
    assert match(stops, pieces) == want


@given(st.text("ab", min_size=1, max_size=4), st.lists(st.text("abc", max_size=5)))
def test_holds_back_no_more_than_it_must(stop: str, pieces: list[str]) -> None:
    matcher = StopMatcher([stop])
    shown = whole = ""
    for piece in pieces:
        shown += matcher.feed(len(whole), piece)[1]
        whole += piece
        if matcher.found:
            return
        held = whole[len(shown) :]
        assert stop.startswith(held)
        assert not any(whole.endswith(stop[:n]) for n in range(len(held) + 1, len(stop)))


OUTPUT = (
    '<think>\nno END in thought\n</think>\n\nsay\n\n<tool_call>\n{"name": "f", "arguments": {"END": 1}}\n</tool_call>\n'
)


@pytest.mark.parametrize("cut", ["whole", "characters"])
def test_only_the_answers_text_counts(cut: str) -> None:
    def pieces(text: str) -> list[str]:
        return [text] if cut == "whole" else list(text)

    calling = [("thinking", "no END in thought"), ("text", "say"), ("call", "f"), ("args", '{"END": 1}')]
    req = request(tools=[WEATHER], stop=["END"])
    assert parse(req, pieces(OUTPUT)) == [*calling, ("calls", "1")]
    assert parse(req, pieces(OUTPUT + "more END")) == [*calling, ("text", "\n\nmore "), ("calls", "1")]
    # The whitespace around tags is no text, that between text and a call is.
    assert parse(request(tools=[WEATHER], stop=["\n\n"]), pieces(OUTPUT)) == [
        *calling[:1],
        ("text", "say"),
        ("calls", "0"),
    ]
    # Nothing behind the stop string is looked at.
    text = 'so END<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse(req, pieces(text)) == [("text", "so "), ("calls", "0")]
    # What may become a stop string comes before the call that follows it.
    text = 'so EN<tool_call>{"name": "f", "arguments": {}}</tool_call>D'
    assert parse(req, pieces(text)) == [("text", "so EN"), ("call", "f"), ("args", "{}"), ("text", "D"), ("calls", "1")]


def test_without_tools_markup_can_be_a_stop_string() -> None:
    assert parse(request(stop=["<tool_call>"]), list('a <tool_call>{"name"')) == [("text", "a "), ("calls", "0")]
