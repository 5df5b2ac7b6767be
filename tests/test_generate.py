"""`python -m qwen3_mlx.generate` as users run it: a real process, the embedded checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx import hub

QUESTION = "How many r are in strawberries?"
# What costs more than a first token may. `asyncio` and `rich` are imported where they are used.
HEAVY = {
    "numpy",
    "rich",
    "huggingface_hub",
    "mlx_lm",
    "transformers",
    "torch",
    "asyncio",
    "requests",
    "importlib.metadata",
}


def generate(*args: str, stdin: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "qwen3_mlx.generate", *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        encoding="utf-8",
        cwd=cwd,
        timeout=120,
    )
    # A busy machine may take so long to load that a line says so.
    ran.stderr = "".join(line for line in ran.stderr.splitlines(keepends=True) if not line.startswith("loading "))
    return ran


def test_a_thought_and_an_answer() -> None:
    ran = generate("--temp", "0", QUESTION)
    assert ran.returncode == 0
    notice, *thought, gap, summary = ran.stderr.splitlines()
    assert "demo" in notice and "qwen3:0.6b" in notice
    assert len(thought) >= 1 and gap == ""
    assert summary.startswith("[") and "thinking" in summary and "tok/s" in summary
    assert ran.stdout.strip() and ran.stdout.endswith("\n") and "<think>" not in ran.stdout
    assert "\x1b" not in ran.stdout + ran.stderr


def test_the_prompt_may_be_piped_and_the_answer_is_the_same() -> None:
    given = generate("--model", "demo", "--temp", "0", QUESTION)
    piped = generate("--model", "demo", "--temp", "0", stdin=QUESTION + "\n")
    assert given.stdout == piped.stdout != ""


def test_json_tells_everything() -> None:
    ran = generate("--model", "demo", "--json", "--seed", "7", "--thinking-budget", "5", QUESTION)
    assert (ran.returncode, ran.stderr) == (0, "")
    value: dict[str, Any] = json.loads(ran.stdout)
    assert set(value) == {*("model", "content", "reasoning_content", "tool_calls", "finish_reason", "usage", "timings")}
    assert value["model"] == "demo" and value["usage"]["budget_exhausted"] and value["content"]
    assert value["timings"]["load_s"] > 0 and value["timings"]["ttft_s"] > 0
    again = json.loads(generate("--model", "demo", "--json", "--seed", "7", "--thinking-budget", "5", QUESTION).stdout)
    assert again["content"] == value["content"] and again["reasoning_content"] == value["reasoning_content"]


def test_no_thinking_and_hidden_thinking() -> None:
    off = json.loads(generate("--model", "demo", "--json", "--no-thinking", QUESTION).stdout)
    assert off["reasoning_content"] is None and off["usage"]["reasoning_tokens"] == 0
    hidden = generate("--model", "demo", "--temp", "0", "--hide-thinking", QUESTION)
    assert hidden.stderr.startswith("[") and hidden.stderr.count("\n") == 1 and hidden.stdout.strip()


def test_raw_text_goes_on() -> None:
    text = "Let me count the letter r in strawberries:\n1 s 0\n"
    ran = generate("--model", "demo", "--raw", "--temp", "0", "--max-tokens", "4", text)
    assert ran.returncode == 0 and ran.stdout.strip()
    assert ran.stderr.startswith("[4 tokens, ") and ran.stderr.endswith("cut short at the token limit]\n")


def test_nothing_heavy_is_imported_on_the_way_to_the_first_token() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qwen3_mlx.generate", "--model", "demo", "--max-tokens", "4", "Hi"],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    assert ran.returncode == 0
    imported = {line.rsplit("|", 1)[1].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "qwen3_mlx.api" in imported and "click" in imported
    assert imported & HEAVY == set()


def interrupted() -> tuple[int, bytes]:
    """Exit status and stderr of a command that gets Ctrl-C at the first byte of its thought."""
    question = "How many e are in counterrevolutionaries and in nevertheless?"
    process = subprocess.Popen(
        [sys.executable, "-m", "qwen3_mlx.generate", "--model", "demo", question],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    os.read(process.stderr.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_ctrl_c_ends_it_at_once() -> None:
    # On a busy machine the whole answer may come before the signal does.
    status, errors = next((run for _ in range(4) if (run := interrupted())[0] != 0), (0, b""))
    assert status == 130
    assert b"Traceback" not in errors and errors.endswith(b"\n") and b"tok/s" not in errors


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, to be damaged."""
    folder = tmp_path / "copy"
    shutil.copytree(hub.resolve("demo"), folder)
    return folder


def refused(ran: subprocess.CompletedProcess[str], *says: str) -> None:
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1, ran.stderr
    for text in says:
        assert text in ran.stderr, ran.stderr


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt(tmp_path: Path, prompt: str) -> None:
    refused(generate("--model", "demo", prompt), "the prompt is empty: write something")
    refused(generate("--model", "demo", stdin=prompt), "the prompt is empty: write something")
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"role": "user", "content": prompt}]))
    refused(generate("--model", "demo", "--messages", str(path)), "empty")


def test_a_prompt_longer_than_the_context() -> None:
    refused(generate("--model", "demo", stdin="word " * 20_000), "tokens long, but the context holds 8,192", "shorten")
    refused(generate("--model", "demo", "--context", "16", QUESTION + QUESTION), "the context holds 16")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--max-tokens", "0"), "'--max-tokens': must be at least 1"),
        (("--temp", "-0.5"), "'--temp': must be at least 0 (0 is greedy)"),
        (("--stop", ""), "'--stop': an empty stop string"),
        (("--top-k", "100000"), "top_k must be"),
    ],
)
def test_values_that_cannot_be(args: tuple[str, ...], says: str) -> None:
    refused(generate("--model", "demo", *args, QUESTION), says)


def test_an_unknown_model(tmp_path: Path) -> None:
    refused(generate("--model", "no-such-model", QUESTION, cwd=tmp_path), "no-such-model", "demo")


def test_a_folder_without_a_config(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "config.json").unlink()
    refused(generate("--model", str(checkpoint), QUESTION), str(checkpoint), "config.json")
    (tmp_path / "empty").mkdir()
    refused(generate("--model", str(tmp_path / "empty"), QUESTION), str(tmp_path / "empty"), "config.json")


def test_messages_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text('[{"role": "user",\n "content": "Hi"]')
    refused(generate("--model", "demo", "--messages", str(path)), f"{path}, line 2, column 17: not valid JSON")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
        {"role": "user"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "\ud800"},
    ],
)
def test_messages_that_cannot_be_answered(tmp_path: Path, message: dict[str, Any]) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([message]))
    refused(generate("--model", "demo", "--messages", str(path)), "messages[0]")


def test_a_template_that_raises(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ raise_exception('only on Sundays') }}")
    refused(generate("--model", str(checkpoint), QUESTION), "only on Sundays")


def test_a_template_that_never_ends(checkpoint: Path) -> None:
    loop = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    (checkpoint / "chat_template.jinja").write_text(loop)
    started = time.monotonic()
    refused(generate("--model", str(checkpoint), QUESTION), "template")
    assert time.monotonic() - started < 30


def test_a_damaged_checkpoint(checkpoint: Path) -> None:
    weights = next(checkpoint.glob("*.safetensors"))
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    refused(generate("--model", str(checkpoint), QUESTION), weights.name)
