"""Where there is no Apple GPU: the emulator of Metal that the source checkout has, in the place of MLX's kernels.

It knows whether a kernel is right. How long one takes in it says nothing, so nothing is timed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from ..errors import Unavailable
from ..kernels.metal_source import standing_in

_NAME = "qwen3_mlx_metal_emulator"


def folder() -> Path:
    """Where the emulator is, if this package runs from a checkout."""
    return Path(__file__).resolve().parents[2] / "tests" / "metal" / "emulator"


def find() -> ModuleType:
    """The emulator, with a compiler to run it. Raises :class:`Unavailable` with what to do."""
    place = folder()
    if not (place / "__init__.py").is_file():
        raise Unavailable(
            "the emulator that checks kernels without an Apple GPU is not part of an installed package: run this from"
            " a checkout of the source (make setup, then .venv/bin/qwen3-mlx doctor --kernels)"
        )
    emulator = _load(place)
    try:
        emulator.compiler()
    except emulator.NoCompilerError:
        raise Unavailable(
            "the emulator that checks kernels without an Apple GPU needs a C++ compiler: install g++, or name one in"
            " CXX"
        ) from None
    return emulator


def _load(place: Path) -> ModuleType:
    """The package in this folder, under a name of its own: ``sys.path`` stays as it is."""
    if (loaded := sys.modules.get(_NAME)) is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(_NAME, place / "__init__.py", submodule_search_locations=[str(place)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]
        raise
    return module


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Kernels that are built in this block run in the emulator. Raises :class:`Unavailable`."""
    with standing_in(find().metal_kernel):
        yield
