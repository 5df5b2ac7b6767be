"""Whether MLX multiplies matrices on the neural accelerators that GPUs have since the M5: its own kernels then do what
ours would only do slower."""

from __future__ import annotations

import functools
import platform

import mlx.core as mx

from .reference import SORT_FROM

# The first generation of GPUs that has them, and of those of phones (https://github.com/ml-explore/mlx, device.cpp).
_GENERATION, _PHONE = 17, 18
_MACOS = (26, 2)
# Sorted pairs per expert, on average, from which MLX reads an expert's weights for many pairs at once.
_PAIRS = 4


def has_accelerators(architecture: str, macos: str) -> bool:
    """``architecture`` as MLX names a GPU's: ``applegpu_g17s`` is of generation 17, and a phone's ends in ``p``."""
    generation, version = architecture[-3:-1], macos.split(".")
    if not (generation.isdecimal() and all(part.isdecimal() for part in version)):
        return False
    least = _PHONE if architecture.endswith("p") else _GENERATION
    return int(generation) >= least and tuple(map(int, version)) >= _MACOS


@functools.cache
def _here() -> bool:
    return mx.metal.is_available() and has_accelerators(
        str(mx.device_info().get("architecture", "")), platform.mac_ver()[0]
    )


def takes(pairs: int, experts: int) -> bool:
    """Whether MLX has these accelerators multiply ``pairs`` of a token and one of so many experts."""
    return pairs >= max(SORT_FROM, _PAIRS * experts) and _here()
