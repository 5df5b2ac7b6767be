"""The commands on the embedded checkpoint, as real processes; what it says is tested elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3_mlx.cli.demo import TURNS

from .terminal import CTRL_C, CTRL_D, Terminal

LONG = "How many e are in counterrevolutionaries and in nevertheless?"


def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen3_mlx.cli", *args],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


def test_demo_plays_three_turns() -> None:
    ran = run("demo", "--max-tokens", "400")
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.split("> ")[1:]
    for turn, part in zip(TURNS, (first, second, third), strict=True):
        assert part.startswith(turn + "\n") and len(part.strip()) > len(turn)
    assert ran.stderr.count("tok/s") == 3 and ran.stdout.splitlines()[-1].startswith("That was demo. Go on with")


def test_chat_keeps_its_history(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    script = f"Hello\n/budget 3\nHow many r are in strawberries?\n/no_think\nAnd e?\n/save {path}\n"
    ran = run("chat", "--model", "demo", "--seed", "1", stdin=script)
    assert ran.returncode == 0, ran.stderr
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"] * 3
    assert "".join(m["content"] + "\n" for m in saved["messages"][1::2]) == ran.stdout
    assert ran.stderr.count("thinking budget spent") == 1
    assert "reasoning_content" not in saved["messages"][5]
    again = run("generate", "--model", "demo", "--messages", str(path), "--json", "Thanks")
    assert again.returncode == 0, again.stderr
    longer = run("chat", "--model", "demo", "--context", "64", stdin=f"/load {path}\nMore?\n/clear\nHi\n")
    assert longer.returncode == 2 and "the context holds 64" in longer.stderr
    assert longer.stdout.strip() and longer.stderr.count("tok/s") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
def test_ctrl_c_in_chat_leaves_the_engine_ready() -> None:
    with Terminal("-m", "qwen3_mlx.cli", "chat", "--model", "demo", "--temp", "0") as terminal:
        terminal.wait_for("> ")
        for _ in range(4):
            terminal.type_line(LONG)
            terminal.wait_for("\x1b[2m")
            terminal.press(CTRL_C)
            terminal.wait_for("[stopped]", "/exit leaves")  # on a busy machine the answer may win a race or two
            terminal.wait_for("> ")
        assert "[stopped]" in terminal.text
        terminal.type_line("/clear")
        terminal.wait_for("> ")
        terminal.type_line("Hello /no_think")
        terminal.wait_for("tok/s")
        terminal.wait_for("> ")
        terminal.press(CTRL_D)
        assert terminal.wait_exit() == 0
        assert "Traceback" not in terminal.text
