"""Leaves that multiply by the kernels' own product instead of MLX's, whose sums depend on the number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import UnsupportedModel
from ..kernels import Packed
from .linear import Embedding, Linear, Quantized, QuantizedEmbedding, QuantizedLinear

Product = Callable[[mx.array, "mx.array | Packed"], mx.array]


class PlainProduct(Linear):
    """:class:`Linear` by a kernel."""

    def __init__(self, leaf: Linear, product: Product) -> None:
        nn.Module.__init__(self)
        self.weight = leaf.weight
        self._product = product

    def __call__(self, x: mx.array) -> mx.array:
        return self._product(x, self["weight"])


class PlainHead(Embedding):
    """:class:`Embedding` whose head is a kernel's product."""

    def __init__(self, leaf: Embedding, product: Product) -> None:
        nn.Module.__init__(self)
        self.weight = leaf.weight
        self._product = product

    def as_head(self, x: mx.array) -> mx.array:
        return self._product(x, self["weight"])


class _PackedProduct(Quantized):
    def __init__(self, leaf: Quantized, product: Product) -> None:
        super().__init__(leaf.weight, leaf.scales, leaf.get("biases"), leaf.spec)
        self._product = product

    def _matmul(self, x: mx.array) -> mx.array:
        packed = Packed(self["weight"], self["scales"], self["biases"], self.bits, self.group_size)
        return self._product(x, packed)


class PackedProduct(_PackedProduct, QuantizedLinear):
    """:class:`QuantizedLinear` by a kernel."""


class PackedHead(_PackedProduct, QuantizedEmbedding):
    """:class:`QuantizedEmbedding` whose head is a kernel's product."""


_TWINS: dict[type, Callable[[Any, Product], nn.Module]] = {
    Linear: PlainProduct,
    Embedding: PlainHead,
    QuantizedLinear: PackedProduct,
    QuantizedEmbedding: PackedHead,
}


def substitute(module: nn.Module, product: Product) -> None:
    """Put the twins that call ``product`` into the place of all linear layers and heads below ``module``.

    Raises UnsupportedModel for a packing that is not affine.
    """
    for name, child in list(module.items()):
        children = child if isinstance(child, list) else [child]
        twins = [_substituted(each, product) for each in children]
        if isinstance(child, list):
            module[name] = twins
        elif twins[0] is not child:
            setattr(module, name, twins[0])


def _substituted(child: Any, product: Product) -> Any:
    if twin := _TWINS.get(type(child)):
        if isinstance(child, Quantized) and child.mode != "affine":
            raise UnsupportedModel(
                f"deterministic=True has kernels for affine packing, not for {child.mode}: load another conversion"
            )
        return twin(child, product)
    if isinstance(child, nn.Module):
        substitute(child, product)
    return child
