"""A receipt says everything, is read back as it was, and is written whole or not at all."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.doctor import receipt
from qwen3_mlx.doctor.receipt import Receipt
from qwen3_mlx.errors import OutputError

from .findings import GOOD, HELD, MAC, REFUSED, SWEEP, TIMING, findings


@pytest.fixture
def made() -> Receipt:
    return receipt.receipt(MAC, "metal", [HELD], findings(GOOD, REFUSED), emulated=False, planned=2)


def test_what_it_holds(made: Receipt) -> None:
    assert [(each.checked, each.timing) for each in made.kernels] == [(GOOD, TIMING), (REFUSED, None)]
    assert made.sweeps == (SWEEP,) and made.verdicts == (HELD,) and made.machine == MAC
    data = json.loads(made.to_json())
    assert (data["schema"], data["version"]) == ("qwen3-mlx/doctor", 1)
    assert data["kernels"][0]["timing"]["share"] == [0.408, 0.408]
    assert data["sweeps"][0]["ms"]["128"]["median"] == 0.02
    assert datetime.datetime.fromisoformat(data["made"]).tzinfo is not None


def test_it_is_read_back_as_it_was(made: Receipt) -> None:
    assert receipt.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (["machine", "memory"], "64 GB", "receipt.machine.memory"),
        (["machine", "bandwidth"], [546], "receipt.machine.bandwidth"),
        (["machine", "gpu_cores"], True, "receipt.machine.gpu_cores"),
        (["kernels", 1, "checked", "verdict"], "fine", "receipt.kernels[1].checked.verdict"),
        (["kernels", 0, "timing", "ms", "stock", "median"], None, "receipt.kernels[0].timing.ms.stock.median"),
        (["kernels", 0, "checked", "models"], "demo", "receipt.kernels[0].checked.models"),
        (["sweeps"], {}, "receipt.sweeps"),
        (["extra"], 1, "receipt cannot be"),
    ],
)
def test_what_does_not_fit_is_named(made: Receipt, path: list[Any], value: Any, where: str) -> None:
    data: Any = json.loads(made.to_json())
    inner = data
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match="receipt") as caught:
        receipt.from_json(json.dumps(data))
    assert where in str(caught.value)


@pytest.mark.parametrize("change", [{"version": 2}, {"schema": "another"}])
def test_another_schema_is_not_read(made: Receipt, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no receipt of qwen3-mlx/doctor, version 1"):
        receipt.from_json(json.dumps(json.loads(made.to_json()) | change))


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "receipt.json"
    path.write_text("the last one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match="No space left on device"):
            receipt.write("{}", path)
    assert path.read_text() == "the last one" and list(tmp_path.iterdir()) == [path]
    receipt.write("{}", path)
    assert path.read_text() == "{}\n" and list(tmp_path.iterdir()) == [path]


def test_a_path_that_will_not_do_is_found_before_any_work(tmp_path: Path) -> None:
    receipt.check_output(tmp_path / "receipt.json")
    receipt.check_output(Path("receipt.json"))
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "receipt.json", "no folder")):
        with pytest.raises(OutputError, match=words):
            receipt.check_output(path)
