"""What happens in a real terminal: colours, Ctrl-C, live Markdown, UTF-8; with a scripted model in a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .terminal import CTRL_C, CTRL_D, ROOT, Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
SLOW = json.dumps([{"thinking": "well then", "text": "one two three four five six seven eight nine", "delay": 0.1}])


def program(*args: str) -> tuple[str, ...]:
    return ("-m", "tests.cli.scripted", *args)


def test_generate_dims_the_thinking_only() -> None:
    script = json.dumps([{"thinking": "嗯，让我想想", "text": "答案：三 🍓"}])
    with Terminal(*program("generate", "--model", "demo", "数一数"), SCRIPT=script) as terminal:
        assert terminal.wait_exit() == 0
        plain = terminal.text.replace("\x1b[0m\x1b[2m", "")
        assert plain.startswith("\x1b[2m嗯，让我想想\x1b[0m\r\n\r\n答案：三 🍓\r\n\x1b[2m[")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_none_are_wanted(env: dict[str, str]) -> None:
    script = json.dumps([{"thinking": "hm", "text": "yes"}])
    for command in ("generate", "demo"):
        args = ("Hi",) if command == "generate" else ()
        with Terminal(*program(command, "--model", "demo", *args), SCRIPT=script, **env) as terminal:
            assert terminal.wait_exit() == 0
            assert "\x1b" not in terminal.text and "hm\r\n\r\nyes\r\n" in terminal.text


def test_ctrl_c_leaves_the_partial_answer_and_a_clean_terminal(tmp_path: Path) -> None:
    with Terminal(*program("generate", "Hi"), SCRIPT=SLOW) as terminal:
        terminal.wait_for("one two")
        terminal.press(CTRL_C)
        assert terminal.wait_exit() == 130
        assert "Traceback" not in terminal.text and terminal.text.endswith("\r\n")
        assert terminal.text.count("\x1b[2m") == terminal.text.count("\x1b[0m")
    with (
        open(tmp_path / "out", "w+") as out,
        Terminal(*program("generate", "Hi"), SCRIPT=SLOW, stdout=out.fileno()) as t,
    ):
        t.wait_for("hen")
        t.wait_for("\r\n\r\n")
        t.press(CTRL_C)
        assert t.wait_exit() == 130
        out.seek(0)
        assert "one two three four five".startswith(out.read().rstrip("\n"))


def test_ctrl_c_while_thinking_resets_the_colour() -> None:
    with Terminal(*program("generate", "Hi"), SCRIPT=SLOW) as terminal:
        terminal.wait_for("we")
        terminal.press(CTRL_C)
        assert terminal.wait_exit() == 130
        assert terminal.text.count("\x1b[2m") == terminal.text.count("\x1b[0m")


def test_chat_live_markdown_and_interruption(tmp_path: Path) -> None:
    turns = [
        {"thinking": "hm", "text": "# Title\n\nSome **bold** 粗体 and `code`.\n\n- 一\n- two\n", "delay": 0.02},
        {"text": "one two three four five six seven eight", "delay": 0.1},
        {"text": "after"},
    ]
    path = tmp_path / "chat.json"
    with Terminal(*program("chat", "--model", "demo"), SCRIPT=json.dumps(turns)) as terminal:
        terminal.wait_for("> ")
        terminal.type_line("写点什么")
        terminal.wait_for("\x1b[2mhm\x1b[0m\r\n\r\n")
        terminal.wait_for("\x1b[1mbold\x1b[0m 粗体")
        terminal.wait_for("• \x1b[0m一")
        terminal.wait_for("tok/s")
        terminal.wait_for("> ")
        terminal.type_line("again")
        terminal.wait_for("two")
        terminal.press(CTRL_C)
        terminal.wait_for("[stopped]")
        terminal.wait_for("> ")
        terminal.press("half a line")
        terminal.wait_for("half a line")
        # input() overlooks a signal that comes while it is not waiting for keys.
        terminal.press_until(CTRL_C, "Ctrl-D or /exit leaves")
        terminal.wait_for("> ")
        terminal.type_line("two\\")
        terminal.wait_for(". ")
        terminal.type_line("lines")
        terminal.wait_for("after")
        terminal.wait_for("> ")
        terminal.type_line(f"/save {path}")
        terminal.wait_for("saved 6 messages")
        terminal.wait_for("> ")
        terminal.press(CTRL_D)
        assert terminal.wait_exit() == 0
        assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h")  # the cursor is back
    messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
    assert messages[0]["content"] == "写点什么"
    assert messages[3]["interrupted"] and "one two three four five six seven eight".startswith(messages[3]["content"])
    assert messages[4]["content"] == "two\nlines" and messages[5] == {"role": "assistant", "content": "after"}


def test_chat_recalls_earlier_lines() -> None:
    pytest.importorskip("readline", reason="this Python was built without readline")
    with Terminal(*program("chat", "--model", "demo"), SCRIPT=json.dumps([{"text": "a"}, {"text": "b"}])) as terminal:
        terminal.wait_for("> ")
        terminal.type_line("/budget 12")
        terminal.wait_for("thinking budget: 12 tokens")
        terminal.wait_for("> ")
        terminal.type_line("\x1b[A\x7f3")  # arrow up, backspace
        terminal.wait_for("thinking budget: 13 tokens")
        terminal.wait_for("> ")
        terminal.press(CTRL_D)
        assert terminal.wait_exit() == 0


def test_chat_with_answers_in_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w+") as out:
        with Terminal(*program("chat"), SCRIPT='[{"text": "**plain**"}]', stdout=out.fileno()) as terminal:
            terminal.wait_for("> ")
            terminal.type_line("Hi")
            terminal.wait_for("tok/s")
            terminal.wait_for("> ")
            terminal.press(CTRL_D)
            assert terminal.wait_exit() == 0
        out.seek(0)
        assert out.read() == "**plain**\n"


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    script = json.dumps([{"text": "line\n" * 2000}])
    process = subprocess.Popen(
        [sys.executable, *program("generate", "--model", "demo", "Hi")],
        cwd=ROOT,
        env={"SCRIPT": script, "PATH": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(5)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_answers_are_utf8_whatever_the_locale() -> None:
    env = {"SCRIPT": json.dumps([{"text": "三 🍓"}]), "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0", "LC_ALL": "C"}
    ran = subprocess.run(
        [sys.executable, *program("generate", "--model", "demo")],
        cwd=ROOT,
        env=env,
        input="几".encode(),
        capture_output=True,
    )
    assert (ran.returncode, ran.stdout) == (0, "三 🍓\n".encode())
