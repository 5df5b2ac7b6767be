"""Quantizing a checkpoint to 4 bits: our converter against ``mlx_lm.convert`` on the same folder.

    python -m benchmarks.convert [--runs 5] [--model demo]

Seconds from the call to the finished folder, everything imported already, and what MLX held at most meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

TIME = Quantity("convert to 4 bits", "s", "checkpoint")
PEAK = Quantity("the same: the most that MLX held", "MB", "checkpoint")


@benchmark(runs=5)
def main(bench: Bench) -> Iterator[Measured]:
    folder = bench.folder
    peaks: dict[str, list[float]] = {OURS: [], "mlx-lm": []}
    sides = {OURS: measured(ours, folder, peaks[OURS]), "mlx-lm": measured(mlx_lm, folder, peaks["mlx-lm"])}
    yield TIME.row(bench.model, interleave(sides, bench.runs))
    yield PEAK.row(bench.model, {side: values[-bench.runs :] for side, values in peaks.items()})


def measured(convert: Callable[[Path, Path], object], folder: Path, peaks: list[float]) -> Callable[[], float]:
    """Seconds of one conversion, whose output is removed; its peak is appended to ``peaks``."""

    def measure() -> float:
        import mlx.core as mx

        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "out"
            mx.clear_cache()
            mx.reset_peak_memory()
            begun = time.perf_counter()
            convert(folder, output)
            spent = time.perf_counter() - begun
            peaks.append(mx.get_peak_memory() / 1e6)
            assert list(output.glob("*.safetensors"))
            shutil.rmtree(output)
        return spent

    return measure


def ours(folder: Path, output: Path) -> object:
    from qwen3_mlx.convert import convert

    return convert(folder, output, bits=4)


def mlx_lm(folder: Path, output: Path) -> object:
    from mlx_lm import convert

    with contextlib.redirect_stdout(io.StringIO()):
        return convert(str(folder), str(output), quantize=True, q_bits=4)


if __name__ == "__main__":
    sys.exit(main())
