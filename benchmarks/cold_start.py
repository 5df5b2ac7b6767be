"""From command to first token: ``python -m qwen3_mlx.generate`` against ``mlx_lm.generate`` on the same folder.

    python -m benchmarks.cold_start [--runs 15] [--model demo]

The clock runs from starting the process to the first byte of the generated text (a thought, here), which both commands
flush as it comes. A first round is not counted: it leaves the compiled Python and the compiled chat template that every
later start finds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from qwen3_mlx import hub

from .sides import interleave, report

PROMPT = "How many r are in strawberries?"


def first_byte(command: list[str]) -> float:
    """Seconds from start to the first byte on stdout or stderr; the process is then left to end by itself."""
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
        raise SystemExit(f"{' '.join(command)} failed:\n{(first + rest).decode(errors='replace')}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()
    folder = str(hub.resolve(args.model))
    script = str(Path(sys.executable).parent / "mlx_lm.generate")
    ours = [sys.executable, "-m", "qwen3_mlx.generate", PROMPT, "--model", args.model, "--max-tokens", "16"]
    peer = [script, "--model", folder, "--prompt", PROMPT, "--max-tokens", "16"]
    seen = interleave({"qwen3-mlx": lambda: first_byte(ours), "mlx-lm": lambda: first_byte(peer)}, args.runs)
    report("command to first token", "s", seen, "qwen3-mlx", "mlx-lm", more_is_better=False)


if __name__ == "__main__":
    main()
