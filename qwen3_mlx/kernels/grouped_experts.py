"""The chosen experts of a mixture of experts for more tokens than :mod:`qwen3_mlx.kernels.experts` is for, and fewer
than a prefill: tokens that chose the same expert share its weights.

A token's result is to the last bit that of the kernels for few tokens, whatever the other tokens are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from . import experts as few
from .metal_source import build, factory
from .reference import Packed

#: Tokens beyond which MLX's own kernels for sorted pairs are the better ones; these take more all the same.
MAX_ROWS = 63
#: Each pair is compared with all others.
MAX_PAIRS = 1024

_PACKED = ["weight", "scales", "biases"]


class Groups(NamedTuple):
    """Pairs of a token and an expert by expert: ``order [rows * top_k]`` (uint32) are the pairs in ascending order of
    their experts; those of expert e are ``order[starts[e] : starts[e + 1]]``."""

    order: mx.array
    starts: mx.array


@functools.cache
def _groups(make: Any) -> Callable[..., Any]:
    return build(make, "moe_groups", ["experts"], ["order", "starts"])


@functools.cache
def _gate_up(make: Any) -> Callable[..., Any]:
    inputs = ["x", "order", "starts", *_PACKED]
    return build(make, "moe_gate_up_grouped", inputs, ["out"], "affine", "affine_tokens")


@functools.cache
def _down(make: Any) -> Callable[..., Any]:
    inputs = ["inner", "order", "starts", "weights", *_PACKED]
    return build(make, "moe_down_grouped", inputs, ["products"], "affine", "affine_tokens")


@functools.cache
def _sum(make: Any) -> Callable[..., Any]:
    return build(make, "moe_sum", ["products"], ["out"])


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
    """As :func:`qwen3_mlx.kernels.experts.supported`, for the kernels of this module."""
    return (
        rows > few.MAX_ROWS
        and rows * top_k <= MAX_PAIRS
        and few.supported(1, hidden, inner, top_k, bits, group_size, dtype, mode)
    )


def group(experts: mx.array, stack: int) -> Groups:
    """``experts [rows, top_k]`` (uint32), of ``stack`` experts, by expert."""
    # Not fewer than 8 starts, which MLX would pass in another address space.
    pairs, starts = experts.size, max(stack + 1, 8)
    return Groups(
        *_groups(factory())(
            inputs=[experts],
            grid=(pairs + starts, 1, 1),
            threadgroup=(128, 1, 1),
            output_shapes=[(pairs,), (starts,)],
            output_dtypes=[mx.uint32, mx.uint32],
        )
    )


def gate_up_swiglu(x: mx.array, groups: Groups, top_k: int, gate_up: Packed) -> mx.array:
    """:func:`qwen3_mlx.kernels.experts.gate_up_swiglu` of grouped pairs: ``[rows, top_k, inner]``."""
    rows, dims = x.shape
    stack, both, _ = gate_up.weight.shape
    inner = both // 2
    (out,) = _gate_up(factory())(
        inputs=[x, *groups, gate_up.weight, gate_up.scales, gate_up.biases],
        template=[
            ("T", x.dtype),
            ("DIMS", dims),
            ("INNER", inner),
            ("TOP_K", top_k),
            ("BITS", gate_up.bits),
            ("GROUP", gate_up.group_size),
            ("V", few.values(dims, 16)),
        ],
        grid=(32 * (inner // 8), 2, stack),
        threadgroup=(32, 2, 1),
        output_shapes=[(rows, top_k, inner)],
        output_dtypes=[x.dtype],
    )
    return out


def down_sum(inner: mx.array, groups: Groups, weights: mx.array, down: Packed) -> mx.array:
    """:func:`qwen3_mlx.kernels.experts.down_sum` of grouped pairs, in two launches: ``[rows, hidden]``.

    The second adds up what the first makes for each pair, in float32 and in the order of the slots.
    """
    rows, top_k, dims = inner.shape
    stack, hidden, _ = down.weight.shape
    (products,) = _down(factory())(
        inputs=[inner, *groups, weights, down.weight, down.scales, down.biases],
        template=[
            ("T", inner.dtype),
            ("DIMS", dims),
            ("HIDDEN", hidden),
            ("TOP_K", top_k),
            ("BITS", down.bits),
            ("GROUP", down.group_size),
            ("V", few.values(dims, 8)),
        ],
        grid=(32 * (hidden // 16), 2, stack),
        threadgroup=(32, 2, 1),
        output_shapes=[(rows, top_k, hidden)],
        output_dtypes=[mx.float32],
    )
    (out,) = _sum(factory())(
        inputs=[products],
        template=[("T", inner.dtype), ("HIDDEN", hidden), ("TOP_K", top_k)],
        grid=(hidden, rows, 1),
        threadgroup=(128, 1, 1),
        output_shapes=[(rows, hidden)],
        output_dtypes=[inner.dtype],
    )
    return out
