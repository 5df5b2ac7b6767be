"""The Metal sources that ship with the package: ``kernels/metal/NAME.metal``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

FOLDER = Path(__file__).with_name("metal")


def source(name: str) -> str:
    """The text of a Metal source file."""
    return (FOLDER / f"{name}.metal").read_text(encoding="ascii")


def build(factory: Any, name: str, inputs: Sequence[str], outputs: Sequence[str], *headers: str) -> Callable[..., Any]:
    """The kernel whose body is ``NAME.metal``, after the files ``headers``, made by ``factory``.

    ``factory`` is ``mx.fast.metal_kernel``, looked up by the caller at each launch, so that tests can put an emulator
    in its place: give it to a cached function and every factory has its own kernels.
    """
    kernel: Callable[..., Any] = factory(
        name=f"qwen3_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        source=source(name),
        header="".join(map(source, headers)),
    )
    return kernel


def factory() -> Any:
    """What makes kernels now: MLX's ``metal_kernel``, or a test's stand-in."""
    return mx.fast.metal_kernel


@contextlib.contextmanager
def standing_in(make: Any) -> Iterator[None]:
    """``make`` in the place of MLX's ``metal_kernel``, for the whole process while the block runs."""
    real = mx.fast.metal_kernel
    mx.fast.metal_kernel = make
    try:
        yield
    finally:
        mx.fast.metal_kernel = real


def in_constant(size: int) -> bool:
    """Whether MLX passes so many values in Metal's ``constant`` space: another instantiation of a kernel."""
    return size < 8
