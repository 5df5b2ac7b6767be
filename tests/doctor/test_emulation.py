"""The emulator is found beside the package, and what is missing is said with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.doctor import emulation
from qwen3_mlx.errors import Unavailable
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)


def test_kernels_run_in_it_and_nothing_stays_behind() -> None:
    before, path = mx.fast.metal_kernel, list(sys.path)
    with emulation.emulated():
        assert mx.fast.metal_kernel is emulation.find().metal_kernel
        kernel = mx.fast.metal_kernel("twice", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = 2 * x[i];")
        (y,) = kernel(
            inputs=[mx.arange(8.0)], output_shapes=[(8,)], output_dtypes=[mx.float32], grid=(8, 1, 1),
            threadgroup=(8, 1, 1),
        )  # fmt: skip
        assert y.tolist() == [2.0 * i for i in range(8)]
    assert mx.fast.metal_kernel is before and sys.path == path


def test_it_is_found_by_path_in_a_fresh_process(tmp_path: Path) -> None:
    code = (
        "import sys; from qwen3_mlx.doctor import emulation\n"
        "print(emulation.find().__file__)\n"
        "assert 'tests' not in sys.modules and not [p for p in sys.path if p.endswith('metal')]"
    )
    root = Path(emulation.__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(root)!r})\n{code}"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert ran.stdout.strip() == str(emulation.folder() / "__init__.py")


def test_an_installed_package_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "folder", lambda: tmp_path / "tests" / "metal" / "emulator")
    with pytest.raises(Unavailable, match="from a checkout of the source"), emulation.emulated():
        pytest.fail("nothing to emulate with")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = emulation.find()

    def none() -> str:
        raise emulator.NoCompilerError("no C++ compiler")

    monkeypatch.setattr(emulator, "compiler", none)
    with pytest.raises(Unavailable, match=r"install g\+\+, or name one in CXX"):
        emulation.find()


def test_an_emulator_that_cannot_be_imported_is_not_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("raise ImportError('numpy')")
    monkeypatch.setattr(emulation, "folder", lambda: tmp_path)
    monkeypatch.delitem(sys.modules, emulation._NAME, raising=False)
    for _ in range(2):
        with pytest.raises(ImportError, match="numpy"):
            emulation.find()
