"""Verdicts on disk: found again under the same subject only, and never in the way."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.kernels.verdicts import Store, Verdict, cache_folder

SUBJECT: dict[str, Any] = {"kernel": "k", "parameters": ["1", "True"], "source": "ab", "chip": "M9", "os": "30.1"}
GOOD, REFUSED = Verdict("good", "0.5"), Verdict("refused", "[metal::Device] line 3:\n  no such thing: \u00b5")


def test_a_verdict_is_found_again(tmp_path: Path) -> None:
    assert Store(tmp_path / "new").read(SUBJECT) is None
    for verdict in (GOOD, REFUSED):
        Store(tmp_path / "new").write(SUBJECT, verdict)
        assert Store(tmp_path / "new").read(SUBJECT) == verdict
    (file,) = (tmp_path / "new").iterdir()  # one, and nothing half-written beside it
    assert json.loads(file.read_text(encoding="utf-8"))["subject"] == SUBJECT


@pytest.mark.parametrize("part", SUBJECT)
def test_every_part_of_the_subject_counts(tmp_path: Path, part: str) -> None:
    store = Store(tmp_path)
    store.write(SUBJECT, GOOD)
    assert store.read({**SUBJECT, part: "another"}) is None
    assert store.read(dict(reversed(SUBJECT.items()))) == GOOD


def test_all_that_is_held(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.held() == []
    other = {**SUBJECT, "mlx": "9.9"}
    store.write(SUBJECT, GOOD)
    store.write(other, REFUSED)
    (tmp_path / "new" / "damaged.json").write_text("{")
    (tmp_path / "new" / "note.txt").write_text("not ours")
    assert sorted(store.held(), key=str) == sorted([(SUBJECT, GOOD), (other, REFUSED)], key=str)


@pytest.mark.parametrize("change", ["", "{", "[]", "null", '{"format": 1}', b"\xff\xfe", "[" * 100_000])
def test_a_damaged_file_is_not_there(tmp_path: Path, change: str | bytes) -> None:
    store = Store(tmp_path)
    store.write(SUBJECT, GOOD)
    (file,) = tmp_path.iterdir()
    file.write_bytes(change if isinstance(change, bytes) else change.encode())
    assert store.read(SUBJECT) is None
    store.write(SUBJECT, GOOD)
    assert store.read(SUBJECT) == GOOD


@pytest.mark.parametrize("change", [{"verdict": "fine"}, {"verdict": []}, {"format": 2}, {"subject": {}}])
def test_a_file_that_says_something_else_is_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    store = Store(tmp_path)
    store.write(SUBJECT, GOOD)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert store.read(SUBJECT) is None


def test_a_folder_that_cannot_be_written_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "kernels")
    store.write(SUBJECT, GOOD)
    assert store.read(SUBJECT) is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_read_only_folder_is_no_problem(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        Store(tmp_path).write(SUBJECT, GOOD)
        assert Store(tmp_path).read(SUBJECT) is None
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "pathlib.Path.write_text", "os.replace"])
def test_a_disk_that_refuses_is_no_problem_and_nothing_is_left(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(call, refuse)
        Store(tmp_path).write(SUBJECT, GOOD)
    assert not list(tmp_path.iterdir()) and Store(tmp_path).read(SUBJECT) is None


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qwen3-mlx" / "kernels"
    Store().write(SUBJECT, GOOD)
    assert Store(tmp_path / "qwen3-mlx" / "kernels").read(SUBJECT) == GOOD
    Store().remove(SUBJECT)
    assert Store().read(SUBJECT) is None and not list((tmp_path / "qwen3-mlx" / "kernels").iterdir())
    Store().remove(SUBJECT)  # what is not there
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "qwen3-mlx" / "kernels"


@pytest.mark.parametrize("cache", ["", "relative"])
def test_a_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME and an entry in passwd
    assert cache_folder() is None and Store().path(SUBJECT) is None
    Store().write(SUBJECT, GOOD)
    Store().remove(SUBJECT)
    assert Store().read(SUBJECT) is None and not list(tmp_path.iterdir())
