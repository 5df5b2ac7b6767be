"""Linear layers and heads by a product of the kernels' own: which are substituted, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.errors import UnsupportedModel
from qwen3_mlx.kernels import Packed, resolve
from qwen3_mlx.model.deterministic import substitute
from qwen3_mlx.model.linear import Embedding, Linear, Quantized, QuantizedEmbedding, QuantizedLinear
from qwen3_mlx.model.qwen3 import Qwen3
from tests.golden.cases import CASES

TOKENS = mx.array([[1, 2, 3]])


class Product:
    """MLX's own, counted."""

    def __init__(self) -> None:
        self.kinds: list[type] = []

    def __call__(self, x: mx.array, weight: mx.array | Packed) -> mx.array:
        self.kinds.append(type(weight))
        if isinstance(weight, Packed):
            arrays = weight.weight, weight.scales, weight.biases
            return mx.quantized_matmul(x, *arrays, group_size=weight.group_size, bits=weight.bits)
        return x @ weight.T


def model(name: str, product: Any) -> Qwen3:
    built = Qwen3(ModelConfig.from_dict(CASES[name].config), replace(resolve("emulate"), linear=product))
    leaves = tree_flatten(built.parameters())
    built.load_weights(
        [(at, 0.1 * mx.random.normal(x.shape, key=mx.random.key(i))) for i, (at, x) in enumerate(leaves)]
    )
    built.fuse()
    return built


@pytest.mark.filterwarnings("ignore:.*not used, MLX's own operations take over")
@pytest.mark.parametrize("name", ["dense", "untied", "moe"])
def test_everything_that_multiplies_is_substituted(name: str) -> None:
    product = Product()
    own, plain = model(name, product), model(name, None)
    assert mx.allclose(own(TOKENS), plain(TOKENS), atol=1e-5)
    assert len(product.kinds) == sum(len(kinds(block)) for block in own.model.layers) + 1
    shapes = [{at: x.shape for at, x in tree_flatten(one.parameters())} for one in (own, plain)]
    assert shapes[0] == shapes[1]


def kinds(block: nn.Module) -> list[type]:
    return [type(leaf) for _, leaf in block.named_modules() if isinstance(leaf, Linear | QuantizedLinear)]


def packed(kind: type[Quantized], mode: str = "affine") -> Quantized:
    weight, *ends = mx.quantize(mx.random.normal((16, 64), key=mx.random.key(1)), 32, 4, mode=mode)
    return kind(weight, ends[0], ends[1] if len(ends) > 1 else None, QuantSpec(4, 32, mode))


def test_packed_leaves_of_a_module() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.embedding = packed(QuantizedLinear), packed(QuantizedEmbedding)
            self.listed = [Linear(64, 8), Embedding(8, 64)]

    product, module, x = Product(), Two(), mx.random.normal((3, 64), key=mx.random.key(2))
    want = module.linear(x), module.embedding.as_head(x), module.listed[0](x), module.listed[1].as_head(x)
    rows = module.embedding(TOKENS)
    substitute(module, product)
    got = module.linear(x), module.embedding.as_head(x), module.listed[0](x), module.listed[1].as_head(x)
    assert all(map(mx.array_equal, got, want)) and product.kinds == [Packed, Packed, mx.array, mx.array]
    assert mx.array_equal(module.embedding(TOKENS), rows)


def test_a_packing_without_a_kernel_is_named() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = packed(QuantizedLinear, "mxfp4")

    with pytest.raises(UnsupportedModel, match="affine packing, not for mxfp4"):
        substitute(One(), Product())
