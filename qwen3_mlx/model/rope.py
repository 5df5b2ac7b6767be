"""Rotary frequencies, plain (Su et al. 2021) and YaRN (Peng et al. 2023), as transformers computes them."""

from __future__ import annotations

import math
from array import array

import mlx.core as mx

from ..config import RopeConfig
from ..kernels import Frequencies


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> list[float]:
    """Radians per position of each of the ``head_dim / 2`` pairs of coordinates, the fastest first.

    YaRN leaves fast pairs as they are, slows slow ones by ``factor``, and blends in between.
    """
    plain = [rope.theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if rope.type == "default":
        return plain
    low, high = _blended_range(rope, head_dim)
    inverse = []
    for index, frequency in enumerate(plain):
        slowed = min(max((index - low) / (high - low), 0.0), 1.0)
        inverse.append(frequency / rope.factor * slowed + frequency * (1 - slowed))
    return inverse


def _blended_range(rope: RopeConfig, head_dim: int) -> tuple[float, float]:
    """Between which pairs YaRN blends: they turn ``beta_fast`` to ``beta_slow`` times in the original context."""

    def pair(turns: float) -> float:
        ratio = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    # the upper bound is transformers' (dim - 1, though there are only dim / 2 pairs): the ramp's slope depends on it
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high if high != low else high + 0.001


def frequencies(rope: RopeConfig, head_dim: int) -> Frequencies:
    """The same for the kernels. Computed in double precision and rounded once; turns are those of the rounded ones."""
    inverse = inverse_frequencies(rope, head_dim)
    signed = [-f for f in inverse] + inverse
    turns = [round(f / (2 * math.pi) * 2.0**64) for f in array("f", inverse)]
    return Frequencies(
        mx.array([1 / f for f in inverse], mx.float32), mx.array(signed, mx.float32), mx.array(turns, mx.uint64)
    )
