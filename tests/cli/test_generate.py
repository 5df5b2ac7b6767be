from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen3_mlx.errors import ContextOverflow, EngineError, ModelNotFound
from qwen3_mlx.types import SamplingParams

from .conftest import CommandLine, Script
from .scripted import Turn

HELLO = Turn("Hello!", thinking="They greet me.")


def test_answer_on_stdout_everything_else_on_stderr(script: Script, command_line: CommandLine) -> None:
    model = script(HELLO)
    ran = command_line("generate", "--model", "qwen3:4b", "Hi")
    assert (ran.status, ran.out) == (0, "Hello!\n")
    assert ran.err == "They greet me.\n\n[7 tokens (5 thinking), 50.0 tok/s, first token after 0.25 s]\n"
    assert model.asked == [
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "thinking": True,
            "thinking_budget": None,
            "tools": None,
            "params": SamplingParams(),
        }
    ]
    assert model.closed


def test_without_a_model_the_demo_answers_and_says_so(script: Script, command_line: CommandLine) -> None:
    model = script(HELLO)
    ran = command_line("generate", "Hi")
    first = ran.err.splitlines()[0]
    assert "demo" in first and "--model qwen3:0.6b" in first
    assert model.opened[0].model is None
    assert "demo" not in command_line("generate", "--model", "demo", "Hi").err


@pytest.mark.parametrize("args", [(), ("-",)])
def test_a_piped_prompt(script: Script, command_line: CommandLine, args: tuple[str, ...]) -> None:
    model = script(HELLO)
    assert command_line("generate", *args, stdin="你好\nworld\n").status == 0
    assert model.asked[0]["messages"] == [{"role": "user", "content": "你好\nworld"}]


def test_a_given_prompt_leaves_stdin_alone(script: Script, command_line: CommandLine) -> None:
    model = script(HELLO)
    command_line("generate", "Hi", stdin="not this")
    assert model.asked[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_options_reach_the_model(script: Script, command_line: CommandLine) -> None:
    model = script(HELLO)
    command_line("generate", "--system", "Be brief", "--no-thinking", "--thinking-budget", "5", "--temp", "0", "Hi")
    asked = model.asked[0]
    assert asked["messages"][0] == {"role": "system", "content": "Be brief"}
    assert (asked["thinking"], asked["thinking_budget"], asked["params"].temperature) == (False, 5, 0)


def test_json_is_one_object_and_nothing_else(script: Script, command_line: CommandLine) -> None:
    script(HELLO)
    ran = command_line("generate", "--model", "demo", "--json", "Hi")
    assert ran.err == ""
    value = json.loads(ran.out)
    assert (value["model"], value["content"], value["reasoning_content"]) == ("demo", "Hello!", "They greet me.")
    assert ran.out.count("\n") == 1


def test_raw_continues_the_text(script: Script, command_line: CommandLine) -> None:
    model = script(Turn(" upon a time"))
    assert command_line("generate", "--raw", "--max-tokens", "4", stdin="Once\n").out == " upon a time\n"
    assert model.asked == [{"raw": "Once", "params": SamplingParams(max_tokens=4)}]


def test_messages_and_tools_from_files(script: Script, command_line: CommandLine, tmp_path: Path) -> None:
    chat, tools = tmp_path / "chat.json", tmp_path / "tools.json"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    schemas = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    chat.write_text(json.dumps(messages))
    tools.write_text(json.dumps(schemas))
    model = script(HELLO, Turn(calls=[("f", '{"a": 1}')], reason="tool_calls"))
    command_line("generate", "--messages", str(chat), "--system", "S", "And?", stdin="not this")
    assert model.asked[0]["messages"] == [
        {"role": "system", "content": "S"},
        *messages,
        {"role": "user", "content": "And?"},
    ]
    chat.write_text(json.dumps({"messages": messages[:1], "tools": [{"type": "other"}]}))
    ran = command_line("generate", "--messages", str(chat), "--tools", str(tools))
    assert model.asked[1]["messages"] == messages[:1]
    assert model.asked[1]["tools"] == schemas  # the option wins over the document
    assert ran.out == '{"name": "f", "arguments": {"a": 1}}\n'
    command_line("generate", "--messages", "-", stdin=chat.read_text())
    assert model.asked[2]["messages"] == messages[:1] and model.asked[2]["tools"] == [{"type": "other"}]


def test_a_mark_of_our_own_is_not_shown_to_the_model(script: Script, command_line: CommandLine, tmp_path: Path) -> None:
    chat = tmp_path / "chat.json"
    chat.write_text('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "H", "interrupted": true}]')
    model = script(HELLO)
    command_line("generate", "--messages", str(chat), "Go on")
    assert model.asked[0]["messages"][1] == {"role": "assistant", "content": "H"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((""), "the prompt is empty: write something"),
        (("--raw", " "), "the prompt is empty"),
        (("--system", "", "Hi"), "--system is empty"),
        (("--messages", "none.json"), "none.json: cannot be read"),
        (("--tools", "none.json", "Hi"), "none.json: cannot be read"),
        (("--raw", "--system", "S", "Hi"), "--raw continues plain text and has no use for --system"),
        (("--raw", "--thinking-budget", "3", "Hi"), "no use for --thinking-budget"),
        (("--max-tokens", "0", "Hi"), "must be at least 1, not 0 (see 'qwen3-mlx generate --help')"),
        (("--nonsense", "Hi"), "No such option '--nonsense'"),
        (("Hi", "there"), "Got unexpected extra argument (there)"),
        (("--messages", "-", "-"), "cannot be both"),
    ],
)
def test_mistakes_cost_one_line_and_no_loading(
    script: Script, command_line: CommandLine, args: tuple[str, ...] | str, says: str
) -> None:
    model = script(HELLO)
    ran = command_line("generate", *([args] if isinstance(args, str) else args), stdin="x")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and says in ran.err and ran.err.count("\n") == 1
    assert model.opened == []


