"""The router of a mixture of experts as one Metal kernel: softmax, top-k and renormalisation in one launch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .metal_source import build, factory

#: A lane keeps its share of the logits in registers: 32 of them at this many experts.
MAX_EXPERTS = 1024


@functools.cache
def _kernel(make: Any) -> Callable[..., Any]:
    return build(make, "router", ["logits"], ["experts", "weights"])


def supported(experts: int, top_k: int, dtype: mx.Dtype) -> bool:
    """Whether :func:`route` takes ``logits [rows, experts]`` of ``dtype``, for any number of rows."""
    return 1 <= top_k <= experts <= MAX_EXPERTS and dtype in (mx.float32, mx.float16, mx.bfloat16)


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """``logits [rows, experts]`` -> the ``top_k`` experts of each row (uint32) and their weights (float32), both
    ``[rows, top_k]``, best first.

    ``weights = softmax(logits)[chosen]``, divided by their sum if ``normalise`` (Shazeer et al. 2017), in float32.
    Of equal logits the lowest index is chosen. A NaN logit is chosen last and makes its row's weights NaN; the indices
    are valid for any input.
    """
    rows, experts = logits.shape
    chosen, weights = _kernel(factory())(
        inputs=[logits],
        template=[("EXPERTS", experts), ("TOP_K", top_k), ("NORMALISE", normalise)],
        grid=(32, rows, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[(rows, top_k), (rows, top_k)],
        output_dtypes=[mx.uint32, mx.float32],
    )
    return chosen, weights
