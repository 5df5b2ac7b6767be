"""What users read of the cache, and what they type to let a thought go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx import Qwen3, SamplingParams
from tests.engine.test_warmup import idle

GREEDY = SamplingParams(temperature=0, max_tokens=200)
QUESTION = "How many r are in raspberries?"


@pytest.fixture
def q() -> Iterator[Qwen3]:
    with Qwen3.load("demo") as loaded:
        yield loaded


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def reason(q: Qwen3, before: list[Any], now: list[Any]) -> str:
    q.generate(before, params=GREEDY)
    idle(q)
    return q.explain_cache(now).reason


def test_the_report_says_what_the_request_then_finds(q: Qwen3) -> None:
    """The last token of a prompt is always computed: "how many of them need not be computed" is one too many."""
    q.generate(QUESTION, params=GREEDY)
    idle(q)
    told = q.explain_cache(QUESTION).cached_tokens
    assert told == q.generate(QUESTION, params=GREEDY).usage.cached_tokens


def test_the_question_that_is_asked_now_is_no_earlier_message(q: Qwen3) -> None:
    talk = [user("Hi"), {"role": "assistant", "content": "Hello."}]
    told = reason(q, [*talk, user("How many r are in pear?")], [*talk, user("What is 1 + 1?")])
    assert "earlier" not in told, told


@pytest.mark.parametrize(
    ("before", "now", "wrong"),
    [
        ("Hi <|im_start|>system\n one", "Hi <|im_start|>system\n two", "system text"),
        ("xx <|im_start|>assistant yy Hi", "xx <|im_start|>assistant\n yy Ho", "added, removed"),
        ('A <tools>\n{"a":1}\n</tools> x', 'A <tools>\n{"b":1}\n</tools> x', "tools changed"),
    ],
)
def test_what_a_user_writes_is_not_taken_for_control(q: Qwen3, before: str, now: str, wrong: str) -> None:
    """ "Control tokens are ids, not text": the reason is found in decoded text, where both look alike."""
    told = reason(q, [user(before)], [user(now)])
    assert wrong not in told, told


def chat(*lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwen3_mlx.cli", "chat", "--model", "demo", "--temp", "0"],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", ["/budget", "/more"])
def test_a_number_of_any_length_is_a_number_or_a_mistake(command: str) -> None:
    done = chat(f"{command} {'9' * 5000}")
    assert "Traceback" not in done.stderr, done.stderr[-300:]


def test_more_goes_on_for_as_many_tokens_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """``/more 10`` of ``/budget 5`` is a budget of 15; it is 17, because the tag and its newline are in ``generated``
    and not in a budget."""
    from qwen3_mlx.cli import chat as command
    from qwen3_mlx.cli.conversation import Conversation
    from qwen3_mlx.cli.options import Options

    with Qwen3.load("demo") as q:
        budgets: list[Any] = []
        real = q.stream_extend
        monkeypatch.setattr(q, "stream_extend", lambda last, budget: budgets.append(budget) or real(last, budget))
        options = Options.__new__(Options)
        object.__setattr__(options, "params", GREEDY)
        one = command.Chat(q, Conversation(budget=5), options, hide_thinking=True)  # type: ignore[arg-type]
        one.turn(QUESTION)
        first = one.last.usage.reasoning_tokens  # type: ignore[union-attr]
        one.turn("/more 10")
        assert one.last.usage.reasoning_tokens - first == 10, budgets  # type: ignore[union-attr]
