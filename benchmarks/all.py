"""All side-by-side benchmarks, one after the other, each in a process of its own; then the report.

    python -m benchmarks all --save
    python -m benchmarks all --quick
    python -m benchmarks all decode prefill --model qwen3:4b

One that fails does not keep the others from running; which did is said at the end, and the exit status is 1. What a
file had before is kept until the first run of its benchmark has ended.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import click

from qwen3_mlx.cli.errors import run as run_command
from qwen3_mlx.errors import QwenError

from . import plots, report
from .catalogue import SIDE_BY_SIDE
from .frame import as_help
from .machine import ROOT, on_cpu

MODEL = "demo"
WITHOUT_MODEL = ("import_time", "prefix_lookup", "host_graph", "text")
#: Those that run twice on a CPU, where float32 is faster for a token at a time, and what is stored often for several.
BOTH = ("prefill", "decode", "batch")
FLOAT32 = "--peer-float32"

QUICK = {
    "prefill": ("--lengths", "16,256"),
    "decode": ("--contexts", "0,256", "--tokens", "50"),
    "batch": ("--streams", "1,4", "--tokens", "50"),
    "turns": ("--turns", "3", "--tokens", "60", "--pause", "0"),
    "server": ("--clients", "1,4", "--tokens", "50"),
    "prefix_lookup": ("--tokens", "1024,4096"),
}


@click.command("all", help=as_help(__doc__ or ""))
@click.argument("names", nargs=-1, type=click.Choice(SIDE_BY_SIDE), metavar="[NAME]...")
@click.option("--model", default=MODEL, show_default=True, metavar="NAME", help="A name or a folder.")
@click.option("--quick", is_flag=True, help="A round of each, of little: whether all works, not how fast it is.")
@click.option("--save", is_flag=True, help="Save in benchmarks/results/, and make benchmarks/RESULTS.md.")
@click.pass_context
def command(context: click.Context, names: tuple[str, ...], model: str, quick: bool, save: bool) -> None:
    if save:
        plots.require()  # before twenty minutes, not behind them
    planned = [words for words in plan(model, on_cpu()) if not names or words[0] in names]
    failed, begun, fresh = [], time.monotonic(), {words[0] for words in planned}
    for number, words in enumerate(planned, start=1):
        words = [*words, "--runs", "1", *QUICK.get(words[0], ())] if quick else words
        saving = ["--save", "--fresh"][: 1 + (words[0] in fresh)] if save else []
        print(f"[{number}/{len(planned)}] python -m benchmarks {shlex.join(words)}", flush=True)
        started = time.monotonic()
        status = run([*words, *saving])
        if status == 128 + signal.SIGINT:
            print(f"interrupted: {number - 1} of {len(planned)} have run", file=sys.stderr)
            context.exit(status)
        if status:
            failed.append(shlex.join(words))
        else:
            fresh.discard(words[0])
        ended = f"failed (exit status {status})" if status else "done"
        print(f"[{number}/{len(planned)}] {ended} in {time.monotonic() - started:.0f} s\n", flush=True)
    if save:
        report.write(report.results.FOLDER, report.FILE)
        print(f"{report.FILE} is made")
    print(
        f"{len(planned) - len(failed)} of {len(planned)} ended well, in {(time.monotonic() - begun) / 60:.1f} minutes"
    )
    if failed:
        raise Failed(f"failed: {'; '.join(failed)}")


class Failed(QwenError):
    """Some benchmark did."""

    exit_code = 1


def plan(model: str, cpu: bool) -> list[list[str]]:
    """Every command line, without ``python -m benchmarks``. On a CPU the peer runs in float32 as well, and the embedded
    MoE is decoded besides ``demo``."""
    lines = []
    for name in SIDE_BY_SIDE:
        words = [name, *(() if name in WITHOUT_MODEL or model == MODEL else ("--model", model))]
        lines.append(words)
        if cpu and name in BOTH:
            lines.append([*words, FLOAT32])
        if cpu and name == "decode" and model == MODEL:
            lines.append([name, "--model", "demo-moe", FLOAT32])
        if name == "turns" and model == MODEL:
            lines.append([name, "--tokens", "200"])  # with more, no answer of the last turns has a thought
        if name == "host_graph":
            lines.append([name, "--batch", "16"])
    return lines


def run(words: Sequence[str]) -> int:
    """The exit status of one. An interrupt reaches it too, as does being told to end, and is waited for."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *words], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    return run_command(command, "python -m benchmarks all")


if __name__ == "__main__":
    sys.exit(main())
