"""How the kernels of the MoE block are tried on a machine: see :mod:`qwen3_mlx.kernels.verify`.

Both sides of the expert kernels' trials start from the same packed weights.
"""

from __future__ import annotations

import mlx.core as mx

from . import experts as kernels
from . import reference, router
from .reference import Packed
from .tolerance import rounding, worst
from .verify import Trial

STACK = 2
# The steepest slope of silu.
_SLOPE = 1.1


def _rows(width: int, few: bool) -> int:
    """Rows of ``width`` values that make as many values as MLX passes in ``constant`` space, or more."""
    return 7 // width if few else max(2, -(-8 // width))


def _router_error(dtype: mx.Dtype, experts: int, top_k: int, normalise: bool, few: bool) -> mx.array:
    logits = 3 * mx.random.normal((_rows(experts, few), experts), key=mx.random.key(0))
    logits = logits.astype(dtype)
    chosen, weights = router.route(logits, top_k, normalise)
    others, expected = reference.route(logits, top_k, normalise)
    # Equal logits may be chosen either way: compare what was chosen by its logits.
    ours, theirs = (
        mx.sort(mx.take_along_axis(logits, mx.minimum(at, experts - 1), axis=1), axis=1) for at in (chosen, others)
    )
    order = mx.sort(chosen, axis=1)
    right = mx.all(ours == theirs) & mx.all(order < experts) & mx.all(order[:, 1:] > order[:, :-1])
    expected = mx.sort(expected, axis=1)[:, ::-1]  # the kernel's come best first
    return mx.where(right, worst(weights, expected, expected * 2.0**-14 + 1e-30), mx.inf)


def _draw(out: int, dims: int, bits: int, group_size: int, dtype: mx.Dtype) -> tuple[Packed, mx.array]:
    """A packed stack ``[STACK, out, dims]`` of random codes, and its values in float32."""
    codes, sizes = mx.random.split(mx.random.key(1))
    weight = mx.random.randint(0, 256, (STACK, out, dims * bits // 8), dtype=mx.uint8, key=codes).view(mx.uint32)
    scales = mx.random.uniform(0.5, 1.5, (STACK, out, dims // group_size), key=sizes) * 0.3 / 2**bits
    scales, biases = scales.astype(dtype), (-(2 ** (bits - 1)) * scales).astype(dtype)
    wide = mx.dequantize(
        weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size, bits, dtype=mx.float32
    )
    return Packed(weight, scales, biases, bits, group_size), wide


def _products(weight: mx.array, x: mx.array, experts: mx.array) -> mx.array:
    """``weight[experts[n]] @ x[n]``: ``[n, out]``. Row by row, because matrix products of several rows are rounded to
    19 bits on some chips, and products with a vector are not."""
    every = mx.stack([mx.matmul(weight, x[at]) for at in range(x.shape[0])])
    return mx.squeeze(mx.take_along_axis(every, experts[:, None, None], axis=1), 1)


def _gate_up_error(
    dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int, few: bool
) -> mx.array:
    rows = _rows(top_k, few)
    packed, weight = _draw(2 * inner, hidden, bits, group_size, dtype)
    values, choice = mx.random.split(mx.random.key(2))
    x = mx.random.normal((rows, hidden), key=values).astype(dtype)
    chosen = mx.random.randint(0, STACK, (rows, top_k), key=choice).astype(mx.uint32)
    got = mx.flatten(kernels.gate_up_swiglu(x, chosen, packed), 0, 1)

    spread, at = mx.repeat(x.astype(mx.float32), top_k, axis=0), mx.flatten(chosen)
    gate, up = mx.split(_products(weight, spread, at), 2, axis=-1)
    gate_terms, up_terms = mx.split(_products(mx.abs(weight), mx.abs(spread), at), 2, axis=-1)
    want, silu = reference.swiglu(gate, up), mx.multiply(gate, mx.sigmoid(gate))
    terms = _SLOPE * mx.abs(up) * gate_terms + mx.abs(silu) * up_terms
    return worst(got, want, rounding(want, terms, dtype))


def _down_error(
    dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int, few: bool
) -> mx.array:
    rows = _rows(top_k, few)
    packed, weight = _draw(hidden, inner, bits, group_size, dtype)
    values, choice, shares = mx.random.split(mx.random.key(3), 3)
    x = mx.random.normal((rows, top_k, inner), key=values).astype(dtype)
    chosen = mx.random.randint(0, STACK, (rows, top_k), key=choice).astype(mx.uint32)
    weights = mx.random.uniform(0.0, 1.0, (rows, top_k), key=shares)
    got = kernels.down_sum(x, chosen, weights, packed)

    def summed(weight: mx.array, x: mx.array) -> mx.array:
        each = mx.unflatten(_products(weight, mx.flatten(x, 0, 1), mx.flatten(chosen)), 0, (rows, top_k))
        return mx.sum(weights[..., None] * each, axis=1)

    wide = x.astype(mx.float32)
    want, terms = summed(weight, wide), summed(mx.abs(weight), mx.abs(wide))
    return worst(got, want, rounding(want, terms, dtype))


ROUTER = Trial("router", ("router",), (router.__file__,), _router_error)
GATE_UP = Trial("moe_gate_up", ("affine", "moe_gate_up"), (kernels.__file__,), _gate_up_error)
DOWN = Trial("moe_down", ("affine", "moe_down"), (kernels.__file__,), _down_error)
