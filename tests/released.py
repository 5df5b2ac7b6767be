"""The released checkpoints' configs, as on Hugging Face in their transformers 4 spelling (numbers of the release)."""

from __future__ import annotations

from typing import Any

_COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def _dense(hidden: int, inner: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return _COMMON | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "tie_word_embeddings": tied,
    }


def _moe(hidden: int, inner: int, expert: int, layers: int, heads: int) -> dict[str, Any]:
    return _dense(hidden, inner, layers, heads, False) | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": expert,
        "norm_topk_prob": True,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }


RELEASED: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": _dense(1024, 3072, 28, 16, True),
    "Qwen3-1.7B": _dense(2048, 6144, 28, 16, True),
    "Qwen3-4B": _dense(2560, 9728, 36, 32, True),
    "Qwen3-8B": _dense(4096, 12288, 36, 32, False),
    "Qwen3-14B": _dense(5120, 17408, 40, 40, False),
    "Qwen3-32B": _dense(5120, 25600, 64, 64, False),
    "Qwen3-30B-A3B": _moe(2048, 6144, 768, 48, 32),
    "Qwen3-235B-A22B": _moe(4096, 12288, 1536, 94, 64),
}

LATER: dict[str, dict[str, Any]] = {
    "Qwen3-4B-Instruct-2507": RELEASED["Qwen3-4B"] | {"max_position_embeddings": 262144, "rope_theta": 5000000},
    "Qwen3-30B-A3B-Thinking-2507": RELEASED["Qwen3-30B-A3B"]
    | {"max_position_embeddings": 262144, "rope_theta": 10000000},
    "Qwen3-235B-A22B-Instruct-2507": RELEASED["Qwen3-235B-A22B"]
    | {"max_position_embeddings": 262144, "rope_theta": 5000000},
    "Qwen3-Coder-30B-A3B-Instruct": RELEASED["Qwen3-30B-A3B"]
    | {
        "max_position_embeddings": 262144,
        "rope_theta": 10000000,
        "intermediate_size": 5472,
        "qkv_bias": False,
        "shared_expert_intermediate_size": 0,
        "use_qk_norm": True,
    },
}
