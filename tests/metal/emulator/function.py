"""A kernel by its source: preprocessed, translated, checked, compiled and ready to launch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from . import checks, launch, toolchain
from .errors import CompileError, LaunchError
from .parameters import entry
from .report import note
from .settings import current
from .translate import translate


@dataclass(frozen=True)
class Output:
    """An output of a launch: uninitialised, or filled with `init`."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    init: float | None = None


@functools.cache
def mlx_include() -> Path:
    """The folder of MLX's headers in the installed wheel."""
    return Path(mx.__file__).parent / "include"


def to_bytes(array: Any) -> bytes:
    """The elements of an MLX or numpy array or scalar, row-major."""
    if isinstance(array, mx.array):
        if array.dtype == mx.bfloat16:
            array = array.view(mx.uint16)
        return np.array(array, copy=False).tobytes()
    return np.asarray(array).tobytes()


def from_bytes(data: bytes, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """The MLX array that these bytes are."""
    if dtype == mx.bfloat16:
        return mx.array(np.frombuffer(data, np.uint16)).view(mx.bfloat16).reshape(shape)
    numpy_dtype = np.array(mx.zeros((1,), dtype)).dtype
    return mx.array(np.frombuffer(data, numpy_dtype)).reshape(shape)


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


class Function:
    """One kernel of a Metal source.

    Args:
        source: Metal source; it may include headers found in `include` and in MLX's wheel.
        kernel: `name`, or `name<arguments>` for a template.
        constants: function constants by index.
        strict: hold the text of the source to ASCII and to literals without doubles.
    """

    def __init__(
        self,
        source: str,
        kernel: str,
        constants: Mapping[int, Any] | None = None,
        include: Sequence[Path] = (),
        strict: bool = False,
        label: str = "",
    ) -> None:
        self.kernel = kernel
        self.label = label or kernel
        if strict and current().check_source:
            checks.check_text(source, self.label)
        self._constants = dict(constants or {})
        self._flat = toolchain.preprocess(source, [*include, mlx_include()])
        translated = translate(self._flat, self._constants)
        self.instances = translated.instances
        name = kernel.split("<")[0].strip()
        if name not in translated.kernels:
            raise LaunchError(f"{self.label}: the source has no kernel of this name")
        self.parameters = translated.kernels[name]
        checks.check_buffers(self.parameters, self.label)
        self._entry = entry(kernel, self.parameters)
        self._cpp = translated.cpp + self._entry
        self._checked = False

    def check(self) -> None:
        """Refuses mixed address spaces and recursion."""
        if not self._checked:
            self._compiled()
            cpp = translate(self._flat, self._constants, pointers=True).cpp + self._entry
            checks.check_compiled(cpp, self.label)
            self._checked = True

    def _compiled(self) -> int:
        mode = "instrumented" if current().instrumented else "plain"
        try:
            return launch.load(toolchain.kernel(self._cpp, mode, self.label))
        except CompileError as error:
            raise CompileError(f"{self.label}: {error}") from None

    def run(self, arguments: Mapping[str, Any], grid: Sequence[int], threadgroup: Sequence[int]) -> dict[str, mx.array]:
        """Launches `grid` threads; the outputs by name. Arguments are arrays, scalars or `Output`s by parameter."""
        if current().check_source:
            self.check()
        buffers: list[launch.Buffer] = []
        outputs = {}
        for p in sorted((p for p in self.parameters if p.buffer is not None), key=lambda p: p.buffer or 0):
            while len(buffers) < (p.buffer or 0):
                buffers.append(launch.Buffer(f"(no buffer {len(buffers)})", 0, b"", False))
            given = arguments.get(p.name)
            if isinstance(given, Output):
                outputs[p.name] = given
                item = given.dtype.size
                size = int(np.prod(given.shape, dtype=np.int64)) * item
                data = None if given.init is None else to_bytes(mx.full(given.shape, given.init, given.dtype))
                buffers.append(launch.Buffer(p.name, size, data, True, item))
            else:
                data = b"" if given is None else to_bytes(given)
                buffers.append(launch.Buffer(p.name, len(data), data, False))
        results, report = launch.run(
            self.label, self._compiled(), buffers, _three(grid), _three(threadgroup), current()
        )
        note(report)
        return {name: from_bytes(results[name], o.shape, o.dtype) for name, o in outputs.items()}
