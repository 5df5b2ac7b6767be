from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from qwen3_mlx.cli import group, model
from qwen3_mlx.cli.errors import run
from qwen3_mlx.cli.options import Options

from .scripted import ScriptedModel, Turn


class Ran(NamedTuple):
    status: int
    out: str
    err: str


CommandLine = Callable[..., Ran]
Script = Callable[..., ScriptedModel]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Put a scripted model in the real one's place; what was asked for is in its ``opened``."""

    def put(*turns: Turn) -> ScriptedModel:
        scripted = ScriptedModel(list(turns))

        def load(options: Options, once: bool) -> ScriptedModel:
            scripted.opened.append(options)
            return scripted

        monkeypatch.setattr(model, "load", load)
        return scripted

    return put


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Run `qwen3-mlx ARGS` in this process, with bytes as its standard input (none: a closed one)."""

    def call(*args: str, stdin: str | bytes = b"") -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        status = run(group.group, "qwen3-mlx", args)
        sys.stdout.flush()
        sys.stderr.flush()
        return Ran(status, *capfd.readouterr())

    return call
