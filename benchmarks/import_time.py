"""What ``import qwen3_mlx`` costs beyond an empty interpreter, and what all modules do that a generation loads.

    python -m benchmarks.import_time [--runs 40]

Whole processes, timed from start to exit. A first round is not counted: it leaves the compiled Python.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time

from .sides import interleave, machine

# What ``Qwen3.load`` and a first prompt import, with the libraries below them.
GENERATION = ("api", "cache.prefix", "engine.runner", "text.compiled", "weights")


def milliseconds(code: str) -> float:
    """The wall time of a fresh interpreter that runs ``code``."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    args = parser.parse_args()
    codes = {
        "empty": "pass",
        "import qwen3_mlx": "import qwen3_mlx",
        "to generate": "; ".join(["import tokenizers", *(f"import qwen3_mlx.{name}" for name in GENERATION)]),
    }
    seen = interleave({name: functools.partial(milliseconds, code) for name, code in codes.items()}, args.runs)
    print(f"import (ms; {args.runs} interleaved runs)")
    for name, values in seen.items():
        print(f"  {name:18} median {statistics.median(values):8.1f}   min {min(values):8.1f}   max {max(values):8.1f}")
    medians = {name: statistics.median(values) for name, values in seen.items()}
    for name in (name for name in codes if name != "empty"):
        print(f"  {name} beyond an empty interpreter: {medians[name] - medians['empty']:.1f} ms")
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
