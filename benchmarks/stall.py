"""The longest time between two tokens of a running stream while long prompts arrive, against the bound that is set.

    python -m benchmarks.stall [--model demo] [--layers N] [--prompts 3] [--length 8000] [--stall 0.25]

One answer is streamed that cannot end by itself, while prompts of ``--length`` random letters come one after the other.
Where that is beyond the model's context, a copy of its folder that allows more is loaded: what it says there means
nothing, how long it takes does. Reported: the gaps between the stream's tokens alone, and while others are being
prefilled with the bound and without it (``stall`` of an hour: full chunks; not with ``--bounded-only``); and how fast
the prompts went. Gaps are told as they passed, and as what this process computed in them, on both of its threads: on a
machine that others use too, no forecast knows when they take the processor away. Attention over 32,000 tokens takes a
CPU minutes a layer: ``--layers 1`` leaves the others out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from qwen3_mlx import Finished, Qwen3, SamplingParams, TextDelta, hub

from .folders import adapted, first_layers, prompt
from .sides import machine

ROOM = 8192  # tokens that the stream may come to, and more than enough for an answer


class Gap(NamedTuple):
    """Seconds between two tokens: as they passed, and what this process computed in them."""

    wall: float
    own: float


def gaps(q: Qwen3, prompts: list[list[int]]) -> tuple[list[Gap], list[Gap], float]:
    """Between tokens of a stream before and while ``prompts`` are prefilled, and the seconds that these took."""
    endless = SamplingParams(temperature=1.0, seed=1, logit_bias={i: -100.0 for i in q.tokenizer.eos_ids})
    alone: list[Gap] = []
    busy: list[Gap] = []
    took: list[float] = []
    over, working = threading.Event(), threading.Event()

    def others() -> None:
        working.set()
        begun = time.perf_counter()
        for ids in prompts:
            for event in q.stream_raw(ids, params=SamplingParams(temperature=0, max_tokens=1)):
                assert event
        took.append(time.perf_counter() - begun)
        working.clear()
        over.set()

    thread, last = threading.Thread(target=others), Gap(0.0, 0.0)
    with q.stream_raw("One ", params=endless) as stream:
        for index, event in enumerate(stream):
            assert not isinstance(event, Finished), "the stream was to outlast the prompts: take fewer or shorter ones"
            if over.is_set():
                break
            if index == 100:
                thread.start()
            if isinstance(event, TextDelta):
                now = Gap(time.perf_counter(), time.process_time())
                if index > 5:
                    gap = Gap(now.wall - last.wall, now.own - last.own)
                    (busy if working.is_set() else alone).append(gap)
                last = now
    thread.join()
    return alone, busy, took[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--layers", type=int, help="run this many of the model's layers only")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--stall", type=float, default=0.25)
    parser.add_argument("--bounded-only", action="store_true")
    args = parser.parse_args()
    for bound in (args.stall,) if args.bounded_only else (args.stall, 3600.0):
        with tempfile.TemporaryDirectory() as scratch:
            folder = hub.resolve(args.model)
            if args.layers:
                folder = first_layers(folder, Path(scratch) / "layers", args.layers)
            folder = adapted(folder, Path(scratch) / "long", context=args.length + ROOM)
            with Qwen3.load(folder, stall=bound, prefix_cache_bytes=0) as q:
                prompts = [prompt(q.tokenizer, args.length, seed) for seed in range(args.prompts)]
                alone, busy, took = gaps(q, prompts)
        print(f"bound {bound:g} s: {args.prompts} prompts of {args.length} tokens in {took:.1f} s", end="")
        print(f" ({args.prompts * args.length / took:,.0f} tokens/s)")
        for name, seen in (("alone", alone), ("beside them", busy)):
            for kind, values in (("wall", [g.wall for g in seen]), ("own CPU", [g.own for g in seen])):
                values.sort()
                median, most = statistics.median(values), values[len(values) * 99 // 100]
                print(f"  {name:12} {kind:8} {len(values):6} gaps, median {1e3 * median:7.1f} ms,", end="")
                print(f" 99 % {1e3 * most:7.1f} ms, longest {1e3 * values[-1]:7.1f} ms,", end="")
                print(f" over the bound {sum(value > bound for value in values)}", flush=True)
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
