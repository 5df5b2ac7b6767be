"""Why a prompt was not in the cache, told of real prompts of the embedded checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.hub import resolve
from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.explain import explain
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.types import CacheReport

FOLDER = resolve("demo")
TOKENIZER, TEMPLATE = Tokenizer.from_folder(FOLDER), ChatTemplate.from_folder(FOLDER)


def tool(name: str, about: str = "tells it") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": about, "parameters": {"type": "object"}}}


def chat(*turns: str, system: str | None = "Be kind.", thought: str | None = None) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    messages: list[dict[str, Any]] = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return ([{"role": "system", "content": system}] if system else []) + messages


def encode(messages: list[dict[str, Any]], tools: Any = None, thinking: bool = True) -> list[int]:
    return TEMPLATE.encode(messages, tools=tools, thinking=thinking, tokenizer=TOKENIZER)


def compare(stored: list[int], asked: list[int]) -> CacheReport:
    cached = next(
        (i for i, (a, b) in enumerate(zip(stored, asked, strict=False)) if a != b), min(len(stored), len(asked))
    )
    return explain(asked, cached, stored[cached:], TOKENIZER)


FIVE = chat("a", "b", "c", "d", "e")
HELLO = encode(chat("Hello"))
A, B, C = tool("alpha"), tool("beta"), tool("gamma")


@pytest.mark.parametrize(
    ("stored", "asked", "reason"),
    [
        ([], HELLO, "nothing is stored"),
        (HELLO, HELLO, "the whole prompt is stored"),
        (HELLO, encode([*chat("Hello", "Hi", "More")]), "all that is stored is used, and new text follows"),
        (HELLO, encode(chat("Hello", system="Be rude.")), "the system text changed"),
        (HELLO, encode(chat("Help")), "the first message of the user changed"),
        (
            encode(FIVE),
            encode(chat("a", "b", "x", "d", "e")),
            "an earlier message of the user changed",
        ),
        (encode(FIVE), encode(chat("a", "b", "c", "x", "e")), "an earlier answer changed"),
        (HELLO, encode(chat("Hello", system=None)), "an earlier message was added, removed or given another role"),
        (encode(chat("a"), [A, B]), encode(chat("a"), [B, A]), "the tools were reordered"),
        (encode(chat("a"), [A, B]), encode(chat("a"), [A]), "the tools changed: 1 removed (beta)"),
        (encode(chat("a"), [A, B]), encode(chat("a"), [A, B, C]), "the tools changed: 1 added (gamma)"),
        (encode(chat("a"), [A, B]), encode(chat("a"), [A, tool("beta", "x")]), "the tools changed: the schema of beta"),
        (
            encode(chat("a")) + TOKENIZER.encode("<think>\nWell, so"),
            encode(chat("a"), thinking=False),
            "thinking was turned on or off",
        ),
        (
            encode(chat("a")) + TOKENIZER.encode("<think>\nWell.\n</think>\n\nYes.<|im_end|>\n"),
            encode(chat("a", "Yes.", "And b?")),
            "the thought of an earlier answer was removed",
        ),
    ],
)
def test_reasons(stored: list[int], asked: list[int], reason: str) -> None:
    report = compare(stored, asked)
    assert reason in report.reason
    assert report.prompt_tokens == len(asked)
    if report.diverges_at is not None:
        assert report.diverges_at == report.cached_tokens
        assert stored[report.diverges_at] != asked[report.diverges_at]
        assert report.stored and report.asked and report.stored != report.asked


def test_texts_are_cut_short() -> None:
    report = compare(HELLO, encode(chat("Hello", system="x" * 5000)))
    assert 0 < len(report.asked) < 300
