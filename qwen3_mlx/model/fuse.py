"""Joining leaves that read the same input, and laying weights out the way the device wants them."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from .linear import (
    Embedding,
    Linear,
    Quantized,
    SwitchLinear,
    TransposedEmbedding,
    TransposedLinear,
    TransposedSwitchLinear,
)

_ARRAYS = ("weight", "scales", "biases")


def join(leaves: Sequence[nn.Module]) -> nn.Module | None:
    """One leaf whose output is those of ``leaves`` side by side, or ``None`` when they are not of one kind.

    Each output value is computed from the same numbers as before, so the result is the same to the bit. Lazy: nothing
    is evaluated.
    """
    first = leaves[0]
    if any(_kind(leaf) != _kind(first) for leaf in leaves):
        return None
    arrays = {name: mx.concatenate([leaf[name] for leaf in leaves], axis=-2) for name in _ARRAYS if name in first}
    if isinstance(first, Quantized):
        return type(first)(arrays["weight"], arrays["scales"], arrays.get("biases"), first.spec)
    fused = type(first)(*([0] * (arrays["weight"].ndim)))
    fused.weight = arrays["weight"]
    return fused


def _kind(leaf: nn.Module) -> tuple[object, ...]:
    """What has to agree for two leaves to be joined."""
    spec = leaf.spec if isinstance(leaf, Quantized) else None
    return (type(leaf), spec, *(leaf[name].dtype for name in _ARRAYS if name in leaf))


def transpose(module: nn.Module, deep: bool = True) -> None:
    """Replace the plain leaves below ``module`` (directly below, unless ``deep``) by their transposed twins, one after
    the other, freeing each."""
    for name, child in list(module.items()):
        twin = _twin(child)
        if twin is not None:
            mx.eval(twin.parameters())
            setattr(module, name, twin)
        elif deep and isinstance(child, nn.Module):
            transpose(child)


def _twin(leaf: object) -> nn.Module | None:
    if isinstance(leaf, Linear):
        return TransposedLinear(mx.contiguous(mx.swapaxes(leaf["weight"], 0, 1)))
    if isinstance(leaf, SwitchLinear):
        return TransposedSwitchLinear(mx.contiguous(mx.swapaxes(leaf["weight"], 1, 2)))
    if isinstance(leaf, Embedding):
        return TransposedEmbedding(mx.contiguous(mx.swapaxes(leaf["weight"], 0, 1)))
    return None
