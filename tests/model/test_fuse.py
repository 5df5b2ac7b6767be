"""Fusing changes no bit, frees the originals, and keeps apart what is not packed alike."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx import costs
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.kernels import resolve
from qwen3_mlx.model.fuse import join
from qwen3_mlx.model.linear import (
    Embedding,
    Linear,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedSwitchLinear,
    TransposedEmbedding,
)
from qwen3_mlx.model.qwen3 import Qwen3
from tests.golden.cases import CASES, tokens

from .build import build, in_steps, random_weights

PACKABLE = {"hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 64, "head_dim": 64}


def pack(leaf: nn.Module, spec: QuantSpec) -> nn.Module:
    kinds = {Linear: QuantizedLinear, Embedding: QuantizedEmbedding}
    arrays = mx.quantize(leaf["weight"], group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    biases = arrays[2] if len(arrays) > 2 else None
    return kinds.get(type(leaf), QuantizedSwitchLinear)(arrays[0], arrays[1], biases, spec)


def packed(name: str, spec: QuantSpec = QuantSpec(4, 64), mode: str = "emulate") -> Qwen3:
    """The case's model, wide enough to be packed, with every matrix packed."""
    changes = {k: v for k, v in PACKABLE.items() if k in CASES[name].config}
    model = Qwen3(ModelConfig.from_dict(CASES[name].config | changes), resolve(mode))
    random_weights(model)

    def walk(module: nn.Module) -> None:
        for key, child in list(module.items()):
            if isinstance(child, list):
                for each in child:
                    walk(each)
            elif isinstance(child, nn.Module):
                if "weight" in child and child["weight"].ndim > 1:
                    setattr(module, key, pack(child, spec))
                else:
                    walk(child)

    walk(model)
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("name", ["dense", "untied", "heads-6-2", "moe", "moe-many-tokens", "moe-dense-layers"])
@pytest.mark.parametrize("mode", ["reference", "emulate"])
def test_the_same_to_the_bit(name: str, mode: str) -> None:
    """In float32, before and after: joined, and on a CPU also transposed."""
    ids = mx.array(tokens(CASES[name]))
    apart, fused = build(CASES[name], mode, fuse=False), build(CASES[name], mode, fuse=True)
    same = np.array_equal if mode == "emulate" else np.allclose
    assert same(np.array(apart(ids)), np.array(fused(ids)))
    assert same(np.array(in_steps(apart, ids, 6)), np.array(in_steps(fused, ids, 6)))


@pytest.mark.parametrize(
    "spec", [QuantSpec(4, 64), QuantSpec(8, 32), QuantSpec(3, 64), QuantSpec(4, 32, "mxfp4")], ids=str
)
@pytest.mark.parametrize("name", ["dense", "moe", "untied"])
def test_packed_weights_the_same_to_the_bit(name: str, spec: QuantSpec) -> None:
    ids = mx.array(tokens(CASES[name]))
    model = packed(name, spec)
    before = np.array(model(ids)), np.array(in_steps(model, ids, 6))
    model.fuse()
    attention = model.model.layers[0].self_attn
    assert isinstance(attention.qkv_proj, QuantizedLinear)
    assert attention.qkv_proj.spec == spec
    assert np.array_equal(np.array(model(ids)), before[0])
    assert np.array_equal(np.array(in_steps(model, ids, 6)), before[1])


def test_what_is_packed_differently_stays_apart() -> None:
    ids = mx.array(tokens(CASES["dense"]))
    model = packed("dense")
    layer = model.model.layers[1]
    layer.self_attn.v_proj = pack_again(layer.self_attn.v_proj, QuantSpec(8, 64))
    layer.mlp.up_proj = pack_again(layer.mlp.up_proj, QuantSpec(4, 32))
    before = np.array(model(ids))
    model.fuse()
    assert "qkv_proj" in model.model.layers[0].self_attn
    assert "qkv_proj" not in layer.self_attn
    assert "gate_up_proj" not in layer.mlp
    assert np.array_equal(np.array(model(ids)), before)


def pack_again(leaf: QuantizedLinear, spec: QuantSpec) -> nn.Module:
    how = {"group_size": leaf.group_size, "bits": leaf.bits}
    plain = Linear(1, 1)
    plain.weight = mx.dequantize(leaf["weight"], leaf["scales"], leaf["biases"], **how)
    return pack(plain, spec)


@pytest.mark.parametrize("name", ["dense", "untied", "moe-dense-layers"])
def test_bytes_by_role_are_those_of_the_arrays(name: str) -> None:
    """Before fusing and behind it, packed or not."""
    whole = Qwen3(ModelConfig.from_dict(CASES[name].config), resolve("reference"))
    random_weights(whole)
    expected = costs.bytes_by_role(whole.config, itemsize=4)
    assert whole.held() == expected
    whole.fuse()
    assert whole.held() == expected
    model = packed(name)
    before = model.held()
    model.fuse()
    assert model.held() == before
    assert before.total == sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def test_only_leaves_of_one_kind_join() -> None:
    plain, other, stack = Linear(64, 32), Linear(64, 16), pack(Linear(64, 32), QuantSpec(4, 64))
    joined = join([plain, other])
    assert joined is not None
    assert joined["weight"].shape == (48, 64)
    assert join([plain, stack]) is None
    half = Linear(64, 32)
    half.weight = half.weight.astype(mx.float16)
    assert join([plain, half]) is None


@pytest.mark.parametrize("mode", ["reference", "emulate"])
def test_originals_are_freed_layer_by_layer(mode: str) -> None:
    config = ModelConfig.from_dict(
        CASES["moe"].config | {"hidden_size": 256, "moe_intermediate_size": 128, "num_hidden_layers": 8}
    )
    model = Qwen3(config, resolve(mode))
    random_weights(model)
    size = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    layer = sum(value.nbytes for _, value in tree_flatten(model.model.layers[0].parameters()))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model.fuse()
    # the weights of both norms, spread over the heads, are all that is added
    assert mx.get_active_memory() - before < 0.02 * size
    assert mx.get_peak_memory() - before < 1.5 * layer
    assert sum(value.nbytes for _, value in tree_flatten(model.parameters())) < 1.02 * size


def test_a_transposed_embedding_is_both_embedding_and_head() -> None:
    weight = mx.array(np.random.RandomState(0).standard_normal((40, 24)).astype(np.float32))
    plain = Embedding(40, 24)
    plain.weight = weight
    twin = TransposedEmbedding(mx.contiguous(weight.T))
    ids = mx.array([[3, 39, 0], [7, 7, 1]])
    assert mx.array_equal(plain(ids), twin(ids))
    assert mx.allclose(plain.as_head(plain(ids)), twin.as_head(twin(ids)))


def test_a_packed_embedding_is_both_embedding_and_head() -> None:
    plain = Embedding(40, 64)
    plain.weight = mx.array(np.random.RandomState(0).standard_normal((40, 64)).astype(np.float32))
    twin = pack(plain, QuantSpec(8, 64))
    ids = mx.array([[3, 39, 0], [7, 7, 1]])
    plain.weight = mx.dequantize(twin["weight"], twin["scales"], twin["biases"], group_size=64, bits=8)
    assert mx.array_equal(plain(ids), twin(ids))
    assert mx.allclose(plain.as_head(plain(ids)), twin.as_head(plain(ids)), atol=1e-5)
