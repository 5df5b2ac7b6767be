"""``python -m benchmarks``: what it lists and what it runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import catalogue
from benchmarks.__main__ import main

ROOT = Path(__file__).parents[2]


def test_listing_imports_nothing_heavy() -> None:
    program = "import sys; from benchmarks.__main__ import main; main([]); print(sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    text, _, modules = ran.stdout.rpartition("\n[")
    assert "decode " in text and "stall " in text and "report " in text
    assert not [name for name in ("mlx", "numpy", "click", "mlx_lm", "transformers") if f"'{name}'" in modules]


def test_every_benchmark_is_listed_once_with_a_line() -> None:
    names, text = catalogue.runnable(), catalogue.listing()
    assert {*catalogue.SIDE_BY_SIDE, *catalogue.COMMANDS} < names.keys()
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(names) and all(len(line) > 20 for line in names.values())


@pytest.mark.parametrize("name", sorted(catalogue.runnable()))
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = list(sys.argv)
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "usage:" in shown.lower() and f"python -m benchmarks {name}" in shown
    assert sys.argv == arguments


@pytest.mark.parametrize("name", catalogue.SIDE_BY_SIDE)
def test_those_side_by_side_share_their_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--runs", "--peer", "--save", "--json", "--fresh"))


def test_a_module_runs_by_itself() -> None:
    command = [sys.executable, "-m", "benchmarks.prefix_lookup", "--tokens", "3"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2 and "3 is less than 4" in ran.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [("decod", "Did you mean decode"), ("xyzzy", "lists them all"), ("sides", "no benchmark"), ("", "''")],
)
def test_a_name_that_is_none(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_mistakes_of_the_others_keep_their_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernel_bytes", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err
