"""Random packed weights, and how far a kernel's result may be from float64."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels.experts import Packed

# dtype -> (bits of the significand after the point, least exponent)
_FORMAT = {mx.bfloat16: (7, -126), mx.float16: (10, -14)}


def random_packed(
    rng: np.random.Generator, stack: int, out: int, dims: int, bits: int, group: int, dtype: mx.Dtype
) -> Packed:
    """Random codes with scales about as large as a checkpoint's; ``mx.quantize`` of so many takes half a minute."""
    codes = rng.integers(0, 2**32, (stack, out, dims * bits // 32), dtype=np.uint32)
    scales = rng.uniform(0.5, 1.5, (stack, out, dims // group)) * 0.3 / 2**bits
    biases = -scales * 2 ** (bits - 1) * rng.uniform(0.8, 1.2, scales.shape)

    def array(values: np.ndarray) -> mx.array:
        return mx.array(values.astype(np.float32)).astype(dtype)

    return Packed(mx.array(codes), array(scales), array(biases), bits, group)


def wide(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32), np.float64)


def dequantized(packed: Packed, expert: int) -> np.ndarray:
    """``[out, dims]`` of one expert in float64, exactly."""
    words = np.array(packed.weight[expert])
    shifts = np.arange(0, 32, packed.bits, dtype=np.uint32)
    codes = (words[:, :, None] >> shifts & (2**packed.bits - 1)).reshape(len(words), -1).astype(np.float64)
    scales, biases = (np.repeat(wide(a[expert]), packed.group_size, -1) for a in (packed.scales, packed.biases))
    return codes * scales + biases


def ulp(values: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The distance between neighbours of ``dtype`` at the values."""
    digits, least = _FORMAT[dtype]
    exponent = np.frexp(values)[1] - 1
    return np.ldexp(1.0, np.maximum(exponent, least) - digits)


@dataclass(frozen=True)
class Precision:
    """``c``: the least C with ``|error| <= 0.51 ulp + C * 2^-24 * cond`` everywhere; ``p999``: the 99.9th percentile
    of the error in ulp."""

    c: float
    p999: float


def precision(got: mx.array, want: np.ndarray, cond: np.ndarray) -> Precision:
    error, unit = np.abs(wide(got) - want), ulp(want, got.dtype)
    c = float(((error - 0.51 * unit) / (cond * 2.0**-24)).max())
    return Precision(max(c, 0.0), float(np.percentile(error / unit, 99.9)))
