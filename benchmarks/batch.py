"""Tokens per second of several streams at once: our engine against mlx-lm's ``BatchGenerator`` on the same folder.

    python -m benchmarks.batch [--streams 1,2,4,8,16,32] [--runs 3] [--model demo] [--peer-float32]

Twice as many requests as there are streams come all at once and are greedy; the clock runs from the first to the last
token of all, prompts included, none of which is cached. Our side ends with typed events (text, thoughts, usage),
mlx-lm's with token ids. mlx-lm runs the checkpoint in the precision it is stored in, ours in float32 on a CPU:
--peer-float32 gives mlx-lm the same (on a CPU it must have it for a MoE).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import click

from qwen3_mlx import Finished, Qwen3, SamplingParams

from .frame import Bench, Numbers, benchmark
from .results import OURS, Measured, Quantity
from .runtimes import MlxLm, share
from .sides import interleave

WORDS = ("strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "incomprehensibilities", "pear")
PREFILL_BATCH = 8  # prompts at a time: mlx-lm's default, which raises the number of streams to it
BATCH = Quantity("all streams together", "tokens/s", "streams", more_is_better=True)


@benchmark(runs=3)
@click.option("--streams", type=Numbers(1), default="1,2,4,8,16,32", show_default=True, help="Requests at a time.")
@click.option("--tokens", type=click.IntRange(2), default=200, show_default=True, help="The most of an answer.")
@click.option("--peer-float32", is_flag=True, help="mlx-lm in float32.")
def main(bench: Bench, streams: tuple[int, ...], tokens: int, peer_float32: bool) -> Iterator[Measured]:
    folder, peer = bench.folder, None
    with share(2) as limit:
        for count in streams:
            asked = questions(2 * count)
            # Ours comes first: where there is no room, it is refused before anything is loaded.
            with Qwen3.load(folder, max_batch=count, memory_limit=limit, prefix_cache_bytes=0) as q:
                peer = peer or MlxLm(folder, peer_float32)
                prompts = [q.encode(question) for question in asked]
                sides = {
                    OURS: partial(ours, q, asked, tokens),
                    peer.name: partial(theirs, peer, count, prompts, tokens),
                }
                yield BATCH.row(count, interleave(sides, bench.runs))


def questions(count: int) -> list[str]:
    """So many, no two alike."""
    return [f"How many {'rasben'[i % 6]} are in {WORDS[i // 6 % len(WORDS)]}? ({i // 48})" for i in range(count)]


def ours(q: Qwen3, asked: Sequence[str], tokens: int) -> float:
    """Tokens per second."""
    begun, params = time.perf_counter(), SamplingParams(temperature=0, max_tokens=tokens)
    streams = [q.stream(question, params=params) for question in asked]
    ends = [next(event for event in stream if isinstance(event, Finished)) for stream in streams]
    return sum(end.usage.completion_tokens for end in ends) / (time.perf_counter() - begun)


def theirs(peer: MlxLm, streams: int, prompts: Sequence[list[int]], tokens: int) -> float:
    """Tokens per second."""
    from mlx_lm.generate import BatchGenerator

    begun, count = time.perf_counter(), 0
    stop = [[token] for token in peer.tokenizer.eos_token_ids]
    batch = {"completion_batch_size": streams, "prefill_batch_size": min(streams, PREFILL_BATCH)}
    generator = BatchGenerator(peer.model, stop_tokens=stop, **batch)
    generator.insert(list(map(list, prompts)), [tokens] * len(prompts))
    while responses := generator.next_generated():
        count += len(responses)
    generator.close()
    return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(main())
