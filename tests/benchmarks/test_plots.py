"""Plots, where matplotlib is installed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import plots, report, results
from benchmarks.results import OURS, Row, Table, save

from .made import SPEED, result, row

pytest.importorskip("matplotlib", reason="plots need the extra `plots`, which `make setup` installs")
LINES = Table(SPEED, (row(0, (90.0, 100.0), (40.0,)), row(256, (80.0,), (50.0, 52.0)), Row(1024, {OURS: (70.0,)})))
BARS = Table(SPEED, (row("8B, cpu", (2.0, 3.0), (4.0,)), row("30B, cpu", (1.0,), (900.0, 950.0))))


@pytest.mark.parametrize("table", [LINES, BARS], ids=["lines", "bars"])
def test_the_same_table_gives_the_same_file(table: Table, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        plots.draw(table, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    words = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    assert all(word in words for word in (OURS, "mlx-lm", "tokens/s", "tokens of context", "more is better"))
    places = ("0", "256", "1,024") if table is LINES else ("8B", "30B", "cpu")
    assert all(place in words for place in places)


def test_a_plot_is_known_by_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    assert not plots.current(LINES, path)
    plots.draw(LINES, path)
    other = replace(LINES, rows=(*LINES.rows[:2], Row(1024, {OURS: (70.1,)})))
    assert plots.current(LINES, path) and not plots.current(other, path)


def test_the_report_draws_what_is_new(tmp_path: Path) -> None:
    save(result(), tmp_path / "decode.json")
    report.write(tmp_path, tmp_path / "RESULTS.md")
    (table, _) = result().runs[0].tables
    path = tmp_path / "decode-1-1.svg"
    assert plots.current(table, path)
    before = path.stat().st_mtime_ns
    report.write(tmp_path, tmp_path / "RESULTS.md")
    assert path.stat().st_mtime_ns == before
    assert results.every(tmp_path) == [result()]
