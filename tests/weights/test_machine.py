"""Free memory as the system and its containers tell it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qwen3_mlx import machine


def test_free_memory_is_plausible() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 16 << 20 < machine.free_memory() <= total


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_container_limit(tmp_path: Path) -> None:
    stat = "anon 100\ninactive_file 300\nfile 400\n"
    root = put(tmp_path, memory_DOT_max="5000\n", memory_DOT_current="1000\n", memory_DOT_stat=stat)
    assert machine._control_group(root) == [4300]


def test_container_limit_of_version_1(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        memory__memory_DOT_limit_in_bytes="5000\n",
        memory__memory_DOT_usage_in_bytes="4900\n",
        memory__memory_DOT_stat="cache 50\ntotal_inactive_file 40\n",
    )
    assert machine._control_group(root) == [140]


def test_exhausted_container_has_nothing_left(tmp_path: Path) -> None:
    root = put(tmp_path, memory_DOT_max="10", memory_DOT_current="20", memory_DOT_stat="")
    assert machine._control_group(root) == [0]


def test_no_limit(tmp_path: Path) -> None:
    assert machine._control_group(tmp_path) == []
    root = put(tmp_path, memory_DOT_max="max\n", memory_DOT_current="1000\n", memory_DOT_stat="")
    assert machine._control_group(root) == []


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_the_tighter_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_control_group", lambda: [1234])
    assert machine.free_memory() == 1234
