"""Whether memory stays flat over thousands of short requests, a tenth of them cancelled halfway.

    python -m benchmarks.soak [--requests 10000] [--model demo] [--rows 8] [--seed 0]

Mixed requests (prompts that share beginnings and prompts that do not, greedy and sampled, penalties, thinking budgets,
log-probabilities) run up to twice ``--rows`` at a time. After every twentieth part the engine comes to rest, and this
is printed: what MLX holds (active memory, the cache of prefixes apart, which may have 8 MB; and buffers kept for
later), the process's resident memory, and how many objects Python's collector knows. Growth is told from the five
samples after the warm-up, a fifth of all requests, to the last five.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import random
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from qwen3_mlx import Finished, Qwen3, SamplingParams
from qwen3_mlx.engine.streams import EventStream

from .sides import machine

PARTS, WARM, MEAN = 20, 4, 5
WORDS = ("strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "pear", "incomprehensible")


class Sample(NamedTuple):
    """Bytes, and a number of objects."""

    active: int
    prefixes: int
    kept: int
    resident: int
    objects: int


def resident() -> int:
    """Bytes of memory that this process has now; the most it ever had where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def ask(q: Qwen3, rng: random.Random) -> EventStream:
    text = f"How many {rng.choice('abersp')} are in {rng.choice(WORDS)}?"
    if rng.random() < 0.5:
        text = f"What is {rng.randint(10, 99999)} + {rng.randint(10, 99999)}?"
    thinking = rng.random() < 0.6
    params = SamplingParams(
        temperature=rng.choice([0, 0.6, 1.0]),
        top_k=rng.choice([0, 20]),
        presence_penalty=rng.choice([0, 0, 0.5]),
        logprobs=rng.choice([None, None, 2]),
        seed=rng.randrange(1000),
        max_tokens=rng.randint(1, 40),
    )
    return q.stream(text, thinking, rng.choice([None, 0, 5]) if thinking else None, params=params)


def play(q: Qwen3, count: int, at_once: int, rng: random.Random) -> tuple[int, int]:
    """Run requests to their end; returns how many were cancelled, and the tokens of the others."""
    running: list[EventStream] = []
    cancelled = tokens = 0
    while count or running:
        while count and len(running) < at_once:
            running.append(ask(q, rng))
            count -= 1
        stream = running.pop(0)
        if rng.random() < 0.1:
            next(stream)
            stream.close()
            cancelled += 1
            continue
        for event in stream:
            if isinstance(event, Finished):
                tokens += event.usage.completion_tokens
    return cancelled, tokens


def sample(q: Qwen3) -> Sample:
    gc.collect()
    if sys.platform == "linux":  # what malloc keeps for later comes and goes by megabytes, and is no growth
        ctypes.CDLL(None).malloc_trim(0)
    prefixes = q._prefixes.nbytes
    return Sample(mx.get_active_memory() - prefixes, prefixes, mx.get_cache_memory(), resident(), len(gc.get_objects()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng, seen = random.Random(args.seed), []
    begun, done, cancelled, tokens = time.perf_counter(), 0, 0, 0
    print("  requests   active MB prefixes MB     kept MB resident MB   objects")
    with Qwen3.load(args.model, max_batch=args.rows, prefix_cache_bytes=8 << 20) as q:
        for part in range(PARTS):
            count = args.requests * (part + 1) // PARTS - done
            gone, drawn = play(q, count, 2 * args.rows, rng)
            done, cancelled, tokens = done + count, cancelled + gone, tokens + drawn
            q.generate("Hi", thinking=False, params=SamplingParams(temperature=0, max_tokens=1))  # those left are swept
            seen.append(now := sample(q))
            megabytes = " ".join(f"{value / 1e6:11.2f}" for value in now[:4])
            print(f"  {done:8} {megabytes} {now.objects:9}", flush=True)
    print(f"  {cancelled} cancelled, {tokens} tokens of the others, {time.perf_counter() - begun:.0f} s")
    for name in ("active", "resident", "objects"):
        values = [getattr(one, name) for one in seen]
        before, after = statistics.mean(values[WARM : WARM + MEAN]), statistics.mean(values[-MEAN:])
        print(
            f"  {name:9} {100 * (after / before - 1):+.2f} % in the mean of the last {MEAN} samples against that of",
            end="",
        )
        print(f" the {MEAN} after warm-up; most {100 * (max(values[WARM:]) / before - 1):+.2f} %")
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
