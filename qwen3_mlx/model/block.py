"""A decoder layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from ..kernels import Kernels
from .attention import Attention, LayerCache
from .linear import RMSNorm
from .mlp import MLP
from .moe import MoE


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual: ``x [batch, length, hidden]``."""

    def __init__(self, config: ModelConfig, kernels: Kernels, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size)
        self.self_attn = Attention(config, kernels)
        self.post_attention_layernorm = RMSNorm(config.hidden_size)
        self.mlp = MoE(config, kernels) if config.is_moe_layer(index) else MLP(config, kernels)
        self.eps = config.rms_norm_eps
        self.rms_norm = kernels.rms_norm

    def __call__(self, x: mx.array, rotation: Any, cache: LayerCache) -> mx.array:
        norm, eps = self.rms_norm, self.eps
        x = mx.add(x, self["self_attn"](norm(x, self["input_layernorm"]["weight"], eps), rotation, cache))
        return mx.add(x, self["mlp"](norm(x, self["post_attention_layernorm"]["weight"], eps)))
