from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen3_mlx.errors import ContextOverflow, EngineError
from qwen3_mlx.types import Event, Request, SamplingParams, TextDelta

from .conftest import CommandLine, Script
from .scripted import ScriptedModel, Turn


def test_a_scripted_conversation(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("Hello!", thinking="Greet."), Turn("Four."))
    ran = command_line("chat", "--model", "demo", "--system", "S", stdin="Hi\n\n/no_think\n/budget 9\n2 + 2?\r\n")
    assert (ran.status, ran.out) == (0, "Hello!\nFour.\n")
    assert ran.err.splitlines() == [
        "Greet.",
        "",
        "[4 tokens (2 thinking), 50.0 tok/s, first token after 0.25 s]",
        "answering without thinking",
        "thinking budget: 9 tokens",
        "[2 tokens, 50.0 tok/s, first token after 0.25 s]",
    ]
    first, second = model.asked
    assert (first["thinking"], first["thinking_budget"], first["tools"]) == (True, None, None)
    assert (second["thinking"], second["thinking_budget"]) == (False, 9)
    assert second["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "reasoning_content": "Greet."},
        {"role": "user", "content": "2 + 2?"},
    ]
    assert model.closed


def test_options_hold_for_every_turn(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("a"), Turn("b"))
    command_line("chat", "--no-thinking", "--thinking-budget", "3", "--seed", "5", stdin="Hi\nHo\n")
    assert [(a["thinking"], a["thinking_budget"], a["params"].seed) for a in model.asked] == [(False, 3, 5)] * 2


def test_exit_ends_it(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("a"))
    assert command_line("chat", stdin="Hi\n/exit\nnot asked\n").status == 0
    assert len(model.asked) == 1


def test_hints_are_one_line_and_the_talk_goes_on(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("a"))
    ran = command_line("chat", "--model", "demo", stdin="/budget x\n/bogus\nHi\n")
    assert (ran.status, ran.out, len(model.asked)) == (2, "a\n", 1)
    assert ran.err.splitlines()[:2] == [
        "/budget takes a number of tokens, or off, not 'x'",
        "there is no command /bogus: /help lists them; a space before it makes it a message",
    ]


def test_a_space_makes_a_command_a_message(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("a"))
    command_line("chat", stdin=" /bogus\n")
    assert model.asked[0]["messages"] == [{"role": "user", "content": "/bogus"}]


def test_a_turn_that_fails_is_forgotten_and_remembered_in_the_status(script: Script, command_line: CommandLine) -> None:
    model = script(Turn(refuses=ContextOverflow(9, 8)), Turn("Ha", raises=EngineError("it broke")), Turn("Fine"))
    ran = command_line("chat", "--model", "demo", stdin="long\nbroken\nshort\n")
    assert (ran.status, ran.out) == (2, "Ha\nFine\n")
    assert "error: the prompt is 9 tokens long" in ran.err and "error: it broke" in ran.err
    assert model.asked[2]["messages"] == [{"role": "user", "content": "short"}]


def test_ctrl_c_stops_the_answer_and_not_the_program(
    script: Script, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = script(Turn("unused"), Turn("Whole."))
    whole = ScriptedModel.stream

    def stream(self: ScriptedModel, messages: object, **given: object) -> Iterator[Event]:
        if len(self.asked) > 0:
            return whole(self, messages, **given)
        self.asked.append({})
        return interrupted()

    def interrupted() -> Iterator[Event]:
        yield TextDelta("Half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(ScriptedModel, "stream", stream)
    path = tmp_path / "chat.json"
    ran = command_line("chat", "--model", "demo", stdin=f"Hi\n/save {path}\nAgain\n")
    assert (ran.status, ran.out) == (0, "Half of\nunused\n")
    assert ran.err.splitlines()[0] == "[stopped]"
    assert json.loads(path.read_text())["messages"][1] == {
        "role": "assistant",
        "content": "Half of",
        "interrupted": True,
    }
    assert model.asked[1]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Half of"},
        {"role": "user", "content": "Again"},
    ]


def test_stdin_must_be_utf8(script: Script, command_line: CommandLine) -> None:
    script(Turn("a"))
    ran = command_line("chat", "--model", "demo", stdin=b"Hi\n\xff\n")
    assert (ran.status, ran.out) == (2, "a\n")
    assert ran.err.splitlines()[-1] == "error: stdin, line 2: not UTF-8 text (byte 1): convert it to UTF-8"


CUT = Request((1, 2), SamplingParams(), thinking_budget=2, generated=((3, None), (4, None), (5, None)))


def test_more_lets_the_last_thought_go_on(script: Script, command_line: CommandLine) -> None:
    """Until the thought has ended by itself; the answer that was made of it takes the other's place."""
    model = script(
        Turn("Two.", thinking="One, two", budget_exhausted=True, resume=CUT),
        Turn("Broken", raises=EngineError("it broke")),
        Turn("Three?", thinking="One, two, three", budget_exhausted=True, resume=CUT),
        Turn("Four.", thinking="One, two, three, four"),
        Turn("Five."),
    )
    ran = command_line("chat", "--model", "demo", stdin="/more\nCount\n/more 5\n/more 7\n/more\n/more\n/more 0\nOn\n")
    assert (ran.status, ran.out) == (2, "Two.\nBroken\nThree?\nFour.\nFive.\n")
    assert [asked for asked in model.asked if "extend" in asked] == [
        {"extend": "Two.", "thinking_budget": 7},
        {"extend": "Two.", "thinking_budget": 9},
        {"extend": "Three?", "thinking_budget": None},
    ]
    assert ran.err.count("/more goes on with a thought that the budget has just cut short") == 2
    assert "/more takes a number of tokens from 1, or nothing, not '0'" in ran.err
    assert model.asked[-1]["messages"] == [
        {"role": "user", "content": "Count"},
        {"role": "assistant", "content": "Four.", "reasoning_content": "One, two, three, four"},
        {"role": "user", "content": "On"},
    ]


def test_more_after_something_else_was_done_to_the_talk(script: Script, command_line: CommandLine) -> None:
    model = script(Turn("Two.", thinking="One", budget_exhausted=True, resume=CUT))
    assert command_line("chat", "--model", "demo", stdin="Count\n/clear\n/more\n").status == 2
    assert len(model.asked) == 1
