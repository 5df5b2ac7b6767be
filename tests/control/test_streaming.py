"""Properties: the stream equals the one-shot parse, and every token that shows is accounted for once."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen3_mlx.control.parser import OutputParser, Piece
from qwen3_mlx.control.tool_json import is_json_object
from qwen3_mlx.types import Request, TextDelta, ThinkingDelta

from .toys import EOS, WEATHER, ToyVocabulary, ids, parse, request, run

CODER = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"properties": {"n": {"type": ["integer", "null"]}, "s": {"type": "string"}}},
    },
}
FRAGMENTS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<thin", "</", "<tool", "<", ">", "\n", " ", "\n\n", "  \n ",
    "a", "word ", "é", "思考", "👩‍👧", "END", "EN", "STOP",
    '{"name": "f", "arguments": {"a": 1}}', '{"arguments": {"s": "x</tool_call>y"}, "name": "g"}', '{"name": "f"}',
    '{"name": "f", "arguments": "{\\"a\\": \\"\\\\u00e9\\\\n\\"}"}', '{"name": "f", "arguments": [1]}', "[1,2]", "null",
    "{", "}", '"', "\\", "\\u00e9", "\\ud83d\\ude00", ":", ",", "[", "]", '{"name": "f", "arguments": {"a": ', '"name"',
    "<function=f>", "</function>", "<parameter=n>", "<parameter=s>", "</parameter>", "5", "null",
    "<function=f>\n<parameter=n>\n5\n</parameter>\n<parameter=s>\nx\ny\n</parameter>\n</function>",
]  # fmt: skip

outputs = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=16).map("".join)
requests = st.builds(
    lambda **options: request(**options),
    tools=st.sampled_from([(), (WEATHER, CODER)]),
    stop=st.sampled_from([(), ("END",), ("END", "NE"), ("\n\n", "<"), ("思",), ("}",)]),
    in_thinking=st.booleans(),
    raw=st.sampled_from([False, False, False, True]),
)
cuts = st.lists(st.integers(0, 200), max_size=20)


def pieces_of(text: str, at: list[int]) -> list[str]:
    ends = sorted({0, len(text), *(cut % (len(text) + 1) for cut in at)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@given(requests, outputs, cuts)
@settings(max_examples=600, deadline=None)
def test_chunks_equal_one_shot(req: Request, output: str, at: list[int]) -> None:
    whole = parse(req, [output])
    assert parse(req, pieces_of(output, at)) == whole
    assert parse(req, list(output)) == whole


@given(requests, outputs, cuts)
@example(request(tools=(WEATHER,)), "abc<d", [1, 2, 4])
@example(request(), "abcéd", [1, 2, 4])
@settings(max_examples=100, deadline=None)
def test_text_that_passes_at_once_is_as_if_it_were_fed(req: Request, output: str, at: list[int]) -> None:
    """The same events, tokens and counts; characters are cut apart as well."""
    vocabulary, data = ToyVocabulary(), output.encode()
    for ends in (at, range(len(data)), range(0, len(data), 2), range(0, len(data), 3)):
        tokens = vocabulary.chunks(data, ends)
        passed = run(req, tokens, vocabulary)
        with mock.patch.object(OutputParser, "passes", return_value=None):
            assert run(req, tokens, vocabulary) == passed


@given(requests, outputs)
@settings(max_examples=60, deadline=None)
def test_every_cut_in_two_equals_one_shot(req: Request, output: str) -> None:
    whole = parse(req, [output])
    for cut in range(1, len(output)):
        assert parse(req, [output[:cut], output[cut:]]) == whole


@given(requests, outputs)
@settings(max_examples=300, deadline=None)
def test_calls_count_exactly_if_they_collect(req: Request, output: str) -> None:
    *out, (_, calls) = parse(req, list(output))
    arguments: list[str] = []
    for kind, text in out:
        if kind == "call":
            arguments.append("")
        elif kind == "args":
            arguments[-1] += text
    assert sum(map(is_json_object, arguments)) == int(calls)


def visible(req: Request, output: str) -> list[bool]:
    """For each character of ``output``, whether it is shown."""
    shown = [False] * len(output)
    parser = OutputParser(req, ids())
    pieces = parser.feed(output)
    pieces += [] if parser.stopped else parser.finish()
    for piece in pieces:
        if isinstance(piece, Piece):
            for start, text in piece.spans:
                for i in range(start, start + len(text)):
                    assert not shown[i]
                    shown[i] = True
    return shown


@given(requests, outputs, st.lists(st.integers(0, 300), max_size=40), st.booleans())
@settings(max_examples=400, deadline=None)
def test_any_tokenization_gives_the_same_completion_with_every_shown_token_once(
    req: Request, output: str, at: list[int], eos: bool
) -> None:
    vocabulary = ToyVocabulary()
    data = output.encode()
    end = [EOS] if eos else []
    one = run(req, vocabulary.chunks(data, []) + end, vocabulary)
    tokens = vocabulary.chunks(data, [cut % (len(data) + 1) for cut in at])
    many = run(req, tokens + end, vocabulary)

    def answer(completion: Any) -> tuple[Any, ...]:
        return completion.content, completion.reasoning_content, completion.tool_calls, completion.finish_reason

    assert answer(many.completion) == answer(one.completion)
    assert bool(many.completion.tool_calls) == (many.reason == "tool_calls") or not (eos or many.reason == "stop")

    # Which tokens hold a byte of a character that is shown.
    owner = [index for index, char in enumerate(output) for _ in char.encode()]
    shown = visible(req, output)
    position = 0
    want = []
    for token in tokens:
        size = len(vocabulary.decode_bytes([token]))
        if any(shown[owner[i]] for i in range(position, position + size)):
            want.append(token)
        position += size
    assert many.shown() == want
    for event in many.events:
        if isinstance(event, (TextDelta, ThinkingDelta)):
            assert event.text
            assert event.logprobs is None


@given(st.lists(st.integers(0, 255), max_size=40), st.lists(st.integers(0, 40), max_size=10))
@settings(deadline=None)
def test_any_bytes_are_shown_as_they_decode(data: list[int], at: list[int]) -> None:
    vocabulary = ToyVocabulary()
    raw = bytes(data)
    out = run(request(raw=True), vocabulary.chunks(raw, at), vocabulary)
    assert out.text == raw.decode("utf-8", "replace")
    assert out.shown() == vocabulary.chunks(raw, at)


@given(outputs, st.integers(0, 12), st.booleans(), st.sampled_from([(), (WEATHER,)]))
@settings(max_examples=300, deadline=None)
def test_budget_holds_for_any_output(output: str, budget: int, inside: bool, tools: tuple[Any, ...]) -> None:
    vocabulary = ToyVocabulary()
    out = run(request(thinking_budget=budget, in_thinking=inside, tools=tools), vocabulary.encode(output), vocabulary)
    usage = out.usage
    assert usage.completion_tokens == len(out.tokens)
    assert usage.budget_exhausted == bool(out.forced)
    assert 0 <= usage.reasoning_tokens - len(out.forced) <= budget + 3
    if out.forced:
        assert usage.reasoning_tokens - len(out.forced) >= budget
        assert "Considering the limited time by the user" in out.thinking
    # What the model wrote is what it would have written without a budget, token for token.
    rest = list(out.tokens)
    if out.forced:
        start = next(i for i in range(len(rest)) if rest[i : i + len(out.forced)] == out.forced)
        del rest[start : start + len(out.forced)]
    assert rest == vocabulary.encode(output)
