from __future__ import annotations

import pytest

from qwen3_mlx.cli.progress import progress


def test_the_progress_of_a_terminal_is_not_stdouts(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress() as show:
        show("checking router", 1, 2)
    assert not capfd.readouterr().out


def test_a_pipe_gets_none(capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show("checking router", 1, 2)
    assert capfd.readouterr() == ("", "")
