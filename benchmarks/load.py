"""Loading a checkpoint, tokenizer and template included: ours against the peers, everything imported already.

    python -m benchmarks.load [--runs 10] [--model demo]

The files were read before, so that the system has them in memory. What an import and a first token take besides is in
``cold_start``.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from qwen3_mlx.text.tokenizer import Tokenizer

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .runtimes import SAMPLE, LlamaCpp
from .sides import interleave

CONTEXT = 512  # tokens that llama.cpp has room for: its default
LOAD = Quantity("load", "ms", "checkpoint")


@benchmark(runs=10, peers=("mlx-lm", "llama.cpp"))
def main(bench: Bench) -> Iterator[Measured]:
    folder, gguf, sides = bench.folder, bench.gguf, {OURS: timed(partial(ours, bench.folder))}
    for peer in bench.peers:
        if peer.gguf and gguf:
            known = Tokenizer.from_folder(folder).encode(SAMPLE)
            sides[peer.name] = timed(partial(LlamaCpp, gguf, CONTEXT, known, SAMPLE))
        else:
            sides[peer.name] = timed(partial(mlx_lm, folder))
    yield LOAD.row(bench.model, interleave(sides, bench.runs))


def timed(load: Callable[[], object]) -> Callable[[], float]:
    """Milliseconds of ``load``; what it loaded is given up after the clock has stopped."""

    def measure() -> float:
        import mlx.core as mx

        begun = time.perf_counter()
        loaded = load()
        spent = time.perf_counter() - begun
        if hasattr(loaded, "close"):
            loaded.close()
        del loaded
        gc.collect()
        mx.clear_cache()
        return spent * 1e3

    return measure


def ours(folder: Path) -> object:
    from qwen3_mlx import Qwen3

    return Qwen3.load(folder)


def mlx_lm(folder: Path) -> object:
    from mlx_lm import load

    return load(str(folder))


if __name__ == "__main__":
    sys.exit(main())
