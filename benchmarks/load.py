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
from pathlib import Path

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

LOAD = Quantity("load", "ms", "checkpoint")


@benchmark(runs=10, peers=("mlx-lm", "llama.cpp"))
def main(bench: Bench) -> Iterator[Measured]:
    sides = {OURS: timed(ours, bench.folder)}
    for peer in bench.peers:
        sides[peer.name] = timed(llama_cpp, bench.gguf) if peer.gguf else timed(mlx_lm, bench.folder)
    yield LOAD.row(bench.model, interleave(sides, bench.runs))


def timed(load: Callable[[Path], object], path: Path | None) -> Callable[[], float]:
    """Milliseconds of ``load(path)``; what it loaded is given up after the clock has stopped."""

    assert path is not None

    def measure() -> float:
        import mlx.core as mx

        begun = time.perf_counter()
        loaded = load(path)
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


def llama_cpp(gguf: Path) -> object:
    from llama_cpp import Llama

    return Llama(str(gguf), n_gpu_layers=-1, verbose=False)


if __name__ == "__main__":
    sys.exit(main())
