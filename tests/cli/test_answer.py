from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3_mlx.cli.answer import Answer, PlainView, SilentView, completion_to_json, play
from qwen3_mlx.types import Event, Finished, TextDelta, ThinkingDelta, Timings, ToolCallDelta, Usage

from .scripted import ScriptedModel, Turn


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(events: list[Event], **given: bool) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    play(iter(events), PlainView(out, err, **given))
    return out.getvalue(), err.getvalue()


pieces = st.lists(st.text(max_size=6), max_size=6)


@given(pieces, pieces)
def test_pipes_get_the_exact_text_and_one_last_newline(thinking: list[str], text: list[str]) -> None:
    events = [*map(ThinkingDelta, thinking), *map(TextDelta, text), Finished("stop")]
    out, err = shown(events)
    thought, answer = "".join(thinking), "".join(text)
    assert out == (answer if answer.endswith("\n") or not answer else answer + "\n")
    # A blank line ends the thinking, as far as the thought did not bring one itself.
    assert err == (thought + "\n" * (2 - min(2, len(thought) - len(thought.rstrip("\n")))) if thought else "")


def test_hidden_thinking_leaves_no_trace() -> None:
    assert shown([ThinkingDelta("hm"), TextDelta("yes"), Finished("stop")], hide_thinking=True) == ("yes\n", "")


def test_an_interrupted_answer_ends_its_line() -> None:
    def interrupted() -> object:
        yield TextDelta("half an ans")
        raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        play(interrupted(), PlainView(out, out))  # type: ignore[arg-type]
    assert out.getvalue() == "half an ans\n"


def test_leaving_the_loop_cancels_the_generation() -> None:
    class Full(SilentView):
        def show(self, event: Event) -> None:
            raise BrokenPipeError

    model = ScriptedModel([Turn("a long answer")])
    with pytest.raises(BrokenPipeError):
        play(model.stream([]), Full())
    assert model.cancelled == 1


def test_tool_calls_are_lines_of_json() -> None:
    events: list[Event] = [
        TextDelta("Looking."),
        ToolCallDelta(0, "a", "clock"),
        ToolCallDelta(0, arguments='{"zone": '),
        ToolCallDelta(1, "b", "weather"),
        ToolCallDelta(0, arguments='"Asia/東京"}'),
        ToolCallDelta(1, arguments='{"city": '),
        Finished("tool_calls"),
    ]
    out, _ = shown(events)
    # The second was cut off: no call at all.
    assert out == 'Looking.\n{"name": "clock", "arguments": {"zone": "Asia/東京"}}\n'


def test_a_terminal_is_dimmed_and_never_steered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    out, err = Screen(), Screen()
    view = PlainView(out, err)
    for event in (ThinkingDelta("a\x1b[31m"), ThinkingDelta("b\n\n"), TextDelta("\x1b]0;title\x07\x9b\r\tc\n")):
        view.show(event)
    assert err.getvalue() == "\x1b[2ma^[[31m\x1b[0m\x1b[2mb\n\n\x1b[0m"
    assert out.getvalue() == "^[]0;title^G\\x9b^M\tc\n"


def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    err = Screen()
    PlainView(Screen(), err).show(ThinkingDelta("a"))
    assert err.getvalue() == "a"


def answered(*events: Event) -> Answer:
    answer = Answer()
    for event in events:
        answer.add(event)
    return answer


def test_summary_names_every_reason_for_a_short_answer() -> None:
    timings = Timings(0, 0, 0.125, 0, 1234.5)
    plain = answered(Finished("stop", Usage(5, 0, 1, 0), timings))
    assert plain.summary() == "[1 token, 1,234.5 tok/s, first token after 0.12 s]"
    cut = answered(Finished("length", Usage(5, 0, 2000, 1500, True), timings))
    assert cut.summary() == (
        "[2,000 tokens (1,500 thinking), 1,234.5 tok/s, first token after 0.12 s, thinking budget spent,"
        " cut short at the token limit]"
    )
    assert "finish reason tool_calls" in answered(Finished("tool_calls", Usage(), timings)).summary()
    assert answered(TextDelta("a")).summary() == "[stopped]"


def test_json_is_the_model_and_the_completion() -> None:
    events = (
        ThinkingDelta("hm"),
        ToolCallDelta(0, "call_1", "f", "{}"),
        Finished("tool_calls", Usage(3, 1, 9, 2, False), Timings(1.0, 0.0, 0.5, 10.0, 20.0)),
    )
    line = completion_to_json("demo", answered(*events).completion())
    assert "\n" not in line
    assert json.loads(line) == {
        "model": "demo",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "finish_reason": "tool_calls",
        "usage": {
            "prompt_tokens": 3,
            "cached_tokens": 1,
            "completion_tokens": 9,
            "reasoning_tokens": 2,
            "budget_exhausted": False,
        },
        "timings": {"load_s": 1.0, "queued_s": 0.0, "ttft_s": 0.5, "prefill_tps": 10.0, "decode_tps": 20.0},
    }
    assert next(iter(json.loads(line))) == "model"
    hidden = completion_to_json("demo", answered(*events).completion(), hide_thinking=True)
    assert json.loads(hidden)["reasoning_content"] is None


def test_an_answer_without_an_end_counts_as_cancelled() -> None:
    completion = answered(TextDelta("a")).completion()
    assert (completion.content, completion.reasoning_content, completion.finish_reason) == ("a", None, "cancelled")
