"""What ``import qwen3_mlx`` costs, against ``import mlx_lm`` and beyond an empty interpreter.

    python -m benchmarks.import_time [--runs 20]

Whole processes, timed from start to exit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

EMPTY = "empty interpreter"
WHOLE = Quantity("a process that only imports", "ms", "imported")
BEYOND = Quantity("the same beyond an empty interpreter", "ms", "imported")


@benchmark(runs=20, model=None)
def main(bench: Bench) -> Iterator[Measured]:
    programs = {OURS: "import qwen3_mlx", "mlx-lm": "import mlx_lm", EMPTY: "pass"}
    sides = {side: partial(milliseconds, program) for side, program in programs.items()}
    seen = interleave(sides, bench.runs)
    yield WHOLE.row("the package", seen)
    empty = seen.pop(EMPTY)
    beyond = {side: [a - b for a, b in zip(values, empty, strict=True)] for side, values in seen.items()}
    yield BEYOND.row("the package", beyond)


def milliseconds(code: str) -> float:
    """The wall time of a fresh interpreter that runs ``code``."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begun) * 1000


if __name__ == "__main__":
    sys.exit(main())
