"""Grouped-query attention with per-head query and key norms: the one attention of dense and MoE models."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from ..kernels import Entry, GroupedView, Kernels, Norms, Packing, View, norms
from .fuse import join
from .linear import Linear, RMSNorm


class LayerCache(Protocol):
    """What attention knows of a cache."""

    @property
    def packing(self) -> Packing | None:
        """How it stores keys and values."""

    def append(self, entry: Entry) -> View | GroupedView:
        """Add what ``norm_rope`` made of new tokens for this packing; the view holds everything so far."""


class Attention(nn.Module):
    """``x [batch, length, hidden]`` -> the same shape."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        hidden, head_dim = config.hidden_size, config.head_dim
        self.q_proj = Linear(hidden, config.q_size)
        self.k_proj = Linear(hidden, config.kv_size)
        self.v_proj = Linear(hidden, config.kv_size)
        self.o_proj = Linear(config.q_size, hidden)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_key_value_heads, head_dim
        self.eps = config.rms_norm_eps
        # YaRN scales the cosines and sines of queries and of keys: scaling their products says the same.
        self.scale = head_dim**-0.5 * config.rope.attention_factor**2
        self.kernels = kernels

    def __call__(self, x: mx.array, rotation: Any, cache: LayerCache) -> mx.array:
        batch, length, _ = x.shape
        kernels = self.kernels
        queries, entry = kernels.norm_rope(self._project(x), self._head_norms(), rotation, cache.packing)
        out = kernels.attend(queries, cache.append(entry), self.scale)
        if length > 1:
            out = mx.swapaxes(out, 1, 2)
        return self["o_proj"](mx.reshape(out, (batch, length, self.heads * self.head_dim)))

    def _project(self, x: mx.array) -> mx.array:
        """Queries, keys and values of all heads side by side."""
        if "qkv_proj" in self:
            return self["qkv_proj"](x)
        return mx.concatenate([self["q_proj"](x), self["k_proj"](x), self["v_proj"](x)], axis=-1)

    def _head_norms(self) -> Norms:
        if "_norms" in self:
            return self["_norms"]
        return norms(self["q_norm"]["weight"], self["k_norm"]["weight"], self.eps, self.heads, self.kv_heads)

    def fuse(self, transposed: bool) -> None:
        """One projection for queries, keys and values if they are packed alike; the norms of all heads made once."""
        if fused := join([self.q_proj, self.k_proj, self.v_proj], transposed):
            self.qkv_proj = fused
            del self.q_proj, self.k_proj, self.v_proj
        self._norms = self._head_norms()  # no parameter, so that a module's own evaluation does not see it
        mx.eval(self._norms.heads)
