"""The Metal sources of launches that do not run, and their compilation ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx

from .emulator import generated_source
from .emulator.standin import _function

_real_metal_kernel: Any = mx.fast.metal_kernel


class Source(NamedTuple):
    """A kernel's name, and its source as MLX generates it for one instantiation."""

    kernel: str
    text: str


def recorded(run: Callable[[], object]) -> list[Source]:
    """The kernels that ``run`` launches; their results are zeros."""
    sources: list[Source] = []

    def make(**given: Any) -> Callable[..., list[mx.array]]:
        kernel = _real_metal_kernel(**given)

        def launch(inputs: Sequence[mx.array], **how: Any) -> list[mx.array]:
            sources.append(Source(given["name"], generated_source(kernel, inputs, **how)))
            shapes, dtypes = how["output_shapes"], how["output_dtypes"]
            return [mx.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]

        return launch

    with mock.patch.object(mx.fast, "metal_kernel", make):
        run()
    return sources


def compile_ahead(runs: Iterable[Callable[[], object]]) -> None:
    """Compiles what ``runs`` launch under the current settings, two at a time; the launches find it in the cache."""
    sources = dict.fromkeys(source for run in runs for source in recorded(run))
    functions = [_function(source.kernel, source.text, source.text) for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda function: function._compiled(), functions))
