"""The progress bar: on a terminal, after two seconds, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from qwen3_mlx.convert import report


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, patience: float) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(report, "_PATIENCE", patience)
    with report.Progress() as progress:
        for done in range(0, 1_000_001, 250_000):
            progress(done, 1_000_000)
    return stream.getvalue()


def test_long_work_on_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 0)
    assert "converting" in text and "1.0/1.0 MB" in text


def test_short_work_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), 60) == ""


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO(), 0) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (69_400, "69 kB"),
        (4_200_000, "4.2 MB"),
        (351_000_000, "351 MB"),
        (999_600_000, "1.0 GB"),
        (18_400_000_000, "18.4 GB"),
        (1_234_500_000_000, "1,234.5 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert report.size(count) == text


def test_rich_is_not_imported_for_short_work() -> None:
    program = (
        "import sys; from qwen3_mlx.convert import convert, report\n"
        "with report.Progress() as progress: progress(1, 2)\n"
        "sys.exit(any(name in sys.modules for name in ('rich', 'numpy', 'mlx_lm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
