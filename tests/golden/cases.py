"""The tiny random models of the golden files: configs in transformers' spelling, and how their weights are drawn.

Weights are drawn here, by numpy's RandomState (whose streams are frozen for good), and not by the frameworks: the
golden file holds logits only. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@dataclass(frozen=True)
class Case:
    """A config, and a prompt of ``length`` tokens for two rows, the last ``steps`` of which go in one by one."""

    config: Mapping[str, Any]
    length: int = 24
    steps: int = 8


def _dense(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 64,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
    }
    return config | changes


def _moe(**changes: Any) -> dict[str, Any]:
    moe = {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "tie_word_embeddings": False,
    }
    return _dense(**moe) | changes


CASES: dict[str, Case] = {
    "dense": Case(_dense()),
    "untied": Case(_dense(tie_word_embeddings=False)),
    "theta": Case(_dense(rope_theta=1e6, head_dim=64)),
    "heads-6-2": Case(_dense(num_attention_heads=6, num_key_value_heads=2)),
    "heads-5-1": Case(_dense(num_attention_heads=5, num_key_value_heads=1, head_dim=16)),
    "heads-7-7": Case(_dense(num_attention_heads=7, num_key_value_heads=7, head_dim=16)),
    "yarn-dense": Case(_dense(rope_scaling=YARN), length=80, steps=16),
    "yarn-attention-factor": Case(_dense(rope_scaling=YARN | {"attention_factor": 1.5, "beta_fast": 8}), length=48),
    "yarn-odd-factor": Case(_dense(rope_scaling=YARN | {"factor": 2.5, "truncate": False}), length=48),
    "moe": Case(_moe()),
    "moe-many-tokens": Case(_moe(num_experts_per_tok=4), length=72, steps=4),
    "moe-not-normalised": Case(_moe(norm_topk_prob=False)),
    "moe-all-experts": Case(_moe(num_experts_per_tok=8)),
    "moe-dense-layers": Case(_moe(mlp_only_layers=[1])),
    "moe-sparse-step-2": Case(_moe(decoder_sparse_step=2, num_hidden_layers=4)),
    "yarn-moe": Case(_moe(rope_scaling=YARN), length=80, steps=16),
}


def tokens(case: Case) -> np.ndarray:
    """``[2, length]`` int32 token ids."""
    return np.random.RandomState(7).randint(0, case.config["vocab_size"], (2, case.length)).astype(np.int32)


def weights(case: Case) -> dict[str, np.ndarray]:
    """The checkpoint in the Hugging Face layout (one tensor per expert), norms away from 1 so that they count."""
    c, rng = case.config, np.random.RandomState(11)
    hidden, head = c["hidden_size"], c["head_dim"]
    drawn: dict[str, np.ndarray] = {}

    def matrix(name: str, out: int, width: int) -> None:
        drawn[f"{name}.weight"] = (rng.standard_normal((out, width)) * width**-0.5).astype(np.float32)

    def norm(name: str, width: int) -> None:
        drawn[f"{name}.weight"] = (1 + 0.3 * rng.standard_normal(width)).astype(np.float32)

    def mlp(name: str, inner: int) -> None:
        matrix(f"{name}.gate_proj", inner, hidden)
        matrix(f"{name}.up_proj", inner, hidden)
        matrix(f"{name}.down_proj", hidden, inner)

    matrix("model.embed_tokens", c["vocab_size"], hidden)
    for index in range(c["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        queries, keys = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
        for name, out in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            matrix(f"{layer}.self_attn.{name}", out, hidden)
        matrix(f"{layer}.self_attn.o_proj", hidden, queries)
        norm(f"{layer}.self_attn.q_norm", head)
        norm(f"{layer}.self_attn.k_norm", head)
        norm(f"{layer}.input_layernorm", hidden)
        norm(f"{layer}.post_attention_layernorm", hidden)
        if is_moe(c, index):
            matrix(f"{layer}.mlp.gate", c["num_experts"], hidden)
            for expert in range(c["num_experts"]):
                mlp(f"{layer}.mlp.experts.{expert}", c["moe_intermediate_size"])
        else:
            mlp(f"{layer}.mlp", c["intermediate_size"])
    norm("model.norm", hidden)
    if not c["tie_word_embeddings"]:
        matrix("lm_head", c["vocab_size"], hidden)
    return drawn


def is_moe(config: Mapping[str, Any], index: int) -> bool:
    """As transformers decides it."""
    if config["model_type"] == "qwen3" or index in config["mlp_only_layers"]:
        return False
    return (index + 1) % config["decoder_sparse_step"] == 0
