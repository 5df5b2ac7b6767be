"""Names as data: what a config's model holds, and the spellings of it."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from qwen3_mlx.config import ModelConfig
from qwen3_mlx.names import Leaf, groups, is_ignored, sources

from .weights import makers

# The released models: config, and their parameters as counted from the published safetensors indexes.
SMALL: dict[str, Any] = {**makers.DENSE, "head_dim": 128, "vocab_size": 151936, "rope_theta": 1000000}
RELEASED = {
    "0.6B": ((1024, 3072, 28, 16, 8, True), 596_049_920),
    "1.7B": ((2048, 6144, 28, 16, 8, True), 1_720_574_976),
    "4B": ((2560, 9728, 36, 32, 8, True), 4_022_468_096),
    "8B": ((4096, 12288, 36, 32, 8, False), 8_190_735_360),
    "14B": ((5120, 17408, 40, 40, 8, False), 14_768_307_200),
    "32B": ((5120, 25600, 64, 64, 8, False), 32_762_123_264),
}
RELEASED_MOE = {
    "30B-A3B": ((2048, 6144, 48, 32, 4, False, 768), 30_532_122_624),
    "235B-A22B": ((4096, 12288, 94, 64, 4, False, 1536), 235_093_634_560),
}


def leaves(config: ModelConfig) -> list[Leaf]:
    return [leaf for group in groups(config) for leaf in group]


def shaped(hidden: int, inner: int, layers: int, heads: int, kv: int, tied: bool, **more: Any) -> ModelConfig:
    changes = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
    }
    return ModelConfig.from_dict({**SMALL, **changes, **more})


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_released_dense_models(name: str) -> None:
    shape, parameters = RELEASED[name]
    assert sum(prod(leaf.shape) for leaf in leaves(shaped(*shape))) == parameters


@pytest.mark.parametrize("name", RELEASED_MOE)
def test_parameters_of_released_moe_models(name: str) -> None:
    (*shape, inner), parameters = RELEASED_MOE[name]
    moe = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": inner,
        "norm_topk_prob": True,
    }
    assert sum(prod(leaf.shape) for leaf in leaves(shaped(*shape, **moe))) == parameters


@pytest.mark.parametrize("raw", [makers.DENSE, makers.MOE], ids=["dense", "moe"])
def test_first_spelling_is_hugging_face(raw: dict[str, Any]) -> None:
    config = ModelConfig.from_dict(raw)
    held = {name: tuple(array.shape) for name, array in makers.weights(raw).items()}
    named = {name: source.shape for leaf in leaves(config) for source in sources(leaf)[:1] for name in source.names}
    assert named == held


def test_moe_spellings_cover_fused_and_stacked() -> None:
    config = ModelConfig.from_dict(makers.MOE)
    held = makers.weights(makers.MOE)
    for index, layout in ((1, makers.fused(held, 4)), (2, makers.stacked(held, 4))):
        chosen = [sources(leaf)[index if leaf.kind == "experts" else 0] for leaf in leaves(config)]
        named = {name: source.shape for source in chosen for name in source.names}
        assert named == {name: tuple(array.shape) for name, array in layout.items()}


def test_gate_and_up_are_rows_of_the_fused_tensor() -> None:
    gate = Leaf("model.layers.0.mlp.switch_mlp.gate_proj", "experts", (4, 32, 64))
    up = Leaf("model.layers.0.mlp.switch_mlp.up_proj", "experts", (4, 32, 64))
    assert [sources(leaf)[1].rows for leaf in (gate, up)] == [(0, 32), (32, 64)]
    assert {sources(leaf)[1].shape for leaf in (gate, up)} == {(4, 64, 64)}


def test_mlp_only_layers_and_sparse_step_choose_dense_layers() -> None:
    config = ModelConfig.from_dict({**makers.MOE, "num_hidden_layers": 6, "decoder_sparse_step": 2})
    routers = [leaf.path for leaf in leaves(config) if leaf.kind == "router"]
    assert routers == ["model.layers.3.mlp.gate", "model.layers.5.mlp.gate"]  # layer 1 is in mlp_only_layers


def test_what_may_be_there_without_a_place() -> None:
    tied, untied = (ModelConfig.from_dict({**makers.DENSE, "tie_word_embeddings": tied}) for tied in (True, False))
    assert is_ignored("lm_head.weight", tied) and is_ignored("lm_head.scales", tied)
    assert not is_ignored("lm_head.weight", untied)
    assert is_ignored("model.layers.0.self_attn.rotary_emb.inv_freq", untied)
    assert not is_ignored("model.layers.0.self_attn.q_proj.bias", tied)
