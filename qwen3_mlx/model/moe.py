"""The mixture-of-experts block: a router chooses ``top_k`` SwiGLU experts for each token."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from ..kernels import Kernels
from .fuse import join
from .linear import Linear, SwitchLinear


class SwitchGLU(nn.Module):
    """The experts' weights, stacked; called, gate and up side by side by the chosen experts."""

    packed = None  # gate and up are two stacks until they are fused

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, inner, experts = config.hidden_size, config.moe_intermediate_size, config.num_experts
        self.gate_proj = SwitchLinear(hidden, inner, experts)
        self.up_proj = SwitchLinear(hidden, inner, experts)
        self.down_proj = SwitchLinear(inner, hidden, experts)

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array:
        """See :class:`qwen3_mlx.kernels.Experts`."""
        return mx.concatenate(
            [self["gate_proj"](x, experts, ordered), self["up_proj"](x, experts, ordered)],
            axis=-1,
        )

    def fuse(self, transposed: bool) -> None:
        """One stack for gate and up if they are packed alike."""
        if fused := join([self.gate_proj, self.up_proj], transposed):
            self.gate_up_proj = fused
            del self.gate_proj, self.up_proj


class MoE(nn.Module):
    """``x [batch, length, hidden]`` -> the same shape."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.num_experts)
        self.switch_mlp = SwitchGLU(config)
        self.top_k, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.kernels = kernels

    def __call__(self, x: mx.array) -> mx.array:
        kernels, switch = self.kernels, self["switch_mlp"]
        rows = mx.flatten(x, 0, 1)
        experts, weights = kernels.route(self["gate"](rows), self.top_k, self.normalise)
        gate_up = switch.get("gate_up_proj", switch)
        return mx.reshape(kernels.moe_swiglu(rows, experts, weights, gate_up, switch["down_proj"]), x.shape)

    def fuse(self, transposed: bool) -> None:
        """See :meth:`SwitchGLU.fuse`."""
        self.switch_mlp.fuse(transposed)
