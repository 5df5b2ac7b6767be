"""The dense SwiGLU block."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from ..kernels import Kernels
from .fuse import join
from .linear import Linear


class MLP(nn.Module):
    """``x [batch, length, hidden]`` -> the same shape."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, inner)
        self.up_proj = Linear(hidden, inner)
        self.down_proj = Linear(inner, hidden)
        self.swiglu = kernels.swiglu

    def __call__(self, x: mx.array) -> mx.array:
        if "gate_up_proj" in self:
            gate, up = mx.split(self["gate_up_proj"](x), 2, axis=-1)
        else:
            gate, up = self["gate_proj"](x), self["up_proj"](x)
        return self["down_proj"](self.swiglu(gate, up))

    def fuse(self, transposed: bool) -> None:
        """One projection for gate and up if they are packed alike."""
        if fused := join([self.gate_proj, self.up_proj], transposed):
            self.gate_up_proj = fused
            del self.gate_proj, self.up_proj
