"""The output folder: there whole or not at all, whatever interrupts, and nobody else's files are ever deleted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qwen3_mlx.convert import convert
from qwen3_mlx.convert import save as module
from qwen3_mlx.errors import OutputError

from ..weights import makers


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return makers.dense(tmp_path / "hf")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_full_disk_is_found_before_anything_is_written(
    source: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10**9, 10**9 - 1000, 1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(OutputError, match=r"needs 67 MB, but only 1\.0 kB are free"):
        convert(source, place / "new" / "out")
    assert asked == [place] and names(place) == []


def test_just_enough_disk(source: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = convert(source, place / "first").bytes_after + (64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    convert(source, place / "second")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    with pytest.raises(OutputError, match="free"):
        convert(source, place / "third")


def test_existing_output_is_kept(source: Path, place: Path) -> None:
    out = place / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        convert(source, out)
    assert names(out) == ["config.json"] and names(place) == ["out"]


def test_empty_folder_is_no_obstacle(source: Path, place: Path) -> None:
    convert(source, place)
    assert "config.json" in names(place)


def test_force_replaces_an_earlier_checkpoint(source: Path, place: Path) -> None:
    convert(source, place / "out", bits=8)
    (place / "out" / "model-00007-of-00009.safetensors").touch()
    convert(source, place / "out", bits=4, force=True)
    assert '"bits": 4' in (place / "out" / "config.json").read_text()
    assert "model-00007-of-00009.safetensors" not in names(place / "out") and names(place) == ["out"]


@pytest.mark.parametrize("foreign", ["thesis.tex", ".git/"])
def test_force_never_deletes_what_is_not_a_checkpoint_s(source: Path, place: Path, foreign: str) -> None:
    convert(source, place / "out", bits=8)
    entry = place / "out" / foreign
    entry.mkdir() if foreign.endswith("/") else entry.write_text("precious")
    before = names(place / "out")
    with pytest.raises(OutputError, match=foreign.rstrip("/")):
        convert(source, place / "out", bits=4, force=True)
    assert names(place / "out") == before and '"bits": 8' in (place / "out" / "config.json").read_text()


def test_force_replaces_only_after_success(source: Path, place: Path) -> None:
    convert(source, place / "out", bits=8)
    before = {path.name: path.read_bytes() for path in (place / "out").iterdir()}

    def fail(done: int, total: int) -> None:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        convert(source, place / "out", bits=4, force=True, progress=fail)
    assert {path.name: path.read_bytes() for path in (place / "out").iterdir()} == before
    assert names(place) == ["out"]


def test_force_puts_the_old_one_back_when_the_last_step_fails(
    source: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, place / "out", bits=8)
    rename: Callable[[Path, Path], Path] = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".converting-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        convert(source, place / "out", bits=4, force=True)
    assert '"bits": 8' in (place / "out" / "config.json").read_text()
    assert names(place) == ["out"]


def test_force_never_deletes_other_things(source: Path, place: Path) -> None:
    (place / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="other things"):
        convert(source, place, force=True)
    assert names(place) == ["letters.txt"]


@pytest.mark.parametrize("link", [False, True])
def test_source_is_never_replaced(source: Path, tmp_path: Path, link: bool) -> None:
    before = names(source)
    output = source
    if link:
        output = tmp_path / "link"
        output.symlink_to(source)
    for out in (output, source.parent):
        with pytest.raises(OutputError, match=r"source lies|exists already"):
            convert(source, out, force=True)
    assert names(source) == before


def test_output_is_a_file(source: Path, place: Path) -> None:
    (place / "out").write_text("text")
    with pytest.raises(OutputError, match="is a file"):
        convert(source, place / "out", force=True)
    assert (place / "out").read_text() == "text"


def test_folder_that_cannot_be_written(source: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="out cannot be written: Permission denied"):
        convert(source, place / "out")


def test_disk_that_fills_up_on_the_way(source: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qwen3_mlx.convert.quantize.write_config", full)
    with pytest.raises(OutputError, match="No space left"):
        convert(source, place / "out")
    assert names(place) == []


def test_output_that_appears_in_the_meantime(source: Path, place: Path) -> None:
    def other(done: int, total: int) -> None:
        (place / "out").mkdir(exist_ok=True)
        (place / "out" / "theirs").touch()

    with pytest.raises(OutputError, match="meantime"):
        convert(source, place / "out", progress=other)
    assert names(place) == ["out"] and names(place / "out") == ["theirs"]


def test_result_is_readable_by_others(source: Path, place: Path) -> None:
    convert(source, place / "out")
    mask = os.umask(0)
    os.umask(mask)
    assert (place / "out").stat().st_mode & 0o777 == 0o777 & ~mask


_SLOW = """
import sys, time
from pathlib import Path
from qwen3_mlx.convert import report
def slowly(self, done, total):
    print("working", flush=True)
    time.sleep(60)
report.Progress.__call__ = slowly
from qwen3_mlx.convert.__main__ import main
sys.argv[1:] = ["--model", sys.argv[1], "--output", sys.argv[2]]
sys.exit(main())
"""


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    """A conversion that has written something and now waits."""
    command = [sys.executable, "-c", _SLOW, str(source), str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_conversion_leaves_nothing(source: Path, place: Path, number: int, status: int) -> None:
    process = start(source, place / "deep" / "out")
    assert names(place) == ["deep"]
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status and "Traceback" not in said
    assert names(place) == []


def test_killed_conversion_is_swept_by_the_next(source: Path, place: Path) -> None:
    process = start(source, place / "out")
    process.kill()
    process.communicate()
    left = names(place)
    assert len(left) == 1 and left[0].startswith(".out.converting-")
    (place / ".other.converting-12345678").mkdir()  # of another output: not ours
    convert(source, place / "out")
    assert names(place) == [".other.converting-12345678", "out"]


def test_conversion_at_work_is_not_swept(source: Path, place: Path) -> None:
    process = start(source, place / "out")
    (at_work,) = names(place)
    convert(source, place / "out")
    assert names(place) == [at_work, "out"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert names(place) == ["out"]


def test_killed_between_the_two_renames(source: Path, place: Path) -> None:
    convert(source, place / "out", bits=8)
    (place / "out").rename(place / ".out.replaced-12345678")
    with module.staged(place / "out", force=True) as stage:
        assert names(place) == [stage.name, "out"]  # put back before anything else
        (stage / "config.json").write_text("new")
    assert names(place) == ["out"] and (place / "out" / "config.json").read_text() == "new"
