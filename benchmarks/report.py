"""``benchmarks/RESULTS.md`` and its plots, made from the files in ``benchmarks/results/``.

    python -m benchmarks report

Plots that are there and of the same figures are left as they are, so matplotlib is needed only for new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from qwen3_mlx.cli.errors import run as run_command

from . import plots, results
from .catalogue import SIDE_BY_SIDE
from .results import OURS, Result, Run, Table, figure

FILE = results.FOLDER.parent / "RESULTS.md"
HEAD = """# Results

Made by `python -m benchmarks report` from the files in `results/`, which hold every sample: not written by hand. All of
them are measured anew by `python -m benchmarks all --save`.

Sides are measured in turns, A B A B, on the same checkpoint. A cell has the median and, in brackets, the least and the
most. A ratio is ours divided by the other side's, of medians. Each table says what its figures are: **measured** (by
the clock, or as memory held, on the machine named), **counted** (the same on every machine), or **predicted**
(computed; a machine has yet to show it).
"""
NONE = "\nNothing was measured yet.\n"


@click.command("report", help="Make benchmarks/RESULTS.md and its plots from the files in benchmarks/results/.")
def command() -> None:
    write(results.FOLDER, FILE)
    print(f"{FILE} is made of {len(results.every())} files")


def main() -> int:
    return run_command(command, "python -m benchmarks report")


def write(folder: Path, file: Path) -> None:
    """Draw what has no plot yet, remove plots of what is gone, and write the text. Raises ResultError for a damaged
    file, Unavailable where a plot is to be drawn without matplotlib; nothing is written then."""
    every = ordered(results.every(folder))
    drawn = {folder / name: table for result in every for name, table in plotted(result)}
    missing = {path: table for path, table in drawn.items() if not plots.current(table, path)}
    if missing:
        plots.require()
    for path, table in missing.items():
        plots.draw(table, path)
    for path in folder.glob("*.svg"):
        if path not in drawn:
            path.unlink()
    file.write_text(text(every), encoding="utf-8")


def ordered(found: Sequence[Result]) -> list[Result]:
    """In the order of the catalogue; others behind, by name."""
    places = {name: place for place, name in enumerate(SIDE_BY_SIDE)}
    return sorted(found, key=lambda result: (places.get(result.name, len(places)), result.name))


def text(every: Sequence[Result]) -> str:
    """The whole of RESULTS.md."""
    if not every:
        return HEAD + NONE
    hosts = list(dict.fromkeys(result.host for result in every))
    lines = ["", "## Machines", ""]
    lines += [f"- **{_letter(place)}**: {host}" for place, host in enumerate(hosts)]
    for result in every:
        lines += ["", f"## {result.name}", "", result.what]
        names = {id(table): name for name, table in plotted(result)}
        for run in result.runs:
            lines += ["", *_run(result, run, _letter(hosts.index(result.host)))]
            for table in run.tables:
                lines += ["", *_table(table)]
                if name := names.get(id(table)):
                    lines += ["", f"![{table.quantity.what}, by {table.quantity.axis}](results/{name})"]
    return HEAD + "\n".join(lines) + "\n"


def plotted(result: Result) -> Iterator[tuple[str, Table]]:
    """The tables that have a plot, and what its file is called."""
    for number, run in enumerate(result.runs, start=1):
        for place, table in enumerate(run.tables, start=1):
            if plots.wanted(table):
                yield f"{result.name}-{number}-{place}.svg", table


def _letter(place: int) -> str:
    return f"M{place + 1}"


def _run(result: Result, run: Run, host: str) -> list[str]:
    model = f"`{run.model}`, " if run.model else ""
    begin, end = run.load[0][0], run.load[1][0]
    busy = ", **beside other work**" if begin > result.machine.cores else ""
    where = f"{model}machine {host}, {run.date[:10]}, load average {begin:g} to {end:g}{busy}"
    return [f"`{run.command}`", "", f"({where}; [samples](results/{result.name}.json))"]


def _table(table: Table) -> list[str]:
    sides = table.sides
    peers = [side for side in sides if side != OURS and OURS in sides]
    heads = [table.quantity.axis, *sides, *(f"{OURS} / {peer}" for peer in peers)]
    lines = [
        f"**{table.quantity.kind}**: {table.quantity}{_rounds(table)}",
        "",
        _cells(heads),
        _cells(["---"] * len(heads)),
    ]
    for row in table.rows:
        ratios = [f"{figure(row.ratio(peer))}x" if {OURS, peer} <= row.samples.keys() else "" for peer in peers]
        at = f"{row.at:,}" if isinstance(row.at, int) else row.at
        lines.append(_cells([at, *(row.cell(side) for side in sides), *ratios]))
    return lines


def _rounds(table: Table) -> str:
    """How many samples a cell has."""
    counts = sorted(len(values) for row in table.rows for values in row.samples.values())
    if table.quantity.kind == "predicted" or not counts:
        return ""
    least, most = counts[0], counts[-1]
    number = f"{least}" if least == most else f"{least} to {most}"
    return f", {number} round{'s' if most > 1 else ''}"


def _cells(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


if __name__ == "__main__":
    sys.exit(main())
