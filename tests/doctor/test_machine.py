"""The cores of a GPU, and which kernels `auto` takes."""

from __future__ import annotations

import subprocess
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.chips import Limit
from qwen3_mlx.doctor import machine as machines
from qwen3_mlx.doctor.machine import deterministic, gpu_cores, machine, mode
from qwen3_mlx.errors import InvalidRequest


@pytest.mark.parametrize(
    ("answer", "cores"),
    [
        ({"SPDisplaysDataType": [{"_name": "Apple M4 Max", "sppci_cores": "40"}]}, 40),
        ({"SPDisplaysDataType": [{"_name": "a display"}, {"sppci_cores": "8"}]}, 8),
        ({"SPDisplaysDataType": [{"sppci_cores": "some"}]}, None),
        ({"SPDisplaysDataType": ["?"]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_cores_of_a_gpu(answer: Any, cores: int | None) -> None:
    assert gpu_cores(answer) == cores


def test_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, '{"SPDisplaysDataType": [{"sppci_cores": "32"}]}')

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    info = {"device_name": "Apple M4 Max", "max_recommended_working_set_size": 28 << 30}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    here = machine()
    assert (here.chip, here.gpu_cores, here.bandwidth) == ("Apple M4 Max", 32, Limit(410, 410))
    assert here.metal and here.working_set == 28 << 30 and here.system == "macOS 15.5"
    assert asked == [["system_profiler", "SPDisplaysDataType", "-json"]]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert machine().bandwidth == Limit(410, 546)


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_a_machine_without_metal() -> None:
    here = machine()
    assert not here.metal and here.gpu_cores is here.working_set is here.bandwidth is None
    assert here.memory > 1 << 28 and here.packages["mlx"] == mx.__version__  # type: ignore[attr-defined]
    assert all(here.packages.values())


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "PACKAGES", ("mlx", "no-such-package"))
    assert machine().packages == {"mlx": mx.__version__, "no-such-package": None}  # type: ignore[attr-defined]


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_which_kernels_run_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)
    assert mode()[0] == "reference" and "no Apple GPU" in mode()[1]
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "emulate")
    assert mode() == ("emulate", "QWEN3_MLX_KERNELS=emulate says so")
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "fast")
    with pytest.raises(InvalidRequest, match="QWEN3_MLX_KERNELS must be one of"):
        mode()


def test_what_deterministic_means_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "emulate")
    assert deterministic().startswith("avoids MLX's own quantized_matmul, matmul, gather_qmm, scaled_dot_product_")
    monkeypatch.setenv("QWEN3_MLX_KERNELS", "reference")
    monkeypatch.setattr("sys.platform", "darwin")
    assert deterministic().startswith("refused: deterministic=True on a Mac runs on the Metal kernels")
