"""What stands in for one kernel of a GPU in a graph that is built on a CPU: one node of the right shape.

On a CPU each ``mx.fast`` operation unfolds into many nodes, and MLX builds the nodes of Metal kernels for a GPU only.
Such graphs are built and counted, never evaluated.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import mlx.core as mx


def _elementwise(node: Callable[[mx.array], mx.array]) -> Callable[..., mx.array]:
    return lambda x, *_, **__: node(x)


def _dequantized(
    w: mx.array, scales: mx.array, biases: Any = None, group_size: int = 64, bits: int = 4, **_: Any
) -> Any:
    return mx.ceil(mx.broadcast_to(scales[..., :1], (*w.shape[:-1], w.shape[-1] * 32 // bits)))


#: What stands in for an operation that is one kernel on a GPU: a node that nothing else in these models makes.
STAND_INS: dict[tuple[Any, str], Callable[..., mx.array]] = {
    (mx.fast, "rms_norm"): _elementwise(mx.negative),
    (mx.fast, "rope"): _elementwise(mx.floor),
    (mx.fast, "scaled_dot_product_attention"): _elementwise(mx.sign),
    (mx, "dequantize"): _dequantized,
}


@contextlib.contextmanager
def one_node() -> Iterator[None]:
    """Every operation of MLX that is one kernel on a GPU, and many nodes on a CPU, as a single node."""
    with contextlib.ExitStack() as stack:
        for (module, name), stand_in in STAND_INS.items():
            stack.enter_context(mock.patch.object(module, name, stand_in))
        yield


@functools.cache
def _constant(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    array = mx.zeros(shape, dtype)
    mx.eval(array)
    return array


def _depends(**_: Any) -> Callable[..., Sequence[mx.array]]:
    """In the place of ``mx.fast.metal_kernel``."""

    def launch(
        *, inputs: Sequence[Any], output_shapes: Sequence[Any], output_dtypes: Sequence[mx.Dtype], **_: Any
    ) -> Sequence[mx.array]:
        outputs = [_constant(tuple(shape), dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]
        given: Sequence[mx.array] = mx.depends(outputs, [each for each in inputs if isinstance(each, mx.array)])
        return given

    return launch


@contextlib.contextmanager
def kernel_nodes() -> Iterator[None]:
    """Metal kernels as one node each, with the inputs and outputs of the kernel."""
    with mock.patch.object(mx.fast, "metal_kernel", _depends):
        yield
