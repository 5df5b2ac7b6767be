"""The chosen experts of a mixture of experts as two Metal kernels, for the few tokens of a decode step.

The first reads gate and up and applies SwiGLU, the second reads down and adds the experts up. Each weight is read once
per token that chose it; a token's result does not depend on the other tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .metal_source import build, factory
from .reference import Packed

#: Tokens from which grouping them by expert pays more than these kernels do.
MAX_ROWS = 8
#: Simdgroups of a threadgroup of the second kernel; more experts than that are taken in turns.
MAX_SLOTS = 16
MAX_TOP_K = 64


@functools.cache
def _gate_up(make: Any) -> Callable[..., Any]:
    return build(make, "moe_gate_up", ["x", "experts", "weight", "scales", "biases"], ["out"], "affine")


@functools.cache
def _down(make: Any) -> Callable[..., Any]:
    inputs = ["inner", "experts", "weights", "weight", "scales", "biases"]
    return build(make, "moe_down", inputs, ["out"], "affine")


def supported(
    rows: int,
    hidden: int,
    inner: int,
    top_k: int,
    bits: int,
    group_size: int,
    dtype: mx.Dtype,
    mode: str = "affine",
) -> bool:
    """Whether :func:`gate_up_swiglu` and :func:`down_sum` take ``rows`` tokens of width ``hidden`` and experts of
    width ``inner`` packed in this way; ``dtype`` is that of the activations."""
    return (
        1 <= rows <= MAX_ROWS
        and 1 <= top_k <= MAX_TOP_K
        and hidden > 0 < inner
        and hidden % 128 == 0 == inner % 128
        and mode == "affine"
        and bits in (4, 8)
        and group_size in (32, 64, 128)
        and dtype in (mx.bfloat16, mx.float16)
    )


def values(dims: int, most: int) -> int:
    """Values a lane takes at a time: as many as let 32 lanes divide a row."""
    return next(values for values in (16, 8, 4) if values <= most and dims % (32 * values) == 0)


def gate_up_swiglu(x: mx.array, experts: mx.array, gate_up: Packed) -> mx.array:
    """``x [rows, hidden]``, ``experts [rows, top_k]`` (uint32) -> ``[rows, top_k, inner]``, in the dtype of ``x``.

    ``silu(gate @ x) * (up @ x)`` (Shazeer 2020) in float32, rounded once; ``gate_up`` holds the rows of gate, then
    those of up: ``[experts, 2 * inner, hidden]``.
    """
    rows, dims = x.shape
    top_k, inner = experts.shape[1], gate_up.weight.shape[1] // 2
    (out,) = _gate_up(factory())(
        inputs=[x, experts, gate_up.weight, gate_up.scales, gate_up.biases],
        template=[
            ("T", x.dtype),
            ("DIMS", dims),
            ("INNER", inner),
            ("TOP_K", top_k),
            ("BITS", gate_up.bits),
            ("GROUP", gate_up.group_size),
            ("V", values(dims, 16)),
        ],
        grid=(32 * (inner // 8), 2, rows * top_k),
        threadgroup=(32, 2, 1),
        output_shapes=[(rows, top_k, inner)],
        output_dtypes=[x.dtype],
    )
    return out


def down_sum(inner: mx.array, experts: mx.array, weights: mx.array, down: Packed) -> mx.array:
    """``inner [rows, top_k, dims]``, ``experts [rows, top_k]`` (uint32), ``weights [rows, top_k]`` (float32) ->
    ``[rows, hidden]``, in the dtype of ``inner``.

    ``sum over k of weights[k] * (down[experts[k]] @ inner[k])`` in float32, in the order of ``k``, rounded once;
    ``down`` is ``[experts, hidden, dims]``.
    """
    rows, top_k, dims = inner.shape
    hidden, slots = down.weight.shape[1], min(top_k, MAX_SLOTS)
    (out,) = _down(factory())(
        inputs=[inner, experts, weights, down.weight, down.scales, down.biases],
        template=[
            ("T", inner.dtype),
            ("DIMS", dims),
            ("HIDDEN", hidden),
            ("TOP_K", top_k),
            ("SLOTS", slots),
            ("BITS", down.bits),
            ("GROUP", down.group_size),
            ("V", values(dims, 8)),
        ],
        grid=(32 * (hidden // 8), slots, rows),
        threadgroup=(32, slots, 1),
        output_shapes=[(rows, hidden)],
        output_dtypes=[inner.dtype],
    )
    return out
