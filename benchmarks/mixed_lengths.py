"""A long row beside short ones: what the cache takes, and how many short requests are let in. Bytes, not timings.

    python -m benchmarks.mixed_lengths [--long 16384] [--short 500] [--rows 8] [--gb 16]

Bytes are those of the cache's buffers after the rows have joined on the engine's runner and taken a step, with the
heads of Qwen3-8B in 2 layers, times 18. Requests are let in by the engine's own rule, for Qwen3-8B with weights of 4
bits, an answer of 1,024 tokens expected of each. ``one group``: all rows lie together, each with the capacity of the
longest, as they did before there were groups.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from qwen3_mlx.cache.prefix import PrefixCache
from qwen3_mlx.costs import Footprint, weight_bytes
from qwen3_mlx.engine import grouping
from qwen3_mlx.engine.memory import ANSWER, Memory, planned
from qwen3_mlx.engine.row import Clock, Row
from qwen3_mlx.kernels.stock import UNPACKED
from qwen3_mlx.packing import QuantSpec
from qwen3_mlx.released import RELEASED
from qwen3_mlx.types import Request

from . import admission
from .admission import CHUNK, GREEDY, Point, build, fill, step
from .sides import machine

CONFIG = RELEASED["qwen3:8b"]
LAYERS = 2
SIDES = {"one group": 1, "groups": grouping.GROUPS}


@contextmanager
def at_most(groups: int) -> Iterator[None]:
    grouping._counts.cache_clear()
    with mock.patch.object(grouping, "GROUPS", groups):
        yield
    grouping._counts.cache_clear()


def row(prompt: int) -> Row:
    one = Row(Request((1,) * prompt, GREEDY), mock.Mock(), print, Clock(0.0), tokens=[1] * prompt, feed=[1] * prompt)
    one.bound = CONFIG.max_position_embeddings
    return one


def cache_bytes(prompts: list[int], kv_bits: int | None) -> int:
    """Of a cache of all layers, in bf16 or packed."""
    box: list[int] = []

    def run() -> None:  # on a thread, as in the engine
        with mock.patch.dict(admission.MODELS["8B"], num_hidden_layers=LAYERS):
            runner = build(Point("8B", tuple(prompts), 1, str(kv_bits or "bf16")))
        memory, rows = Memory(runner.footprint, 1 << 50, CHUNK, runner.prefixes), list(map(row, prompts))
        for one in rows:
            runner.start(one)
            fill(runner, one, len(one.feed) - CHUNK)
            runner.prefill(one, CHUNK)
        runner.join(rows)
        step(runner, memory, rows)
        cache = runner._batch.cache
        assert cache is not None
        box.append(cache.nbytes * CONFIG.num_hidden_layers // LAYERS)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return box[0]


def let_in(long: int, short: int, gb: float, kv_bits: int | None) -> int:
    """How many short requests are let in beside a long one that runs."""
    footprint = Footprint(CONFIG, weight_bytes(CONFIG, spec=QuantSpec(4, 64)), kv_bits=kv_bits, unpacked=UNPACKED)
    memory = Memory(footprint, int(gb * 1e9), 512, PrefixCache(0), log=lambda _: None)
    held = [planned(row(long))]
    while len(held) < 1000 and memory.admits(row(short), held):
        held.append(planned(row(short)))
    return len(held) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", type=int, default=16_384, help="tokens of the long prompt")
    parser.add_argument("--short", type=int, default=500, help="tokens of each short one")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--gb", type=float, default=16)
    args = parser.parse_args()
    prompts = [args.long] + [args.short] * (args.rows - 1)
    print(f"Qwen3-8B, a prompt of {args.long:,} tokens and others of {args.short:,}, {ANSWER:,} more expected of each")
    print(f"  cache               GB of {args.rows} rows   let in beside the long one in {args.gb:g} GB")
    for kv_bits in (None, 8):
        for name, groups in SIDES.items():
            with at_most(groups):
                size, count = cache_bytes(prompts, kv_bits), let_in(args.long, args.short, args.gb, kv_bits)
            print(f"  {kv_bits or 'bf16':<8} {name:10} {size / 1e9:12.2f} {count:12}", flush=True)
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
