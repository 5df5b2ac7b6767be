"""What ``import qwen3_mlx`` costs beyond an empty interpreter.

    python -m benchmarks.import_time [--runs 40]

Whole processes, timed from start to exit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from .sides import interleave, machine


def milliseconds(code: str) -> float:
    """The wall time of a fresh interpreter that runs ``code``."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    args = parser.parse_args()
    seen = interleave(
        {"empty": lambda: milliseconds("pass"), "import qwen3_mlx": lambda: milliseconds("import qwen3_mlx")}, args.runs
    )
    print(f"import (ms; {args.runs} interleaved runs)")
    for name, values in seen.items():
        print(f"  {name:18} median {statistics.median(values):8.1f}   min {min(values):8.1f}   max {max(values):8.1f}")
    medians = {name: statistics.median(values) for name, values in seen.items()}
    print(f"  beyond an empty interpreter: {medians['import qwen3_mlx'] - medians['empty']:.1f} ms")
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
