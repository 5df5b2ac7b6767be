"""The kernels of linear layers and norms beside MLX's own, on one row: see :mod:`qwen3_mlx.doctor.cases`."""

from __future__ import annotations

import mlx.core as mx

from ..kernels import Packed, linear
from .catalogue import Use
from .timing import OURS, STOCK, Case, rotating

#: Rows that are normalised, one after the other.
_FEW = 64


def _normal(*shape: int, dtype: mx.Dtype, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def linear_layer(use: Use, room: int, tokens: int) -> Case:
    """Layers with as many outputs as inputs, or as the room has."""
    dtype, dims, *packing = use.parameters
    outs = max(min(dims, room // (2 * dims * dtype.size)) // linear.OUTS, 1) * linear.OUTS
    x, first = _normal(1, dims, dtype=dtype), _normal(outs, dims, dtype=dtype, seed=1)
    plain = [mx.contiguous(mx.roll(first, i, 0)) for i in range(max(2, room // first.nbytes))]
    what, ends = f"one row of {dims} to {outs}", 2 * x.nbytes
    if not packing:
        mx.eval(x, plain)
        sides = {
            OURS: rotating(plain, lambda weight: linear.linear(x, weight)),
            STOCK: rotating(plain, lambda weight: mx.matmul(x, mx.swapaxes(weight, 0, 1))),
        }
        return Case(sides, first.nbytes + ends, what)
    bits, group = packing
    packed = [Packed(*mx.quantize(weight, group_size=group, bits=bits), bits, group) for weight in plain]
    mx.eval(x, [each[:3] for each in packed])

    def theirs(w: Packed) -> mx.array:
        return mx.quantized_matmul(x, w.weight, w.scales, w.biases, group_size=group, bits=bits)

    sides = {OURS: rotating(packed, lambda weight: linear.linear(x, weight)), STOCK: rotating(packed, theirs)}
    return Case(sides, sum(part.nbytes for part in packed[0][:3]) + ends, what)


def rms_norm(use: Use, room: int, tokens: int) -> Case:
    """One row."""
    dtype, dims = use.parameters
    drawn, weight = [_normal(1, dims, dtype=dtype, seed=i) for i in range(_FEW)], _normal(dims, dtype=dtype)
    mx.eval(drawn, weight)
    sides = {
        OURS: rotating(drawn, lambda x: linear.rms_norm(x, weight, 1e-6)),
        STOCK: rotating(drawn, lambda x: mx.fast.rms_norm(x, weight, 1e-6)),
    }
    return Case(sides, 2 * drawn[0].nbytes + weight.nbytes, f"one row of {dims}")
