"""Configs: what the released ones say, every spelling, and every refusal by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.errors import CheckpointError, UnsupportedModel
from tests.released import LATER, RELEASED

DENSE = RELEASED["Qwen3-0.6B"]
MOE = RELEASED["Qwen3-30B-A3B"]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def refused(config: dict[str, Any]) -> str:
    """The key that is refused; the message names it and the file on one line."""
    with pytest.raises(UnsupportedModel) as caught:
        ModelConfig.from_dict(config, where="folder/config.json")
    message, key = str(caught.value), caught.value.key
    assert key is not None
    assert message.startswith(f"folder/config.json: {key}: ")
    assert "\n" not in message
    return key


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in keys}


@pytest.mark.parametrize("name", [*RELEASED, *LATER])
def test_released_configs_parse(name: str) -> None:
    source = (RELEASED | LATER)[name]
    config = ModelConfig.from_dict(source)
    for key, value in source.items():
        if hasattr(config, key) and key != "mlp_only_layers":
            assert getattr(config, key) == value
    assert config.rope.theta == source["rope_theta"]
    assert config.rope.type == "default"
    assert config.rope.attention_factor == 1.0
    assert config.is_moe_layer(0) == (source["model_type"] == "qwen3_moe")


def test_query_width_is_not_the_hidden_size() -> None:
    config = ModelConfig.from_dict(DENSE)
    assert (config.hidden_size, config.q_size, config.kv_size) == (1024, 2048, 1024)


def test_what_transformers_5_writes() -> None:
    """Keys of ``Qwen3Config(...).to_dict()`` and ``Qwen3MoeConfig(...).to_dict()`` of transformers 5.23."""
    base = {
        "return_dict": True, "output_hidden_states": False, "output_attentions": False, "dtype": "bfloat16",
        "chunk_size_feed_forward": 0, "is_encoder_decoder": False, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "problem_type": None, "_name_or_path": "", "pad_token_id": None,
        "transformers_version": "5.23.0", "layer_types": ["full_attention"] * 28, "max_window_layers": 28,
    }  # fmt: skip
    dense = without(DENSE, "rope_scaling", "rope_theta", "torch_dtype") | base
    dense["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000000.0}
    assert ModelConfig.from_dict(dense) == ModelConfig.from_dict(DENSE)
    dense["rope_parameters"] = YARN | {"rope_theta": 1000000.0}
    assert ModelConfig.from_dict(dense) == ModelConfig.from_dict(DENSE | {"rope_scaling": YARN})

    moe = without(MOE, "rope_scaling", "rope_theta", "num_experts") | without(base, "layer_types")
    moe |= {"num_local_experts": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}
    assert ModelConfig.from_dict(moe) == ModelConfig.from_dict(MOE)


def test_defaults_are_those_of_transformers() -> None:
    bare = without(DENSE, "head_dim", "rms_norm_eps", "tie_word_embeddings", "architectures")
    config = ModelConfig.from_dict(bare)
    assert (config.head_dim, config.rms_norm_eps, config.tie_word_embeddings) == (128, 1e-6, False)
    bare = without(MOE, "head_dim", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")
    config = ModelConfig.from_dict(bare)
    assert (config.head_dim, config.norm_topk_prob, config.decoder_sparse_step) == (64, False, 1)
    assert ModelConfig.from_dict(DENSE | {"num_key_value_heads": None}).num_key_value_heads == 16


def test_yarn() -> None:
    rope = ModelConfig.from_dict(DENSE | {"rope_scaling": YARN}).rope
    assert (rope.type, rope.factor, rope.original_max_position_embeddings) == ("yarn", 4.0, 32768)
    assert rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert (rope.beta_fast, rope.beta_slow, rope.truncate) == (32.0, 1.0, True)
    old = {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}
    assert ModelConfig.from_dict(DENSE | {"rope_scaling": old}).rope == rope
    both = DENSE | {"rope_scaling": YARN, "rope_parameters": YARN | {"rope_theta": 1000000}}
    assert ModelConfig.from_dict(both).rope == rope


def test_yarn_details() -> None:
    def rope(**changes: Any) -> Any:
        return ModelConfig.from_dict(DENSE | {"rope_scaling": YARN | changes}).rope

    assert rope(attention_factor=1.25).attention_factor == 1.25
    assert rope(mscale=1.0, mscale_all_dim=1.0).attention_factor == 1.0
    assert rope(mscale=2.0, mscale_all_dim=1.0).attention_factor == pytest.approx(
        (0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1)
    )
    assert rope(mscale=2.0).attention_factor == pytest.approx(0.1 * math.log(4) + 1)  # one alone is not used
    assert rope(factor=None).factor == pytest.approx(40960 / 32768)
    assert rope(original_max_position_embeddings=None).original_max_position_embeddings == 40960
    assert rope(truncate=False).truncate is False
    assert (rope(beta_fast=16, beta_slow=2).beta_fast, rope(beta_fast=16, beta_slow=2).beta_slow) == (16, 2)


def test_layers_without_experts() -> None:
    config = ModelConfig.from_dict(MOE | {"mlp_only_layers": [3, 1], "decoder_sparse_step": 2})
    assert [i for i in range(8) if config.is_moe_layer(i)] == [5, 7]
    dense = ModelConfig.from_dict(DENSE)
    assert not any(dense.is_moe_layer(i) for i in range(28))


def test_a_config_is_frozen_and_hashable() -> None:
    config = ModelConfig.from_dict(MOE)
    with pytest.raises(AttributeError):
        config.hidden_size = 1  # type: ignore[misc]
    assert hash(config) == hash(ModelConfig.from_dict(MOE))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_type": "qwen2"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "architectures"),
        ({"no_such_key": 1}, "no_such_key"),
        ({"num_experts": 8}, "num_experts"),  # a dense config with experts is no dense config
        ({"dual_chunk_attention_config": {"chunk_size": 262144}}, "dual_chunk_attention_config"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_qk_norm": False}, "use_qk_norm"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"layer_types": ["full_attention"] * 27}, "layer_types"),
        ({"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 32}, "num_key_value_heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 1024.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"vocab_size": "151936"}, "vocab_size"),
        ({"head_dim": 63}, "head_dim"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": True}, "rope_theta"),
        ({"rope_scaling": 4.0}, "rope_scaling"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": YARN | {"type": "linear"}}, "rope_scaling.type"),
        ({"rope_scaling": YARN | {"long_factor": [1.0]}}, "rope_scaling.long_factor"),
        ({"rope_scaling": YARN | {"partial_rotary_factor": 0.5}}, "rope_scaling.partial_rotary_factor"),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling.factor"),
        ({"rope_scaling": YARN | {"factor": "4"}}, "rope_scaling.factor"),
        ({"rope_scaling": YARN | {"truncate": 1}}, "rope_scaling.truncate"),
        ({"rope_parameters": YARN | {"beta_fast": 0}}, "rope_parameters.beta_fast"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_theta"),
        ({"rope_parameters": YARN, "rope_scaling": YARN | {"factor": 2.0}}, "rope_parameters"),
    ],
    ids=str,
)
def test_refused_by_name(changes: dict[str, Any], key: str) -> None:
    assert refused(DENSE | changes) == key


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_experts_per_tok": 129}, "num_experts_per_tok"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok"),
        ({"num_experts": 0}, "num_experts"),
        ({"num_experts": None}, "num_experts"),
        ({"num_local_experts": 64}, "num_local_experts"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size"),
        ({"mlp_only_layers": [48]}, "mlp_only_layers"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob"),
        ({"shared_expert_intermediate_size": 512}, "shared_expert_intermediate_size"),
    ],
    ids=str,
)
def test_moe_refused_by_name(changes: dict[str, Any], key: str) -> None:
    assert refused(MOE | changes) == key


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "vocab_size", "max_position_embeddings", "rope_theta"],
)  # fmt: skip
def test_missing_keys_are_named(key: str) -> None:
    assert refused(without(DENSE, key)) == key


def test_mlx_quantization() -> None:
    entry = {"group_size": 64, "bits": 4, "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8}, "lm_head": False}
    config = ModelConfig.from_dict(MOE | {"quantization": entry, "quantization_config": entry})
    quantization = config.quantization
    assert quantization is not None
    assert (quantization.bits, quantization.group_size, quantization.mode) == (4, 64, "affine")
    assert quantization.for_path("model.layers.0.mlp.gate") == QuantSpec(8, 64)
    assert quantization.for_path("model.layers.0.self_attn.q_proj") == QuantSpec(4, 64)
    assert quantization.for_path("lm_head") is None
    only = ModelConfig.from_dict(DENSE | {"quantization_config": {"bits": 8, "group_size": 32}})
    assert only.quantization is not None
    assert only.quantization.for_path("lm_head") == QuantSpec(8, 32)
    micro = ModelConfig.from_dict(DENSE | {"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}})
    assert micro.quantization is not None
    assert micro.quantization.mode == "mxfp4"
    assert ModelConfig.from_dict(DENSE).quantization is None


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"bits": 7}, "quantization.bits"),
        ({"bits": 4, "group_size": 16}, "quantization.group_size"),
        ({"bits": 4, "mode": "int4"}, "quantization.mode"),
        ({"bits": 8, "mode": "mxfp4"}, "quantization.bits"),
        ({"bits": 4, "global_scale": 1.0}, "quantization.global_scale"),
        ({"bits": 4, "model.layers.0.mlp.experts": {"bits": 8}}, "quantization.model.layers.0.mlp.experts"),
        ({"bits": 4, "model.layers.28.mlp.up_proj": {"bits": 8}}, "quantization.model.layers.28.mlp.up_proj"),
        ({"bits": 4, "lm_head": {"bits": 9}}, "quantization.lm_head.bits"),
        ([4, 64], "quantization"),
    ],
    ids=str,
)
def test_mlx_quantization_refused_by_name(entry: Any, key: str) -> None:
    assert refused(DENSE | {"quantization": entry}) == key


def test_two_quantizations_that_differ() -> None:
    assert refused(DENSE | {"quantization": {"bits": 4}, "quantization_config": {"bits": 8}}) == "quantization_config"


@pytest.mark.parametrize("method", ["fp8", "awq", "gptq", "bitsandbytes", "compressed-tensors"])
def test_other_quantizers_are_refused_with_a_way_out(method: str) -> None:
    config = DENSE | {"quantization_config": {"quant_method": method, "bits": 4}}
    with pytest.raises(UnsupportedModel, match=rf"'{method}'.*MLX") as caught:
        ModelConfig.from_dict(config)
    assert caught.value.key == "quantization_config"


def test_from_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MOE), encoding="utf-8")
    assert ModelConfig.from_folder(tmp_path) == ModelConfig.from_dict(MOE)
    assert ModelConfig.from_folder(str(tmp_path)) == ModelConfig.from_dict(MOE)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "\x80"])
def test_from_folder_names_a_bad_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=str(tmp_path)) as caught:
        ModelConfig.from_folder(tmp_path)
    assert "\n" not in str(caught.value)
    assert "config.json" in str(caught.value)
