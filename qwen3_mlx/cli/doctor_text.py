"""What `qwen3-mlx doctor` says of a receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from ..chips import Limit
from ..doctor.check import Checked, Held
from ..doctor.machine import Machine, deterministic, mode
from ..doctor.receipt import Kernel, Receipt
from ..doctor.sweep import Sweep
from ..doctor.timing import STOCK
from ..kernels.verdicts import cache_folder
from .terminal import columns

AGAIN = "to try again: qwen3-mlx doctor --kernels"
#: Bytes below which a launch is bound by its latency, and a share of the bandwidth means nothing.
LEAST_MOVED = 1 << 20


def wrong(made: Receipt) -> bool:
    """Whether something is not as it should be: a kernel, a package, or a block of attention."""
    missing = None in made.machine.packages.values()
    kernels = any(not each.checked.good for each in made.kernels) or any(each.disagreeing for each in made.sweeps)
    return missing or kernels or any(each.bad for each in made.verdicts)


def machine(made: Receipt) -> None:
    """The essentials, a line each; and what earlier runs found wrong, unless it was looked at again."""
    for name, value in _essentials(made.machine, made.verdicts):
        print(f"{name:<13} {value}")
    checked = {(each.checked.kernel, each.checked.parameters) for each in made.kernels}
    for held in made.verdicts:
        if held.bad and (held.kernel, held.parameters) not in checked:
            print(_complaint(held))


def _essentials(here: Machine, verdicts: Sequence[Held]) -> list[tuple[str, str]]:
    chip = here.chip + (f", {here.gpu_cores} GPU cores" if here.gpu_cores else "")
    limit = f", memory bandwidth {_limit(here.bandwidth)} GB/s" if here.bandwidth else ""
    if here.metal and here.bandwidth is None:
        limit = ", memory bandwidth not known: no share of it can be given"
    working = f", of which Metal recommends to take {_gb(here.working_set)}" if here.working_set else ""
    packages = ", ".join(f"{name} {version or 'DOES NOT IMPORT'}" for name, version in here.packages.items())
    chosen, why = mode()
    return [
        ("chip", chip + limit),
        ("memory", _gb(here.memory) + working),
        ("system", f"{here.system}, Python {here.python}"),
        ("packages", packages),
        ("Metal", "yes" if here.metal else "no"),
        ("kernels", f"{chosen}: {why}"),
        ("deterministic", deterministic()),
        ("verdicts", _counted(verdicts)),
    ]


def _counted(verdicts: Sequence[Held]) -> str:
    """How many verdicts there are, and where."""
    folder = cache_folder()
    if folder is None:
        return "none are kept: there is no home folder"
    counts = Counter(held.verdict if held.current else "of other versions" for held in verdicts)
    return f"{', '.join(f'{count} {kind}' for kind, count in sorted(counts.items())) or 'none yet'}, in {folder}"


def _complaint(bad: Checked | Held) -> str:
    """What is wrong with a kernel, with the compiler's whole message."""
    detail = "a process is trying it, or ended while it did" if bad.verdict == "trying" else bad.detail
    about = f"{bad.kernel} {' '.join(bad.parameters)}: {bad.verdict}, MLX's own operations take its place"
    return "\n".join((about, *(f"    {line}" for line in detail.strip().splitlines()), f"    {AGAIN}"))


def found(made: Receipt, file: TextIO) -> None:
    """The table of kernels, the sizes of blocks, what is wrong, and a line that sums it up."""
    if not made.kernels:
        return
    print(file=file)
    for line in (*_table(made.kernels), *map(_swept, made.sweeps)):
        print(line, file=file)
    for each in made.kernels:
        if not each.checked.good:
            print(_complaint(each.checked), file=file)
    for problem in made.problems:
        print(problem, file=file)
    print(_sum(made), file=file)


def _table(kernels: Sequence[Kernel]) -> list[str]:
    head = ("KERNEL", "PARAMETERS", "VERDICT", "ERROR")
    timed = any(each.timing for each in kernels)
    rows: list[tuple[str, ...]] = [(*head, "MS", "STOCK MS", "RATIO", "GB/S", "OF LIMIT") if timed else head]
    for each in kernels:
        done = each.checked
        error = "-" if done.error is None else f"{done.error:.2f}"
        row = (done.kernel, " ".join(done.parameters), done.verdict, error)
        rows.append((*row, *_times(each)) if timed else row)
    return columns(rows, words=3)


def _times(each: Kernel) -> tuple[str, ...]:
    timing = each.timing
    if timing is None:
        return ("-",) * 5
    ours = next(iter(timing.ms.values())).median
    stock = f"{timing.ms[STOCK].median:.4f}" if STOCK in timing.ms else "-"
    ratio = "-" if timing.ratio is None else f"{timing.ratio:.2f}"
    large = timing.moved >= LEAST_MOVED
    share = f"{_percent(timing.share)}" if timing.share and large else "-"
    return f"{ours:.4f}", stock, ratio, f"{timing.gbs:.0f}" if large else "-", share


def _swept(sweep: Sweep) -> str:
    times = ", ".join(f"{block}: {times.median:.4f} ms" for block, times in sweep.ms.items())
    line = f"{sweep.kernel} {' '.join(sweep.parameters)}, {sweep.tokens} tokens, by block: {times}"
    line += f"; in use {sweep.block}, fastest {sweep.best}"
    if sweep.disagreeing:
        line += f"; OTHER RESULTS with {', '.join(map(str, sweep.disagreeing))}"
    return line


def _sum(made: Receipt) -> str:
    good = [each.checked for each in made.kernels if each.checked.good]
    worst = max((done.error for done in good if done.error is not None), default=0.0)
    where = "in emulation, which says nothing about speed" if made.emulated else f"on {made.machine.chip}"
    return (
        f"{len(good)} of {len(made.kernels)} instantiations agree with the reference, {where}; the largest error is"
        f" {worst:.2f} of the tolerance"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _limit(limit: Limit) -> str:
    return f"{limit.low:g}" if limit.low == limit.high else f"{limit.low:g} or {limit.high:g}"


def _percent(share: Limit) -> str:
    low, high = f"{100 * share.low:.0f}", f"{100 * share.high:.0f}"
    return f"{low} %" if low == high else f"{low}-{high} %"
