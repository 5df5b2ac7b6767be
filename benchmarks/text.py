"""From messages to token ids: template and tokenizer, against transformers' ``apply_chat_template`` on the same files.

    python -m benchmarks.text [--kilobytes 60] [--runs 30] [--model NAME]

An agent's prompt: a system text, schemas of tools, and a conversation with calls and results, code and markup among
them. Both sides give the same ids, or nothing is measured. Without --model it is the vocabulary of the released models,
with the template of ``demo``, which renders what theirs renders.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from qwen3_mlx import hub
from qwen3_mlx.errors import QwenError
from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

from .agent_prompt import agent_prompt
from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

REAL = "the released models' vocabulary"
PEER = "transformers"
TEXT = Quantity("an agent's prompt", "ms", "step")


class Differs(QwenError):
    """Two sides that do not do the same."""


@benchmark(runs=30, peers=(PEER,), model=REAL)
@click.option("--kilobytes", type=click.IntRange(1), default=60, show_default=True, help="Of messages and schemas.")
def main(bench: Bench, kilobytes: int) -> Iterator[Measured]:
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it misses PyTorch, which is not needed here
    from transformers import AutoTokenizer

    messages, tools = agent_prompt(kilobytes * 1000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = released(Path(scratch)) if bench.model == REAL else bench.folder
        tokenizer, template = Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder)
        theirs = AutoTokenizer.from_pretrained(str(folder))
        text = template.render(messages, tools=tools)
        asked = {"tools": tools, "add_generation_prompt": True}
        steps: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "template": (
                partial(template.render, messages, tools=tools),
                partial(theirs.apply_chat_template, messages, tokenize=False, **asked),
            ),
            "tokenizer": (
                partial(tokenizer.encode, text),
                lambda: theirs(text, add_special_tokens=False)["input_ids"],
            ),
            "both": (
                partial(template.encode, messages, tools=tools, tokenizer=tokenizer),
                lambda: theirs.apply_chat_template(messages, return_dict=False, **asked),
            ),
        }
        for step, (mine, other) in steps.items():
            if mine() != other():
                raise Differs(f"{step}: {OURS} and {PEER} do not give the same, so their times say nothing")
            yield TEXT.row(step, interleave({OURS: timed(mine), PEER: timed(other)}, bench.runs))


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """Milliseconds."""

    def measure() -> float:
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) * 1e3

    return measure


def released(into: Path) -> Path:
    """A folder with the released models' vocabulary and a template."""
    from tests.text.real_tokenizer import real_folder

    shutil.copytree(real_folder(), into / "text")
    shutil.copy(hub.resolve("demo") / "chat_template.jinja", into / "text")
    return into / "text"


if __name__ == "__main__":
    sys.exit(main())
