"""Linear layers and the norm before them as Metal kernels whose result for a row depends on nothing but that row.

MLX's own products are faster where many rows come together, and change the order of their sums with the number of rows;
so these run only where that must not be: :mod:`qwen3_mlx.kernels.deterministic`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .metal_source import build, factory
from .reference import Packed

#: Rows of ``x`` that share a weight once it is read.
ROWS = 4
#: Outputs of a threadgroup.
OUTS = 8
_NORM_THREADS = 256


@functools.cache
def _packed(make: Any) -> Callable[..., Any]:
    inputs = ["x", "weight", "scales", "biases"]
    return build(make, "linear_packed", inputs, ["out"], "affine", "affine_tokens")


@functools.cache
def _plain(make: Any) -> Callable[..., Any]:
    return build(make, "linear_plain", ["x", "weight"], ["out"], "affine", "plain_tokens")


@functools.cache
def _norm(make: Any) -> Callable[..., Any]:
    return build(make, "rms_norm", ["x", "weight", "eps"], ["out"], "affine")


@functools.cache
def _scalar(value: float) -> mx.array:
    return mx.array(value, mx.float32)


def supported(dims: int, outs: int, bits: int | None, group_size: int, dtype: mx.Dtype, mode: str = "affine") -> bool:
    """Whether :func:`linear` takes a layer of ``dims`` inputs and ``outs`` outputs packed in this way, or not packed
    (``bits=None``); ``dtype`` is that of activations, scales and weights that are not packed. Any number of rows."""
    packs = bits is None or (mode == "affine" and bits in (4, 8) and group_size in (32, 64, 128))
    return packs and dims > 0 == dims % (group_size if bits else 4) and outs > 0 == outs % OUTS and _sixteen(dtype)


def norm_supported(dims: int, dtype: mx.Dtype) -> bool:
    """Whether :func:`rms_norm` takes rows of ``dims`` values; ``dtype`` is that of activations and weight."""
    return dims > 0 == dims % 4 and _sixteen(dtype)


def _sixteen(dtype: mx.Dtype) -> bool:
    return dtype in (mx.bfloat16, mx.float16)


def linear(x: mx.array, weight: mx.array | Packed) -> mx.array:
    """``x [..., dims]`` times a matrix ``[outs, dims]``, plain or packed -> ``[..., outs]``, in the dtype of ``x``.
    The sums are float32, rounded once."""
    *lead, dims = x.shape
    rows = mx.reshape(x, (-1, dims))
    outs = (weight.weight if isinstance(weight, Packed) else weight).shape[0]
    sizes: list[tuple[str, Any]] = [("T", x.dtype), ("DIMS", dims)]
    if isinstance(weight, Packed):
        kernel, inputs = _packed(factory()), [rows, weight.weight, weight.scales, weight.biases]
        sizes += [("BITS", weight.bits), ("GROUP", weight.group_size), ("V", _values(dims, 16))]
    else:
        kernel, inputs = _plain(factory()), [rows, weight]
        sizes += [("V", _values(dims, 8))]
    (out,) = kernel(
        inputs=inputs,
        template=sizes,
        grid=(32 * -(-rows.shape[0] // ROWS), 2, outs // OUTS),
        threadgroup=(32, 2, 1),
        output_shapes=[(rows.shape[0], outs)],
        output_dtypes=[x.dtype],
    )
    return mx.reshape(out, (*lead, outs))


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """``x [..., dims]`` divided by the root of its mean square plus ``eps``, times ``weight [dims]`` (Zhang and
    Sennrich 2019), in float32 and rounded once."""
    rows, dims = x.size // x.shape[-1], x.shape[-1]
    (out,) = _norm(factory())(
        inputs=[x, weight, _scalar(eps)],
        template=[("T", x.dtype), ("DIMS", dims)],
        grid=(_NORM_THREADS, rows, 1),
        threadgroup=(_NORM_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def _values(dims: int, most: int) -> int:
    """Values a lane takes at a time: as many as keep all lanes busy."""
    return next((values for values in (16, 8) if values <= most and dims % (32 * values) == 0), 4)
