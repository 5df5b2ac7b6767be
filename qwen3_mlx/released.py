"""The shapes of the released Qwen3 sizes, for what is planned before a checkpoint is there."""

from __future__ import annotations

from .config import ModelConfig, RopeConfig


def _dense(hidden: int, inner: int, layers: int, heads: int, tied: bool) -> ModelConfig:
    return ModelConfig(
        model_type="qwen3",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        rope=RopeConfig(theta=1e6),
        tie_word_embeddings=tied,
    )


def _moe(hidden: int, inner: int, expert: int, layers: int, heads: int) -> ModelConfig:
    return ModelConfig(
        model_type="qwen3_moe",
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        rope=RopeConfig(theta=1e6),
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=expert,
        norm_topk_prob=True,
    )


#: By alias. Later releases of a size differ in context and rotary base only.
RELEASED = {
    "qwen3:0.6b": _dense(1024, 3072, 28, 16, True),
    "qwen3:1.7b": _dense(2048, 6144, 28, 16, True),
    "qwen3:4b": _dense(2560, 9728, 36, 32, True),
    "qwen3:8b": _dense(4096, 12288, 36, 32, False),
    "qwen3:14b": _dense(5120, 17408, 40, 40, False),
    "qwen3:32b": _dense(5120, 25600, 64, 64, False),
    "qwen3:30b-a3b": _moe(2048, 6144, 768, 48, 32),
    "qwen3:235b-a22b": _moe(4096, 12288, 1536, 94, 64),
}
