"""From command to first token: ``python -m qwen3_mlx.generate`` against ``mlx_lm.generate`` on the same folder.

    python -m benchmarks.cold_start [--runs 15] [--model demo]

The clock runs from starting the process to the first byte of the generated text (a thought, here), which both commands
flush as it comes. A first round is not counted: it leaves the compiled Python and the compiled chat template that every
later start finds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from qwen3_mlx.errors import QwenError

from .frame import Bench, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

PROMPT = "How many r are in strawberries?"
FIRST = Quantity("command to first token", "s", "command")


class CommandFailed(QwenError):
    """A command under measurement that did not do what it was to."""


@benchmark(runs=15)
def main(bench: Bench) -> Iterator[Measured]:
    folder = str(bench.folder)
    script = str(Path(sys.executable).parent / "mlx_lm.generate")
    ours = [sys.executable, "-m", "qwen3_mlx.generate", PROMPT, "--model", folder, "--max-tokens", "16"]
    peer = [script, "--model", folder, "--prompt", PROMPT, "--max-tokens", "16"]
    sides = {OURS: partial(first_byte, ours), "mlx-lm": partial(first_byte, peer)}
    yield FIRST.row("generate", interleave(sides, bench.runs))


def first_byte(command: list[str]) -> float:
    """Seconds from start to the first byte on stdout or stderr; the process is then left to end by itself. Raises
    CommandFailed, with what it said, if it does not succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    reader, writer = os.pipe()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=environment)
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        first = pipe.read(1)
        seconds = time.perf_counter() - begun
        rest = b"".join(iter(lambda: pipe.read(65536), b""))
    if process.wait() != 0:
        said = (first + rest).decode(errors="replace").strip()
        raise CommandFailed(f"{' '.join(command[:3])} ... failed: {said[-500:]}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
