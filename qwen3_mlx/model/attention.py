"""Grouped-query attention with per-head query and key norms: the one attention of dense and MoE models."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..config import ModelConfig
from ..kernels import Kernels, View
from .fuse import join
from .linear import Linear, RMSNorm


class LayerCache(Protocol):
    """What attention knows of a cache."""

    def append(self, keys: mx.array, values: mx.array) -> View:
        """Add ``[batch, kv_heads, length, head_dim]``; the view holds everything so far."""


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
        heads, kv_heads, head_dim = self.heads, self.kv_heads, self.head_dim
        kernels = self.kernels
        if length == 1:
            rows = mx.reshape(self._project(x), (batch, heads + 2 * kv_heads, 1, head_dim))
        else:
            rows = mx.reshape(self._project(x), (batch, length, heads + 2 * kv_heads, head_dim))
            rows = mx.swapaxes(rows, 1, 2)
        queries_keys, values = mx.split(rows, [heads + kv_heads], axis=1)
        queries_keys = kernels.norm_rope(queries_keys, self._norm(), self.eps, rotation)
        queries, keys = mx.split(queries_keys, [heads], axis=1)
        out = kernels.attend(queries, cache.append(keys, values), self.scale)
        if length > 1:
            out = mx.swapaxes(out, 1, 2)
        return self["o_proj"](mx.reshape(out, (batch, length, heads * head_dim)))

    def _project(self, x: mx.array) -> mx.array:
        """Queries, keys and values of all heads side by side."""
        if "qkv_proj" in self:
            return self["qkv_proj"](x)
        return mx.concatenate([self["q_proj"](x), self["k_proj"](x), self["v_proj"](x)], axis=-1)

    def _norm(self) -> mx.array:
        """``[q_heads + kv_heads, 1, head_dim]``: the norm weight of each query and key head."""
        if "qk_norm" in self:
            return self["qk_norm"]["weight"]
        queries, keys = self["q_norm"]["weight"], self["k_norm"]["weight"]
        shapes = ((queries, self.heads), (keys, self.kv_heads))
        return mx.concatenate([mx.broadcast_to(w, (n, 1, self.head_dim)) for w, n in shapes])

    def fuse(self, transposed: bool) -> None:
        """One projection for queries, keys and values if they are packed alike; one weight for both norms."""
        if fused := join([self.q_proj, self.k_proj, self.v_proj], transposed):
            self.qkv_proj = fused
            del self.q_proj, self.k_proj, self.v_proj
        norm = RMSNorm(self.head_dim)
        norm.weight = self._norm()
        self.qk_norm = norm
        del self.q_norm, self.k_norm
