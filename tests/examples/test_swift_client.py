"""The Swift example: its syntax everywhere, and a real question where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.test_command import started

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "swift_client"


@pytest.mark.parametrize("name", ["Package.swift", "Sources/ask/main.swift"])
def test_syntax(name: str) -> None:
    why = "reads Swift with tree-sitter, which `make setup` installs"
    tree_sitter = pytest.importorskip("tree_sitter", reason=why)
    swift = pytest.importorskip("tree_sitter_swift", reason=why)
    parser = tree_sitter.Parser(tree_sitter.Language(swift.language()))
    source = (FOLDER / name).read_bytes()
    waiting = [parser.parse(source).root_node]
    while waiting:
        node = waiting.pop()
        assert not node.is_missing and node.type != "ERROR", f"{name}, line {node.start_point[0] + 1}"
        waiting += node.children


@pytest.mark.skipif(shutil.which("swiftc") is None, reason="there is no Swift compiler here")
@pytest.mark.slow
def test_a_question(tmp_path: Path) -> None:
    program, path = tmp_path / "ask", tmp_path / "s"
    subprocess.run(["swiftc", "-o", str(program), str(FOLDER / "Sources/ask/main.swift")], check=True)
    with started("--uds", str(path)):
        question = "How many r are in raspberries?"
        done = subprocess.run([program, "--socket", path, question], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "raspberries" in done.stdout and done.stderr
    done = subprocess.run([program, "--socket", tmp_path / "none", "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
