"""`qwen3-mlx doctor`: what this machine can do, and whether the Metal kernels are right and fast on it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import INTERRUPTED
from .progress import progress
from .terminal import notice

if TYPE_CHECKING:
    from ..doctor.examine import Findings
    from ..doctor.machine import Machine
    from ..doctor.receipt import Receipt

WRONG = 1


@click.command(
    "doctor",
    epilog="\b\nExamples:\n"
    "  qwen3-mlx doctor\n"
    "  qwen3-mlx doctor --kernels\n"
    "  qwen3-mlx doctor --kernels --model qwen3:30b-a3b\n"
    "  qwen3-mlx doctor --kernels --json --output receipt.json\n",
    short_help="Look at this machine; check and time the kernels on it.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--kernels", is_flag=True, help="Check every Metal kernel here and, on a GPU, time it.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Only the kernels of this model: an alias such as qwen3:4b, demo, or a folder. May be given repeatedly.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the receipt, as JSON, and nothing else on stdout.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the receipt to this file.")
@click.pass_context
def command(context: click.Context, kernels: bool, models: tuple[str, ...], as_json: bool, output: Path | None) -> None:
    """Say what this machine is, which kernels run on it, and what was found out about them.

    With --kernels, every instantiation of every Metal kernel is compiled and compared with a readable reference. On an
    Apple GPU each is then timed in turns with the MLX operations it replaces, and attention with blocks of several
    sizes; that takes a while. Elsewhere an emulator checks them (from a checkout of the source), and nothing is timed.

    The exit status is 1 if a kernel is wrong or does not compile.
    """
    if models and not kernels:
        raise click.UsageError("--model chooses whose kernels are checked: add --kernels", context)
    from ..doctor.receipt import check_output, write
    from . import doctor_text as text

    if output is not None:
        check_output(output)
    made, complete = _look(kernels, models)
    if not complete:
        text.found(made, sys.stderr if as_json else sys.stdout)
        timed = sum(each.timing is not None for each in made.kernels)
        notice(
            f"interrupted: {len(made.kernels)} of {made.planned} instantiations were checked and {timed} timed; no"
            " receipt was written"
        )
        context.exit(INTERRUPTED)
    if as_json:
        print(made.to_json())
    else:
        text.machine(made)
        text.found(made, sys.stdout)
    if output is not None:
        write(made.to_json(), output)
        notice(f"the receipt is in {output}")
    if text.wrong(made):
        context.exit(WRONG)


def _look(kernels: bool, models: Sequence[str]) -> tuple[Receipt, bool]:
    """What there is to see; and whether all of it was looked at, or the user stopped it."""
    from ..doctor import check, examine, receipt
    from ..doctor import machine as machines
    from ..kernels.verdicts import Store

    mode, _ = machines.mode()
    findings, planned, complete = examine.Findings(), 0, True
    if not kernels:
        machine = machines.machine()
    else:
        used = examine.uses(models, everything=machines.has_metal())
        planned = len(used)
        with _checking(machines.has_metal(), planned) as show:
            machine = machines.machine()
            complete = _run(used, machine, findings, show)
    made = receipt.receipt(
        machine, mode, check.held(Store()), findings, emulated=kernels and not machine.metal, planned=planned
    )
    return made, complete


def _run(used: Sequence, machine: Machine, findings: Findings, show: Callable[[str, int, int], None]) -> bool:
    """Runs all steps; False if the user stopped them."""
    from ..doctor import examine
    from ..kernels.verdicts import Store
    from ..kernels.verify import Verifier

    steps = list(examine.steps(used, Verifier(Store()), machine.bandwidth, timed=machine.metal))
    try:
        for index, step in enumerate(steps):
            show(step.what, index, len(steps))
            step.run(findings)
    except KeyboardInterrupt:
        return False
    return True


@contextlib.contextmanager
def _checking(metal: bool, planned: int) -> Iterator[Callable[[str, int, int], None]]:
    """Where kernels run: on the GPU, or in the emulator; yields what shows how far it is."""
    if metal:
        notice(f"checking and timing {planned} instantiations of kernels on the GPU")
        with progress() as show:
            yield show
        return
    from ..doctor.emulation import emulated

    with emulated():
        notice(
            f"MLX finds no Apple GPU here: checking {planned} instantiations of kernels in the emulator, timing nothing"
        )
        with progress() as show:
            yield show
