"""All benchmarks in one go."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks import plots, report
from benchmarks.catalogue import SIDE_BY_SIDE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; ``convert`` fails, and so does ``decode`` the first time."""
    words: list[list[str]] = []

    def run(one: Sequence[str]) -> int:
        words.append(list(one))
        return 2 * (one[0] == "convert" or ([each[0] for each in words].count("decode") == 1 and one[0] == "decode"))

    monkeypatch.setattr(everything, "run", run)
    monkeypatch.setattr(plots, "require", lambda: None)
    monkeypatch.setattr(report, "write", lambda folder, file: words.append(["report"]))
    return words


def test_every_benchmark_runs_on_a_cpu_with_both_types_for_the_peer() -> None:
    lines = [" ".join(words) for words in everything.plan("demo", cpu=True)]
    assert {line.split()[0] for line in lines} == set(SIDE_BY_SIDE) and len(lines) == len(set(lines))
    assert [line for line in lines if line.startswith("decode")] == [
        "decode",
        "decode --peer-float32",
        "decode --model demo-moe --peer-float32",
    ]
    assert "prefill --peer-float32" in lines and "prefill" in lines and "server" in lines
    assert "turns" in lines and "turns --tokens 200" in lines


def test_another_model_on_a_gpu() -> None:
    lines = [" ".join(words) for words in everything.plan("qwen3:4b", cpu=False)]
    assert (
        "decode --model qwen3:4b" in lines and "host_graph" in lines and not [one for one in lines if "float32" in one]
    )
    assert len(lines) == len(SIDE_BY_SIDE) + 1


def test_a_failure_does_not_stop_the_others(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["all", "--save", "--quick"])
    assert everything.main() == 1
    shown = capsys.readouterr()
    assert {words[0] for words in ran} == {*SIDE_BY_SIDE, "report"} and ran[-1] == ["report"]
    assert all(words[-1] in ("--save", "--fresh") and "--runs" in words for words in ran[:-1])
    fresh = [words[-1] == "--fresh" for words in ran if words[0] == "decode"]
    assert fresh == [True, True, False], "a file is begun anew by the first run that ends well"
    assert "failed: decode --runs 1 --contexts 0,256 --tokens 50; convert --runs 1" in shown.err
    assert f"{len(ran) - 3} of {len(ran) - 1} ended well" in shown.out


def test_only_some_and_nothing_saved(ran: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["all", "load", "text"])
    assert everything.main() == 0 and ran == [["load"], ["text"]]


def test_an_interrupt_ends_it(
    monkeypatch: pytest.MonkeyPatch, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything, "run", lambda words: 130 * (words[0] == "cold_start"))
    monkeypatch.setattr(sys, "argv", ["all", "--save"])
    assert everything.main() == 130 and not ran
    assert "interrupted: 1 of" in capsys.readouterr().err


def test_without_matplotlib_it_says_so_first(
    monkeypatch: pytest.MonkeyPatch, ran: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["all", "--save"])
    assert everything.main() == 2 and not ran
    assert "qwen3-mlx[plots]" in capsys.readouterr().err


def test_a_real_interrupt_reaches_the_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    options = ["--tokens", "64,32768", "--runs", "100", "--json", str(file)]
    command = [sys.executable, "-m", "benchmarks", "prefix_lookup", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    title, row = process.stdout.readline(), process.stdout.readline()
    assert title.startswith("looking up") and row.split()[0] == "64", "the next row takes a minute"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "nothing was written" in error and not file.exists()


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_nothing_runs_on_when_all_is_told_to_end(told: signal.Signals) -> None:
    command = [sys.executable, "-u", "-m", "benchmarks", "all", "prefix_lookup"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("[1/1]") and process.stdout.readline().startswith("looking up")
    process.send_signal(told)
    _, error = process.communicate(timeout=60)  # until nobody is left who could write
    assert process.returncode == 130 and "interrupted: 0 of 1 have run" in error
