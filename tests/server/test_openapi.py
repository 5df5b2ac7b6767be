"""The OpenAPI document, and a fuzzer that plays with all it says: no 5xx, nothing that the document does not allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from qwen3_mlx import Qwen3, TextDelta, ThinkingDelta, ToolCallDelta

from .scripted import finished, scripted_model
from .serving import Running, serving

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [
    ThinkingDelta("hm"),
    TextDelta("Hello"),
    ToolCallDelta(0, "call_1", "f"),
    ToolCallDelta(0, arguments="{}"),
    finished(),
]


def fuzz(server: Running, examples: int, *more: str, tokens: str = "") -> None:
    """schemathesis with all of its checks over the whole document; fails with its report."""
    hooks = {"SCHEMATHESIS_HOOKS": "tests.server.fuzz_hooks", "QWEN3_FUZZ_TOKENS": tokens}
    options = ["--checks", "all", "--max-examples", str(examples), "--seed", "1", "--continue-on-failure", *more]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *options],
        cwd=ROOT,
        env={**os.environ, **hooks, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "generated" in done.stdout and server.client.get("/health").status_code == 200


def test_the_document() -> None:
    with serving(scripted_model(SCRIPT)[0]) as server:
        document = server.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert document["components"]["schemas"]["Chat"]["properties"]["model"]["enum"] == ["demo", None]


@pytest.mark.slow
def test_everything_that_is_said_holds() -> None:
    with serving(scripted_model(SCRIPT)[0], queue=1000) as server:
        fuzz(server, 15)


@pytest.mark.slow
def test_everything_that_is_said_holds_with_the_real_engine(demo: Qwen3) -> None:
    with serving(demo, queue=1000) as server:
        fuzz(server, 10, "--phases", "fuzzing", tokens="2")
        server.idle()
