from __future__ import annotations

import pytest

import qwen3_mlx
from qwen3_mlx.cli.group import COMMANDS

from .conftest import CommandLine


def test_help_lists_every_command(command_line: CommandLine) -> None:
    ran = command_line("--help")
    assert ran.status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(command_line: CommandLine, name: str) -> None:
    ran = command_line(name, "--help")
    assert ran.status == 0 and ran.err == ""
    _, examples = ran.out.split("Examples:\n")
    assert len(examples.splitlines()) >= 2 and "qwen3" in examples


def test_version(command_line: CommandLine) -> None:
    assert command_line("--version").out == f"qwen3-mlx {qwen3_mlx.__version__}\n"


def test_an_unknown_command(command_line: CommandLine) -> None:
    ran = command_line("generat")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: No such command 'generat'") and ran.err.count("\n") == 1


def test_the_converter_is_found_by_name(command_line: CommandLine) -> None:
    ran = command_line("convert")
    assert (ran.status, ran.out) == (2, "")
    assert "'--model'" in ran.err and "qwen3-mlx convert --help" in ran.err


def test_no_command_at_all_shows_the_help(command_line: CommandLine) -> None:
    ran = command_line()
    assert ran.status == 2 and "error:" not in ran.err
    assert "\nCommands:\n" in ran.err
