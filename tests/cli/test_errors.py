from __future__ import annotations

import warnings

import click
import pytest

from qwen3_mlx.cli.errors import run


def test_a_warning_is_one_line_without_our_source(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        warnings.warn("the Metal kernel router is not used:\n  no luck", RuntimeWarning, stacklevel=2)

    shown = warnings.showwarning
    assert run(command, "program", []) == 0
    assert capsys.readouterr().err == "warning: the Metal kernel router is not used: no luck\n"
    assert warnings.showwarning is shown
