"""What must hold for every Metal source of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from qwen3_mlx.kernels import metal_source

FILES = sorted(metal_source.FOLDER.iterdir())


def test_there_are_sources_and_nothing_else() -> None:
    assert {"router", "moe_gate_up", "moe_down"} <= {path.stem for path in FILES}
    assert {path.suffix for path in FILES} == {".metal"}


def test_the_package_ships_them() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "kernels/metal/*.metal" in project["tool"]["setuptools"]["package-data"]["qwen3_mlx"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_source_is_ascii(path: Path) -> None:
    assert metal_source.source(path.stem).strip()


def test_a_kernel_is_built_by_what_the_caller_gives() -> None:
    given: dict[str, object] = {}

    def make(**arguments: object) -> str:
        given.update(arguments)
        return "kernel"

    kernel = metal_source.build(make, "moe_down", ["a"], ["b"], "affine")
    assert kernel == "kernel"  # type: ignore[comparison-overlap]
    assert given["name"] == "qwen3_moe_down" and given["source"] == metal_source.source("moe_down")
    assert given["header"] == metal_source.source("affine")
