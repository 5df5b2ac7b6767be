"""RESULTS.md: the committed one is what the committed files give, and nothing in it is not in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import plots, report, results
from benchmarks.results import OURS, Row, Table, save
from qwen3_mlx.errors import Unavailable

from .made import MACHINE, SPEED, VERSIONS, result, row, run


def test_the_committed_report_is_that_of_the_committed_files() -> None:
    every = report.ordered(results.every())
    assert report.FILE.read_text(encoding="utf-8") == report.text(every), "run: python -m benchmarks report"
    drawn = {results.FOLDER / name: table for found in every for name, table in report.plotted(found)}
    assert all(plots.current(table, path) for path, table in drawn.items()), "run: python -m benchmarks report"
    assert set(results.FOLDER.glob("*.svg")) == set(drawn)


def test_text() -> None:
    text = report.text([result(run(), run("python -m benchmarks decode --peer-float32"))])
    assert (
        "- **M1**: a processor, 2 cores, 8 GB, Linux x86_64, MLX on the CPU; python 3.11.7, mlx 0.32.4, commit" in text
    )
    assert "## decode\n\nHow fast one answer grows.\n\n`python -m benchmarks decode`\n" in text
    assert "(`demo`, machine M1, 2026-11-30, load average 0.1 to 1.5; [samples](results/decode.json))" in text
    assert "**measured**: decode (tokens/s; more is better), 1 to 3 rounds\n" in text
    assert "| tokens of context | qwen3-mlx | mlx-lm | qwen3-mlx / mlx-lm |\n| --- | --- | --- | --- |\n" in text
    assert "| 0 | 100 (90.0 to 120) | 45.0 (40.0 to 50.0) | 2.22x |\n| 256 | 80.0 | 50.0 | 1.60x |\n" in text
    assert "**predicted**: at least (ms; less is better)\n\n| model | M4 Max |\n| --- | --- |\n| 8B | 8.07 |" in text
    assert [text.count(f"](results/decode-{place}.svg)") for place in ("1-1", "2-1", "1-2", "3-1")] == [1, 1, 0, 0]
    assert text.count("## decode") == 1


def test_a_side_that_is_missing_in_a_row_is_left_empty() -> None:
    table = Table(SPEED, (row(0, (1.0,), (2.0,)), Row(8, {OURS: (3.0,)})))
    whole = run()
    text = report.text([result(replace(whole, tables=(table,)))])
    assert "| 0 | 1.00 | 2.00 | 0.500x |\n| 8 | 3.00 |  |  |\n" in text


def test_a_busy_machine_is_called_so() -> None:
    quiet = run()
    busy = replace(quiet, load=((2.5, 0.0, 0.0), (9.0, 0.0, 0.0)))
    texts = [report.text([result(one)]) for one in (quiet, busy)]
    assert ["beside other work" in text for text in texts] == [False, True]


def test_machines_are_told_apart_and_benchmarks_ordered() -> None:
    found = [
        result(name="zeta"),
        result(name="decode", machine=replace(MACHINE, cores=9)),
        result(name="import_time", versions={**VERSIONS, "mlx": "1"}),
    ]
    text = report.text(report.ordered(found))
    places = [text.index(f"## {name}") for name in ("Machines", "import_time", "decode", "zeta")]
    assert places == sorted(places) and text.count("- **M") == 3
    assert "machine M1," in text[places[1] : places[2]] and "machine M2," in text[places[2] : places[3]]


def test_nothing_measured() -> None:
    assert "Nothing was measured yet." in report.text([])


def test_plots_are_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(result(), tmp_path / "decode.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"pip install 'qwen3-mlx\[plots\]'"):
        report.write(tmp_path, tmp_path / "RESULTS.md")
    assert not (tmp_path / "RESULTS.md").exists()


def test_tables_of_one_row_need_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(result(run(speed=(row(0, (1.0,), (2.0,)),))), tmp_path / "decode.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "old-1-1.svg").write_text("of a result that is gone")
    report.write(tmp_path, tmp_path / "RESULTS.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "decode.json"]
    assert (tmp_path / "RESULTS.md").read_text() == report.text(results.every(tmp_path))
