"""The stand-in for `mx.fast.metal_kernel`: MLX generates the source, the emulator runs it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .errors import LaunchError
from .function import Function, Output
from .settings import current

_real_metal_kernel = mx.fast.metal_kernel
_PRELUDE = '#include "mlx/backend/metal/kernels/utils.h"\n#line 1 "kernel.metal"\n'
_cache: dict[Any, Function] = {}


def _printed(call: Callable[[], None]) -> str:
    """What a call writes on file descriptor 1."""
    sys.stdout.flush()
    saved = os.dup(1)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 1)
            call()
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        file.seek(0)
        return file.read().decode()


def generated_source(kernel: Callable[..., Any], inputs: Sequence[mx.array], **launch: Any) -> str:
    """The Metal source that MLX makes for a launch of one of its own `metal_kernel`s."""

    def call(*arrays: mx.array) -> Any:
        return kernel(inputs=list(arrays), verbose=True, stream=mx.gpu, **launch)

    with tempfile.TemporaryDirectory() as folder:
        text = _printed(lambda: mx.export_function(str(Path(folder) / "kernel.mlxfn"), call, *inputs))
    found = re.search(r"Generated source code for `[^`]*`:\n```\n(.*)```", text, re.DOTALL)
    if not found:
        raise LaunchError(f"MLX printed no source: {text[:500]}")
    return found[1]


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
) -> Callable[..., list[mx.array]]:
    """As `mx.fast.metal_kernel`; launches run at once, in the emulator, under the current settings."""
    real: Any = _real_metal_kernel(
        name=name,
        input_names=input_names,
        output_names=output_names,
        source=source,
        header=header,
        ensure_row_contiguous=ensure_row_contiguous,
        atomic_outputs=atomic_outputs,
    )

    def call(
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        template: Sequence[tuple[str, Any]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        del stream
        arrays = [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]
        classes = tuple((a.dtype, a.size < 8, a.ndim == 0) for a in arrays)
        key = (real, current().check_source, classes, tuple(output_dtypes), tuple(template or ()))
        if key not in _cache:
            text = generated_source(
                real,
                arrays,
                output_shapes=output_shapes,
                output_dtypes=output_dtypes,
                grid=tuple(grid),
                threadgroup=tuple(threadgroup),
                template=list(template or ()),
                init_value=init_value,
            )
            _cache[key] = _function(name, text, header + source)
            if verbose:
                print(text)
        shapes = [tuple(s) for s in output_shapes]
        arguments: dict[str, Any] = {}
        for input_name, array in zip(input_names, arrays, strict=True):
            arguments[input_name] = array
            arguments.update(_layout(input_name, array))
        for output_name, shape, dtype in zip(output_names, shapes, output_dtypes, strict=True):
            arguments[output_name] = Output(shape, dtype, init_value)
        results = _cache[key].run(arguments, grid, threadgroup)
        return [results[n] for n in output_names]

    return call


def _function(name: str, text: str, written: str) -> Function:
    if current().check_source:
        from .checks import check_text

        check_text(written, name)
    instance = re.search(r"template \[\[host_name\(.*?\)\]\] \[\[kernel\]\] decltype\(([^;]*?)\) ", text, re.DOTALL)
    expression = instance[1] if instance else re.findall(r"\[\[kernel\]\]\s*void\s+(\w+)", text)[-1]
    return Function(_PRELUDE + text, expression, label=name)


def _layout(name: str, array: mx.array) -> dict[str, Any]:
    """The shape, strides and rank that a source can name. Arrays are passed row-contiguous."""
    strides = [int(np.prod(array.shape[i + 1 :], dtype=np.int64)) for i in range(array.ndim)]
    return {
        f"{name}_shape": np.array(array.shape, np.int32),
        f"{name}_strides": np.array(strides, np.int64),
        f"{name}_ndim": np.int32(array.ndim),
    }
