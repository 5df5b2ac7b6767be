"""Quantized weights: shapes, the way in and out, and which leaves a quantized model packs.

Affine packing: ``w = scale * code + bias`` per group of ``group_size`` values along the last axis, codes of ``bits``
bits laid low to high in uint32 words. The micro-scaling modes (mxfp4, mxfp8, nvfp4) have no biases and 8-bit scales.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from .config import QuantSpec
from .costs import ROUTER
from .errors import InvalidRequest
from .names import Kind

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def affine(bits: int, group_size: int = 64) -> QuantSpec:
    """The affine packing a user asked for. Raises InvalidRequest for one that MLX does not have."""
    if bits not in BITS:
        raise InvalidRequest(f"weights cannot be packed to {bits} bits: choose from {_list(BITS)}", "bits")
    if group_size not in GROUP_SIZES:
        raise InvalidRequest(f"a group cannot hold {group_size} values: choose from {_list(GROUP_SIZES)}", "group_size")
    return QuantSpec(bits, group_size)


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def recipe(kind: Kind, shape: tuple[int, ...], spec: QuantSpec) -> QuantSpec | None:
    """How to pack a leaf of a model that is quantized with ``spec``; None leaves it as it is.

    Norms are never packed, nor widths that do not divide into whole groups. A router's errors are wrong choices of
    experts, and it is small: it always gets 8 bits.
    """
    if kind == "norm":
        return None
    own = ROUTER if kind == "router" else spec
    return own if shape[-1] % own.group_size == 0 else None


def parts(spec: QuantSpec) -> tuple[str, ...]:
    """Names of the arrays that make up a packed weight."""
    return ("weight", "scales", "biases") if spec.mode == "affine" else ("weight", "scales")


def packed_shapes(shape: tuple[int, ...], spec: QuantSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the packed arrays of a weight of ``shape`` (``[..., out, in]``), by name."""
    *rest, width = shape
    groups = (*rest, width // spec.group_size)
    return {part: (*rest, width * spec.bits // 32) if part == "weight" else groups for part in parts(spec)}


def infer(width: int, words: int, groups: int, spec: QuantSpec) -> QuantSpec | None:
    """The packing of a weight of ``width`` values, told from its last axes: ``words`` uint32 and ``groups`` scales.

    ``spec`` is what the config says; its mode is believed. None: no packing fits. (Some quantized checkpoints hold
    layers of several sizes without saying so, and mlx-lm reads them.)
    """
    if not groups or width % groups or words * 32 % width:
        return None
    found = QuantSpec(words * 32 // width, width // groups, spec.mode)
    if spec.mode != "affine":
        return found if found == spec else None
    return found if found.bits in BITS and found.group_size in GROUP_SIZES else None


def pack(weight: mx.array, spec: QuantSpec) -> dict[str, mx.array]:
    """``[..., out, in]`` -> its packed arrays by name, unevaluated."""
    arrays = mx.quantize(weight, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return dict(zip(parts(spec), arrays, strict=True))


def unpack(packed: Mapping[str, mx.array], spec: QuantSpec) -> mx.array:
    """Packed arrays by name -> float32 ``[..., out, in]``, unevaluated.

    Affine scales are widened first: MLX computes in their dtype, and ``scale * code + bias`` in bf16 would be rounded
    once more than in the packed matmuls, which keep it in float32.
    """
    scales, biases = packed["scales"], packed.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    weight, group, bits = packed["weight"], spec.group_size, spec.bits
    return mx.dequantize(weight, scales, biases, group_size=group, bits=bits, mode=spec.mode, dtype=mx.float32)
