"""What ``import qwen3_mlx`` costs, against ``import mlx_lm`` and beyond an empty interpreter.

    python -m benchmarks.import_time [--runs 20]

Whole processes, timed from start to exit. A first round is not counted: it leaves the compiled Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

EMPTY = "empty interpreter"
# What ``Qwen3.load`` and a first prompt import, with the libraries below them.
GENERATION = ("api", "cache.prefix", "engine.runner", "text.compiled", "weights")
WHOLE = Quantity("a process that only imports", "ms", "imported")
BEYOND = Quantity("the same beyond an empty interpreter", "ms", "imported")
PROGRAMS = {
    "the package": {OURS: "import qwen3_mlx", "mlx-lm": "import mlx_lm"},
    "all that a generation needs": {
        OURS: "; ".join(["import tokenizers", *(f"import qwen3_mlx.{name}" for name in GENERATION)]),
        "mlx-lm": "from mlx_lm import load, stream_generate",
    },
}


@benchmark(runs=20, model=None)
def main(bench: Bench) -> Iterator[Measured]:
    for what, programs in PROGRAMS.items():
        sides = {side: partial(milliseconds, program) for side, program in {**programs, EMPTY: "pass"}.items()}
        seen = interleave(sides, bench.runs)
        yield WHOLE.row(what, seen)
        empty = seen.pop(EMPTY)
        beyond = {side: [a - b for a, b in zip(values, empty, strict=True)] for side, values in seen.items()}
        yield BEYOND.row(what, beyond)


def milliseconds(code: str) -> float:
    """The wall time of a fresh interpreter that runs ``code``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    sys.exit(main())
