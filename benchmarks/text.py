"""From messages to token ids: template and tokenizer, against transformers' ``apply_chat_template`` on the same files.

    python -m benchmarks.text [--kilobytes 60] [--runs 30] [--model NAME]

An agent's prompts: a system text, schemas of tools, and a conversation with calls and results, code and markup among
them. Every round has a prompt of its own that no side has seen before, the same for both; ``next turn``: both have just
had the conversation without its last call. Both sides give the same ids, or nothing is measured. Without --model it is
the vocabulary of the released models, with the template of ``demo``, which renders what theirs renders.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from qwen3_mlx import hub
from qwen3_mlx.errors import QwenError
from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

from .agent_prompt import agent_prompt, next_turn
from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

REAL = "the released models' vocabulary"
PEER = "transformers"
NEXT = "both, next turn"
TEXT = Quantity("an agent's prompt", "ms", "step")


class Differs(QwenError):
    """Two sides that do not do the same."""


class Prompt(NamedTuple):
    """``before``: what of the messages a side has had already, if anything; ``text``: the rendered prompt."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    text: str
    before: Prompt | None = None


Step = Callable[[Prompt], Any]


@benchmark(runs=30, peers=(PEER,), model=REAL)
@click.option("--kilobytes", type=click.IntRange(1), default=60, show_default=True, help="Of messages and schemas.")
def main(bench: Bench, kilobytes: int) -> Iterator[Measured]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = released(Path(scratch)) if bench.model == REAL else bench.folder
        mine, theirs = ours(folder), transformers(folder)
        for place, step in enumerate((*mine, NEXT)):
            work = [side["both" if step == NEXT else step] for side in (mine, theirs)]
            seeds = range(1000 * place, 1000 * place + bench.runs + 1)
            prompts = [made(mine["template"], kilobytes * 1000, seed, step == NEXT) for seed in seeds]
            if (checked := [one(prompts[0]) for one in work])[0] != checked[1]:
                raise Differs(f"{step}: {OURS} and {PEER} do not give the same, so their times say nothing")
            sides = {name: timed(one, prompts) for name, one in zip((OURS, PEER), work, strict=True)}
            yield TEXT.row(step, interleave(sides, bench.runs))


def made(render: Step, size: int, seed: int, further: bool) -> Prompt:
    """A prompt; one turn ``further`` than one that was asked before."""
    messages, tools = agent_prompt(size, seed)
    first = Prompt(messages, tools, "")
    first = first._replace(text=render(first))
    return Prompt(next_turn(messages, seed), tools, "", before=first) if further else first


def ours(folder: Path) -> dict[str, Step]:
    """By step."""
    tokenizer, template = Tokenizer.from_folder(folder), ChatTemplate.from_folder(folder)
    return {
        "template": lambda prompt: template.render(prompt.messages, tools=prompt.tools),
        "tokenizer": lambda prompt: tokenizer.encode(prompt.text),
        "both": lambda prompt: template.encode(prompt.messages, tools=prompt.tools, tokenizer=tokenizer),
    }


def transformers(folder: Path) -> dict[str, Step]:
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it misses PyTorch, which is not needed here
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def apply(prompt: Prompt, **options: Any) -> Any:
        asked = {"tools": prompt.tools, "add_generation_prompt": True, **options}
        return tokenizer.apply_chat_template(prompt.messages, **asked)

    return {
        "template": lambda prompt: apply(prompt, tokenize=False),
        "tokenizer": lambda prompt: tokenizer(prompt.text, add_special_tokens=False)["input_ids"],
        "both": lambda prompt: apply(prompt, return_dict=False),
    }


def timed(work: Step, prompts: Sequence[Prompt]) -> Callable[[], float]:
    """Milliseconds for one prompt after the other."""
    following = iter(prompts)

    def measure() -> float:
        prompt = next(following)
        if prompt.before is not None:
            work(prompt.before)
        begun = time.perf_counter()
        work(prompt)
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
