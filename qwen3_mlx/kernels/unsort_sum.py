"""The end of a MoE block whose pairs were sorted by expert, as one Metal kernel: unsorting and the weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .metal_source import build, factory


@functools.cache
def _kernel(make: Any) -> Callable[..., Any]:
    return build(make, "moe_unsort_sum", ["y", "places", "weights"], ["out"], "affine")


def supported(pairs: int, hidden: int, dtype: mx.Dtype) -> bool:
    """Whether :func:`unsort_sum` takes ``y [pairs, hidden]`` of ``dtype``."""
    # MLX passes fewer pairs in another address space.
    return pairs >= 8 and hidden > 0 == hidden % 128 and dtype in (mx.bfloat16, mx.float16)


def unsort_sum(y: mx.array, order: mx.array, weights: mx.array) -> mx.array:
    """:func:`qwen3_mlx.kernels.reference.unsort_sum`, in float32 and in the order of the slots, rounded once.

    ``y [rows * top_k, hidden]``, ``order [rows * top_k]`` (uint32), ``weights [rows, top_k]`` (float32) -> ``[rows,
    hidden]``, in the dtype of ``y``.
    """
    (rows, top_k), hidden = weights.shape, y.shape[1]
    (out,) = _kernel(factory())(
        inputs=[y, mx.argsort(order), weights],
        template=[("T", y.dtype), ("HIDDEN", hidden), ("TOP_K", top_k)],
        grid=(hidden // 4, rows, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[(rows, hidden)],
        output_dtypes=[y.dtype],
    )
    return out
