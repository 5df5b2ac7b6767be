"""Joining leaves that read the same input, and laying weights out the way the device wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
_TWINS: dict[type, Callable[[mx.array], nn.Module]] = {
    Linear: TransposedLinear,
    SwitchLinear: TransposedSwitchLinear,
    Embedding: TransposedEmbedding,
}


def join(leaves: Sequence[nn.Module], transposed: bool = False) -> nn.Module | None:
    """One leaf whose output is those of ``leaves`` side by side, or ``None`` when they are not of one kind.

    Each output value is computed from the same numbers as before, so the result is the same to the bit. Plain leaves
    become a transposed one if asked. Lazy: nothing is evaluated, and no copy is made on the way.
    """
    first = leaves[0]
    if any(_kind(leaf) != _kind(first) for leaf in leaves):
        return None
    if transposed and (twin := _TWINS.get(type(first))):
        return twin(mx.concatenate([mx.swapaxes(leaf["weight"], -2, -1) for leaf in leaves], axis=-1))
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
    """Replace the plain leaves below ``module`` (directly below, unless ``deep``) by their transposed twins. Lazy: the
    originals are freed when the twins are evaluated."""
    for name, child in list(module.items()):
        if twin := _TWINS.get(type(child)):
            setattr(module, name, twin(mx.contiguous(mx.swapaxes(child["weight"], -2, -1))))
        elif deep and isinstance(child, nn.Module):
            transpose(child)