def test_no_prompt_at_all(script: Script, command_line: CommandLine) -> None:
    script(HELLO)
    ran = command_line("generate")
    assert ran.status == 2 and "the prompt is empty" in ran.err


def test_a_system_message_given_twice(script: Script, command_line: CommandLine, tmp_path: Path) -> None:
    chat = tmp_path / "chat.json"
    chat.write_text('[{"role": "system", "content": "A"}, {"role": "user", "content": "Hi"}]')
    script(HELLO)
    ran = command_line("generate", "--messages", str(chat), "--system", "B")
    assert ran.status == 2 and "has a system message already: drop --system" in ran.err


def test_what_the_model_refuses(script: Script, command_line: CommandLine) -> None:
    model = script(Turn(refuses=ContextOverflow(9000, 8192)), Turn("Half", raises=EngineError("the device failed")))
    ran = command_line("generate", "--model", "demo", "Hi")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: the prompt is 9,000 tokens long") and ran.err.count("\n") == 1
    assert model.closed
    ran = command_line("generate", "--model", "demo", "Hi")
    assert (ran.status, ran.out, ran.err) == (1, "Half\n", "error: the device failed\n")


def test_json_prints_nothing_of_an_answer_that_failed(script: Script, command_line: CommandLine) -> None:
    script(Turn("Half", raises=EngineError("the device failed")))
    ran = command_line("generate", "--json", "--model", "demo", "Hi")
    assert (ran.status, ran.out) == (1, "")


def test_a_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, command_line: CommandLine) -> None:
    from qwen3_mlx.cli import model

    def load(options: object, once: bool) -> None:
        raise ModelNotFound("no model x:\nlook for another")

    monkeypatch.setattr(model, "load", load)
    ran = command_line("generate", "--model", "x", "Hi")
    assert (ran.status, ran.out, ran.err) == (2, "", "error: no model x: look for another\n")


def test_a_slow_load_says_so(monkeypatch: pytest.MonkeyPatch, script: Script, command_line: CommandLine) -> None:
    import time

    from qwen3_mlx.cli import model

    script(HELLO, HELLO)
    assert "loading" not in command_line("generate", "--model", "demo", "Hi").err
    quick = model.load
    monkeypatch.setattr(model, "STATUS_AFTER", 0.05)
    monkeypatch.setattr(model, "load", lambda options, once: (time.sleep(0.5), quick(options, once))[1])
    assert command_line("generate", "--model", "demo", "Hi").err.startswith("loading demo ...\n")


def test_the_collector_runs_again_once_the_model_is_there(script: Script, command_line: CommandLine) -> None:
    import gc

    script(HELLO)
    gc.disable()  # as `python -m qwen3_mlx.generate` starts
    try:
        command_line("generate", "Hi")
        assert gc.isenabled()
    finally:
        gc.enable()
