"""How the kernels of linear layers and norms are tried on a machine: see :mod:`qwen3_mlx.kernels.verify`.

Besides being near to the reference, a row must be the same to the bit with more rows and with fewer.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from . import linear
from .reference import Packed
from .tolerance import rounding, worst
from .verify import Trial

# A tile of four rows of x, and one, two and three of another.
_ROWS = (7, 6, 5, 2)
_OUTS = 24
_EPS = 1e-6


def _normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def _error_of(
    launch: Callable[[mx.array], mx.array], x: mx.array, want: mx.array, terms: mx.array, dtype: mx.Dtype
) -> mx.array:
    got, *others = (launch(x[-rows:]) for rows in _ROWS)
    same = [mx.all(other == got[-len(other) :]) for other in others]
    return mx.where(mx.all(mx.stack(same)), worst(got, want, rounding(want, terms, dtype)), mx.inf)


def _products(x: mx.array, weight: mx.array) -> mx.array:
    """``x [rows, dims]`` times ``weight [outs, dims]``, without a matrix product, which some chips round to 19 bits."""
    return mx.stack([mx.sum(row * weight, axis=-1) for row in x])


def _linear_error(weight: mx.array | Packed, wide: mx.array, dtype: mx.Dtype) -> mx.array:
    x = _normal(2, _ROWS[0], wide.shape[1]).astype(dtype)
    exact = x.astype(mx.float32)
    want, terms = _products(exact, wide), _products(mx.abs(exact), mx.abs(wide))
    return _error_of(lambda rows: linear.linear(rows, weight), x, want, terms, dtype)


def _packed_error(dtype: mx.Dtype, dims: int, bits: int, group_size: int) -> mx.array:
    codes, sizes = mx.random.split(mx.random.key(1))
    packed = mx.random.randint(0, 256, (_OUTS, dims * bits // 8), dtype=mx.uint8, key=codes).view(mx.uint32)
    scales = mx.random.uniform(0.5, 1.5, (_OUTS, dims // group_size), key=sizes) * 0.3 / 2**bits
    scales, biases = scales.astype(dtype), (-(2 ** (bits - 1)) * scales).astype(dtype)
    exact = scales.astype(mx.float32), biases.astype(mx.float32)
    wide = mx.dequantize(packed, *exact, group_size, bits, dtype=mx.float32)
    return _linear_error(Packed(packed, scales, biases, bits, group_size), wide, dtype)


def _plain_error(dtype: mx.Dtype, dims: int) -> mx.array:
    weight = (0.1 * _normal(1, _OUTS, dims)).astype(dtype)
    return _linear_error(weight, weight.astype(mx.float32), dtype)


def _norm_error(dtype: mx.Dtype, dims: int) -> mx.array:
    x, weight = _normal(3, _ROWS[0], dims).astype(dtype), (1 + 0.3 * _normal(4, dims)).astype(dtype)
    exact = x.astype(mx.float32)
    inverse = mx.rsqrt(mx.mean(mx.square(exact), axis=-1, keepdims=True) + _EPS)
    want = exact * inverse * weight.astype(mx.float32)
    return _error_of(lambda rows: linear.rms_norm(rows, weight, _EPS), x, want, mx.abs(want), dtype)


LINEAR_PACKED = Trial("linear_packed", ("affine", "affine_tokens", "linear_packed"), (linear.__file__,), _packed_error)
LINEAR_PLAIN = Trial("linear_plain", ("affine", "plain_tokens", "linear_plain"), (linear.__file__,), _plain_error)
RMS_NORM = Trial("rms_norm", ("affine", "rms_norm"), (linear.__file__,), _norm_error)
