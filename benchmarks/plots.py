"""A plot of a table: every side's medians, and their spread as a band or bars. The same table gives the same file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from qwen3_mlx.errors import Unavailable

from .results import OURS, Table, table_json

COLOURS = ("#0b6e4f", "#c8553d", "#4a6fa5", "#8d6a9f")  # ours first
SETTINGS = {
    "svg.hashsalt": "qwen3-mlx",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
STEEP = 30  # times between the least and the most of a plot, from which its scale is logarithmic


def require() -> None:
    """Raises Unavailable without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unavailable("plots are drawn by matplotlib, which is not installed: pip install 'qwen3-mlx[plots]'")


def wanted(table: Table) -> bool:
    """Whether there is something to see: several rows, and sides to compare."""
    return len(table.rows) > 1 and len(table.sides) > 1


def current(table: Table, path: Path) -> bool:
    """Whether ``path`` is a plot of this very table."""
    return path.is_file() and _digest(table) in path.read_text(encoding="utf-8")


def draw(table: Table, path: Path) -> None:
    """Write an SVG. Raises Unavailable without matplotlib."""
    require()
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(SETTINGS):
        drawing, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
        steep = _lines(axes, table) if all(isinstance(row.at, int) for row in table.rows) else _bars(axes, table)
        _labels(axes, table, steep)
        drawing.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Description": _digest(table)})
        pyplot.close(drawing)


def _lines(axes: Any, table: Table) -> bool:
    """Whether they are better seen on a logarithmic scale (bars, whose length is what is seen, never are)."""
    for side, colour in zip(_sides(table), COLOURS * 2, strict=False):
        rows = [(place, row) for place, row in enumerate(table.rows) if side in row.samples]
        places = [place for place, _ in rows]
        axes.plot(places, [row.median(side) for _, row in rows], marker="o", color=colour, label=side)
        least, most = ([end(row.samples[side]) for _, row in rows] for end in (min, max))
        axes.fill_between(places, least, most, color=colour, alpha=0.2, linewidth=0)
    medians = [row.median(side) for row in table.rows for side in row.samples]
    return min(medians) > 0 and max(medians) / min(medians) > STEEP


def _bars(axes: Any, table: Table) -> bool:
    sides = _sides(table)
    width = 0.8 / len(sides)
    for index, (side, colour) in enumerate(zip(sides, COLOURS * 2, strict=False)):
        rows = [(place, row) for place, row in enumerate(table.rows) if side in row.samples]
        places = [place - 0.4 + (index + 0.5) * width for place, _ in rows]
        medians = [row.median(side) for _, row in rows]
        ends = [
            (row.median(side) - min(row.samples[side]), max(row.samples[side]) - row.median(side)) for _, row in rows
        ]
        axes.bar(places, medians, width, yerr=list(zip(*ends, strict=True)), color=colour, label=side, ecolor="#555555")
    return False


def _labels(axes: Any, table: Table, steep: bool) -> None:
    quantity = table.quantity
    names = [f"{row.at:,}" if isinstance(row.at, int) else row.at.replace(", ", "\n") for row in table.rows]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(quantity.axis)
    axes.set_ylabel(quantity.unit)
    axes.set_title(f"{quantity}, {quantity.kind}", loc="left", fontsize=9)
    if steep:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, *(row.median(side) for row in table.rows for side in row.samples)))
    axes.legend()


def _sides(table: Table) -> list[str]:
    """Ours first, so that its colour is the same everywhere."""
    return sorted(table.sides, key=lambda side: side != OURS)


def _digest(table: Table) -> str:
    text = json.dumps(table_json(table), sort_keys=True)
    return f"data {hashlib.sha256(text.encode()).hexdigest()[:24]}"
