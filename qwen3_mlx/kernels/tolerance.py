"""How far a kernel on trial may be from the reference: see :mod:`qwen3_mlx.kernels.verify`."""

from __future__ import annotations

import mlx.core as mx

# The distance between neighbours of a number, as a share of it, at most.
_UNIT = {mx.bfloat16: 2.0**-7, mx.float16: 2.0**-10}


def rounding(want: mx.array, terms: mx.array, dtype: mx.Dtype) -> mx.array:
    """0.51 units in the last place of ``dtype`` at the bottom of a binade, which is about one at its top; and ``2^-18``
    of ``terms``, the sum of the magnitudes that make up ``want``: a wrong lane, group or head is thousands of times
    that."""
    return 0.51 * _UNIT[dtype] * mx.abs(want) + 2.0**-18 * terms + 2.0**-24


def worst(got: mx.array, want: mx.array, tolerance: mx.array) -> mx.array:
    """The largest error in units of what is tolerated; infinite if anything is not finite, or all that is wanted is
    zero: so is memory that nothing has written to."""
    ratio = mx.abs(got.astype(mx.float32) - want) / tolerance
    finite = mx.all(mx.isfinite(ratio)) & mx.all(mx.isfinite(tolerance))
    return mx.where(finite & mx.any(want != 0), mx.max(ratio), mx.inf)
