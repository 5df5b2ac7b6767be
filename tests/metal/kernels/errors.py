"""The errors of many outputs together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .packing import ulp, wide

#: An output whose terms are larger than it by more than this factor has cancelled. Float32 then has 2^-24 * 16 of it
#: left, which is 0.001 ulp of float16.
CANCELLED = 16


class Errors(NamedTuple):
    """Of each output: its error in ulp; the C with ``|error| = 0.51 ulp + C * 2^-24 * cond``, where that is positive;
    and ``cond / |output|``."""

    ulps: np.ndarray
    c: np.ndarray
    cancelled: np.ndarray

    @property
    def worst_c(self) -> float:
        return float(self.c.max())

    @property
    def p999(self) -> float:
        """The 99.9th percentile of all errors in ulp."""
        return float(np.percentile(self.ulps, 99.9))

    @property
    def p999_kept(self) -> float:
        """The same of the outputs that have not cancelled."""
        return float(np.percentile(self.ulps[self.cancelled <= CANCELLED], 99.9))

    @property
    def kept(self) -> float:
        """Their share."""
        return float((self.cancelled <= CANCELLED).mean())


def errors(got: mx.array, want: np.ndarray, cond: np.ndarray) -> Errors:
    """The errors of ``got`` by what it is in float64 and by the magnitudes that make it up."""
    error, unit, cond = np.abs(wide(got) - want), ulp(want, got.dtype), np.maximum(cond, 1e-30)
    c = np.maximum((error - 0.51 * unit) / (cond * 2.0**-24), 0)
    each = error / unit, c, cond / np.maximum(np.abs(want), 1e-30)
    return Errors(*(part.ravel() for part in each))


def together(parts: Iterable[Errors]) -> Errors:
    return Errors(*(np.concatenate(part) for part in zip(*parts, strict=True)))
