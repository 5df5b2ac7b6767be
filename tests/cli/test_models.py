from __future__ import annotations

import json

import pytest

from qwen3_mlx import hub

from .conftest import CommandLine


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hub,
        "list_models",
        lambda: [
            hub.Listed("demo", "/somewhere/demo/dense", 3_200_000, True),
            hub.Listed("demo-moe", "/somewhere/demo/moe", 0, False),
            hub.Listed("qwen3:0.6b", "Qwen/Qwen3-0.6B-MLX-4bit", 335_000_000, True),
            hub.Listed("qwen3:32b", "Qwen/Qwen3-32B-MLX-4bit", 18_430_000_000, False),
        ],
    )


def test_a_table(command_line: CommandLine) -> None:
    assert command_line("models").out.splitlines() == [
        "NAME            SIZE  HERE      LEADS TO",
        "demo          3.2 MB  embedded  /somewhere/demo/dense",
        "demo-moe      0.0 MB  -         /somewhere/demo/moe",
        "qwen3:0.6b  335.0 MB  cached    Qwen/Qwen3-0.6B-MLX-4bit",
        "qwen3:32b    18.4 GB  -         Qwen/Qwen3-32B-MLX-4bit",
    ]


def test_json(command_line: CommandLine) -> None:
    listed = json.loads(command_line("models", "--json").out)
    assert [model["name"] for model in listed] == ["demo", "demo-moe", "qwen3:0.6b", "qwen3:32b"]
    assert listed[2] == {
        "name": "qwen3:0.6b",
        "target": "Qwen/Qwen3-0.6B-MLX-4bit",
        "bytes": 335_000_000,
        "local": True,
    }
