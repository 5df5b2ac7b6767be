"""A thinking chat of ten turns: time to first token and tokens prefilled at each, against ``mlx_lm.server``.

    python -m benchmarks.turns [--turns 10] [--tokens 400] [--runs 3] [--model demo] [--float32]

Every answer, thought included, has exactly --tokens tokens: the end of an answer is forbidden, so what follows
its sense is babble (and the thought is sent back too, lest the template finds one in the babble). It is the template
that leaves it out. Between two turns there is a pause in which a user would read. The clock runs from the request to
the first token that arrives; theirs comes over HTTP on this machine, ours from the library. A turn
counts in a run if on both sides the answer before it has a thought and as much again as half of its tokens: else the
template leaves nothing out, or the babble never came out of its thought, and nothing is to be computed again.
--float32 stores the checkpoint in float32 for both sides (on a CPU mlx-lm must have it for a MoE).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import click

from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.control.collect import collect
from qwen3_mlx.errors import EngineError
from qwen3_mlx.text.tokenizer import Tokenizer

from .folders import in_float32
from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .runtimes import share
from .serving import served

FIRST = Quantity("time to first token", "ms", "turn")
COMPUTED = Quantity("tokens of the prompt that ours computes", "tokens", "turn", kind="counted")
WORDS = ["strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "pear", "letters", "apple"]


class Turn(NamedTuple):
    """What one turn took. ``computed``: tokens of its prompt that were not cached; unknown of the peer."""

    seconds: float
    content: str
    thought: str
    computed: int = 0

    @property
    def message(self) -> dict[str, str]:
        return {"role": "assistant", "content": self.content, "reasoning_content": self.thought}


def ours(q: Qwen3, messages: list[dict[str, Any]], params: SamplingParams) -> Turn:
    begun, first, events = time.perf_counter(), 0.0, []
    for event in q.stream(messages, params=params):
        first = first or time.perf_counter() - begun
        events.append(event)
    whole = collect(events)
    computed = whole.usage.prompt_tokens - whole.usage.cached_tokens
    return Turn(first, whole.content or "", whole.reasoning_content or "", computed)


def theirs(port: int, messages: list[dict[str, Any]], tokens: int, eos: list[int]) -> Turn:
    body = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    body["logit_bias"] = {str(token): -1e9 for token in eos}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    begun, first, text, thought = time.perf_counter(), 0.0, "", ""
    try:
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    delta = json.loads(line[6:])["choices"][0].get("delta", {})
                    if delta.get("content") or delta.get("reasoning"):
                        first = first or time.perf_counter() - begun
                    text, thought = text + (delta.get("content") or ""), thought + (delta.get("reasoning") or "")
    except (OSError, ValueError, LookupError) as error:
        raise EngineError(f"mlx_lm.server gave no answer that can be read: {error}") from None
    if not first:
        raise EngineError("mlx_lm.server answered without a token (a MoE on a CPU? add --float32)")
    return Turn(first, text, thought)


def comparable(
    runs: list[list[tuple[Turn, Turn]]], turn: int, least: int, tokenizer: Tokenizer
) -> list[tuple[Turn, Turn]]:
    """This turn of the runs in which both sides have something to leave out and something to compute again."""

    def complete(before: Turn) -> bool:
        return bool(before.thought) and len(tokenizer.encode(before.content)) >= least

    return [run[turn] for run in runs if turn == 0 or all(map(complete, run[turn - 1]))]


def chat(q: Qwen3, port: int, run: int, turns: int, tokens: int, pause: float) -> list[tuple[Turn, Turn]]:
    """One conversation, held with both sides in turns."""
    eos, seen = sorted(q.tokenizer.eos_ids), []
    params = SamplingParams(temperature=0, max_tokens=tokens, logit_bias={token: -1e9 for token in eos})
    chats: list[list[dict[str, Any]]] = [[], []]
    for turn in range(turns):
        question = {"role": "user", "content": f"How many r are in {WORDS[(turn + run) % 9]}? ({run})"}
        for messages in chats:
            messages.append(question)
        pair = ours(q, chats[0], params), theirs(port, chats[1], tokens, eos)
        seen.append(pair)
        for messages, one in zip(chats, pair, strict=True):
            messages.append(one.message)
        time.sleep(pause)
    return seen


@benchmark(runs=3)
@click.option("--turns", type=click.IntRange(1), default=10, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=400, show_default=True, help="Of every answer.")
@click.option("--pause", type=click.FloatRange(0), default=1.5, show_default=True, help="Seconds a user reads.")
@click.option("--float32", is_flag=True, help="The checkpoint in float32, for both sides.")
def main(bench: Bench, turns: int, tokens: int, pause: float, float32: bool) -> Iterator[Measured]:
    with ExitStack() as stack:
        folder, limit = bench.folder, stack.enter_context(share(2))
        if float32:
            folder = in_float32(folder, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        q = stack.enter_context(Qwen3.load(folder, memory_limit=limit))
        port, _ = stack.enter_context(served("mlx_lm.server", str(folder), ("--log-level", "ERROR")))
        chat(q, port, -1, 1, 8, 0.0)  # what the first request of all takes is no turn's
        seen = [chat(q, port, run, turns, tokens, pause) for run in range(bench.runs)]
        pairs = [comparable(seen, turn, tokens // 2, q.tokenizer) for turn in range(turns)]
    for turn, found in enumerate(pairs, start=1):
        if not found:
            print(f"  turn {turn} is left out: in no run has the answer before a thought and as much again", flush=True)
            continue
        sides = ([one[side].seconds * 1e3 for one in found] for side in (0, 1))
        yield FIRST.row(turn, dict(zip((OURS, "mlx-lm"), sides, strict=True)))
    for turn, found in enumerate(pairs, start=1):
        if found:
            yield COMPUTED.row(turn, {OURS: [one[0].computed for one in found]})


if __name__ == "__main__":
    sys.exit(main())
