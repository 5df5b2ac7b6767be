"""Events to one completion."""

from __future__ import annotations

import pytest

from qwen3_mlx.control.collect import collect
from qwen3_mlx.types import Completion, Finished, TextDelta, ThinkingDelta, Timings, ToolCall, ToolCallDelta, Usage

END = Finished("stop", Usage(1, 2, 3, 4, True), Timings(0.5))


def test_everything() -> None:
    events = [
        ThinkingDelta("why "),
        ThinkingDelta("not"),
        TextDelta("so"),
        ToolCallDelta(0, "a", "f"),
        ToolCallDelta(0, arguments='{"x": '),
        ToolCallDelta(0, arguments="1}"),
        ToolCallDelta(1, "b", "g", "{}"),
        TextDelta(" on"),
        Finished("tool_calls", END.usage, END.timings),
    ]
    calls = (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))
    assert collect(iter(events)) == Completion("so on", "why not", calls, "tool_calls", END.usage, END.timings)


def test_empty_is_none() -> None:
    assert collect([END]) == Completion(None, None, (), "stop", END.usage, END.timings)


@pytest.mark.parametrize("arguments", ["", "{", '{"a": "b', '{"a": 1}}', "[1]", "null", '{"a": NaN}', "{" * 100_000])
def test_calls_that_were_cut_are_left_out(arguments: str) -> None:
    assert collect([ToolCallDelta(0, "a", "f"), ToolCallDelta(0, arguments=arguments), END]).tool_calls == ()


def test_numbers_of_any_length_are_fine() -> None:
    arguments = f'{{"a": {"1" * 10_000}, "b": 1e999}}'
    assert collect([ToolCallDelta(0, "a", "f", arguments), END]).tool_calls == (ToolCall("a", "f", arguments),)


def test_events_without_an_end_are_a_mistake() -> None:
    with pytest.raises(AssertionError):
        collect([TextDelta("so")])
