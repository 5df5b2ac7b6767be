"""Compiled templates that are kept: found again where nothing has changed, and compiled again in every other case."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen3_mlx.errors import TemplateError
from qwen3_mlx.text import compiled, sandbox
from qwen3_mlx.text.chat import ChatTemplate

from .conftest import official

TALK = [{"role": "user", "content": "hi"}]
SOURCE = "{% for m in messages %}{{ m.content }}!{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where templates are kept in this test."""
    place = tmp_path / "kept"
    monkeypatch.setattr(compiled, "cache_folder", lambda name: place / name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return place / "templates"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many templates have been compiled."""
    parsed: list[str] = []
    own = sandbox.Sandbox.parse_bounded

    def parse(self: sandbox.Sandbox, source: str) -> object:
        parsed.append(source)
        return own(self, source)

    monkeypatch.setattr(sandbox.Sandbox, "parse_bounded", parse)
    return lambda: len(parsed)


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("name", ["hybrid", "nonthinking", "plain"])
def test_the_second_time_nothing_is_compiled_and_the_prompt_is_the_same(
    name: str, folder: Path, count: Callable[[], int], make_template
) -> None:
    source = SOURCE if name == "plain" else official(name)
    first = make_template(source).render(TALK)
    assert (make_template(source).render(TALK), count()) == (first, 1)


def test_two_folders_share_what_is_kept(folder: Path, count: Callable[[], int], make_template, tmp_path: Path) -> None:
    make_template(SOURCE).render(TALK)
    other = tmp_path / "other"
    other.mkdir()
    (other / "chat_template.jinja").write_text(SOURCE)
    assert ChatTemplate.from_folder(other).render(TALK) == "hi!"
    assert count() == 1 and only(folder)


def test_a_refusal_names_its_own_file_and_line_from_kept_code_too(folder: Path, make_template, tmp_path: Path) -> None:
    source = "{{ messages[0].role }}\n\n{{ raise_exception('no') }}"
    for _ in range(2):
        with pytest.raises(TemplateError) as caught:
            make_template(source).render(TALK)
        assert f"{tmp_path / 'chat_template.jinja'}, line 3:" in str(caught.value)
    assert only(folder)


def test_kept_code_is_metered(folder: Path, count: Callable[[], int]) -> None:
    source = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    for _ in range(2):
        with pytest.raises(TemplateError, match="was stopped"):
            ChatTemplate({"default": (source, Path("slow"))}, seconds=0.2).render(TALK)
    assert count() == 1


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 200, -1])
def test_a_damaged_file_is_compiled_again_and_replaced(
    place: int, folder: Path, count: Callable[[], int], make_template
) -> None:
    make_template(SOURCE).render(TALK)
    path = only(folder)
    whole = path.read_bytes()
    hurt = bytearray(whole)
    hurt[place] ^= 1
    for held in (bytes(hurt), whole[:place], b""):
        path.write_bytes(held)
        assert make_template(SOURCE).render(TALK) == "hi!"
        assert path.read_bytes() == whole
    assert count() == 4


def test_another_compiler_compiles_again(
    folder: Path, count: Callable[[], int], make_template, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_template(SOURCE).render(TALK)
    before = only(folder).read_bytes()
    monkeypatch.setattr("importlib.util.MAGIC_NUMBER", b"next")
    assert make_template(SOURCE).render(TALK) == "hi!"
    assert count() == 2 and only(folder).read_bytes() != before


def test_an_edit_of_the_sandbox_compiles_again(
    folder: Path, count: Callable[[], int], make_template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_template(SOURCE).render(TALK)
    (tmp_path / "sandbox.py").write_text("# edited")
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "sandbox.py"))
    make_template(SOURCE).render(TALK)
    assert count() == 2


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_is_not_run(mode: int, folder: Path, count: Callable[[], int], make_template) -> None:
    make_template(SOURCE).render(TALK)
    assert only(folder).stat().st_mode & 0o777 == 0o600
    only(folder).chmod(mode)
    assert make_template(SOURCE).render(TALK) == "hi!"
    assert count() == 2


def test_what_belongs_to_somebody_else_is_not_run(
    folder: Path, count: Callable[[], int], make_template, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_template(SOURCE).render(TALK)
    monkeypatch.setattr(os, "geteuid", lambda: only(folder).stat().st_uid + 1)
    assert make_template(SOURCE).render(TALK) == "hi!"
    assert count() == 2


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "tempfile.mkstemp", "os.replace"])
def test_a_disk_that_refuses_is_no_problem_and_nothing_is_left(
    call: str, folder: Path, make_template, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(call, refuse)
        assert make_template(SOURCE).render(TALK) == "hi!"
    assert not folder.exists() or not list(folder.iterdir())


def test_nothing_is_kept_without_a_home_or_where_python_writes_no_bytecode(
    folder: Path, make_template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert make_template(SOURCE).render(TALK) == "hi!"
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(compiled, "cache_folder", lambda name: None)
    assert make_template(SOURCE).render(TALK) == "hi!"
    assert not folder.exists()


def test_what_cannot_be_compiled_is_not_kept(folder: Path, make_template) -> None:
    for _ in range(2):
        with pytest.raises(TemplateError, match="is broken"):
            make_template("{% if %}").render(TALK)
    assert not folder.exists()
