"""What all side-by-side benchmarks do: options, and a ``file`` at the end or none at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest

from benchmarks import machine, results
from benchmarks.frame import Bench, Numbers, benchmark
from benchmarks.results import OURS, Measured
from qwen3_mlx.errors import InvalidRequest

from .made import MACHINE, SPEED, VERSIONS

NAME = "test_frame"  # a benchmark is called after its file
told: list[Bench] = []
then: list[Callable[[], None]] = []


@benchmark(runs=3, peers=("mlx-lm", "llama.cpp"))
@click.option("--lengths", type=Numbers(2), default="16,64")
@click.option("--wide", is_flag=True)
def main(bench: Bench, lengths: tuple[int, ...], wide: bool) -> Iterator[Measured]:
    told.append(bench)
    for length in lengths:
        yield SPEED.row(length, {OURS: [length, 3.0 * length], "mlx-lm": [length]})
    for what in then:
        what()


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "here", lambda: MACHINE)
    monkeypatch.setattr(machine, "versions", lambda: VERSIONS)
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    told.clear()
    then.clear()


def interrupted() -> None:
    raise KeyboardInterrupt


def refused() -> None:
    raise InvalidRequest("no such thing")


def test_nothing_is_saved_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "7", "--lengths", "16,16,64"]) == 0
    assert told == [Bench("demo", 7, told[0].peers)] and [peer.name for peer in told[0].peers] == ["mlx-lm"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "decode (tokens/s; more is better), by tokens of context"
    assert "qwen3-mlx 32.0 (16.0 to 48.0)   mlx-lm 16.0   qwen3-mlx / mlx-lm 2.00x" in lines[1] and len(lines) == 4
    assert "a processor, 2 cores, 8 GB" in lines[3] and "mlx 0.32.4" in lines[3]
    assert not list(tmp_path.iterdir())


def test_saved(tmp_path: Path) -> None:
    assert main(["--save", "--lengths", "16", "--wide", "--model", "demo-moe"]) == 0
    found = results.load(tmp_path / "results" / f"{NAME}.json")
    assert (found.name, found.machine, found.versions) == (NAME, MACHINE, VERSIONS)
    assert found.what == "What all side-by-side benchmarks do: options, and a `file` at the end or none at all."
    (run,) = found.runs
    assert (
        run.command == f"python -m benchmarks {NAME} --model demo-moe --lengths 16 --wide" and run.model == "demo-moe"
    )
    assert run.tables == results.tables([SPEED.row(16, {OURS: [16, 48], "mlx-lm": [16]})])


def test_runs_are_added_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    for options in (["--lengths", "16"], ["--lengths", "64"], ["--lengths", "16"]):
        assert main([*options, "--json", str(file)]) == 0
    assert [run.command.split()[-1] for run in results.load(file).runs] == ["64", "16"]
    assert main(["--json", str(file), "--fresh"]) == 0
    assert [run.command for run in results.load(file).runs] == [f"python -m benchmarks {NAME}"]


def test_another_machine_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--save"]) == 0
    before = (tmp_path / "results" / f"{NAME}.json").read_bytes()
    monkeypatch.setattr(machine, "here", lambda: replace(MACHINE, cores=64))
    told.clear()
    assert main(["--save"]) == 2 and not told
    assert "cores was 2, now 64" in capsys.readouterr().err
    assert (tmp_path / "results" / f"{NAME}.json").read_bytes() == before
    assert main(["--save", "--fresh"]) == 0 and told


def test_a_damaged_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{")
    assert main(["--json", str(tmp_path / "x.json")]) == 2 and not told
    assert "x.json: cannot be read as JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "status", "says"), [(interrupted, 130, "interrupted after 2 rows"), (refused, 2, "no such")]
)
@pytest.mark.parametrize("before", [False, True])
def test_what_did_not_end_writes_nothing(
    what: Callable[[], None], status: int, says: str, before: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if before:
        assert main(["--save"]) == 0
    held = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    then.append(what)
    assert main(["--save", "--lengths", "2,4"]) == status
    assert says in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == held


@pytest.mark.parametrize(
    ("options", "says"), [(["--save", "--json", "x.json"], "give one"), (["--fresh"], "add --save or --json")]
)
def test_options_that_do_not_go_together(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2 and not told
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("lengths", ["", "16,", "a", "1.5", "1,16", "-4"])
def test_lengths_that_are_none(lengths: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--lengths={lengths}"]) == 2 and not told
    assert "--lengths" in capsys.readouterr().err


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "llama_cpp" else name)
    assert main(["--peer", "llama.cpp", "--save"]) == 2 and not told
    assert "pip install llama-cpp-python" in capsys.readouterr().err


def test_a_peer_that_needs_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["--peer", "llama.cpp"]) == 2 and "--gguf FILE" in capsys.readouterr().err
    assert main(["--peer", "llama.cpp", "--gguf", str(tmp_path / "no.gguf")]) == 2 and not told
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "a.gguf").write_text("")
    assert main(["--peer", "llama.cpp", "--peer", "mlx-lm", "--gguf", str(tmp_path / "a.gguf")]) == 0
    assert [peer.name for peer in told[0].peers] == ["llama.cpp", "mlx-lm"] and told[0].gguf == tmp_path / "a.gguf"


def test_a_peer_it_cannot_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--peer", "transformers"]) == 2 and "'llama.cpp'" in capsys.readouterr().err
