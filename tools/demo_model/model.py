"""Lean torch Qwen3 (dense and MoE) for training the demo checkpoints on a CPU.

Parameter names and mathematics are those of transformers' Qwen3ForCausalLM and Qwen3MoeForCausalLM, except that the
experts of a layer are stacked (`experts.gate_proj [experts, inter, hidden]` ...) until `export.py` splits them.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    vocab_size: int
    hidden_size: int = 192
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 512
    num_experts: int = 0
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 128
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 8192

    def to_dict(self):
        return asdict(self)


def _normalise(x, weight, eps):
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * weight
    return y.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else y


def _normalise_rotate(x, weight, eps, cos, sin):
    """Per-head RMSNorm, then rotary embedding (half-split).

    x: [batch, length, heads, head_dim] -> [batch, heads, length, head_dim].
    """
    y = x.float()
    y = (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * weight).transpose(1, 2)
    a, b = y.chunk(2, dim=-1)
    y = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return y.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else y


def _gate(gate, up):
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


normalise, normalise_rotate, gate_product = _normalise, _normalise_rotate, _gate


def compile_pieces():
    """Fuses the element-wise work (training only; about a minute of compilation)."""
    global normalise, normalise_rotate, gate_product
    normalise, normalise_rotate, gate_product = (
        torch.compile(f, dynamic=True) for f in (_normalise, _normalise_rotate, _gate)
    )


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return normalise(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, self.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, self.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, self.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def forward(self, x, cos, sin, cache=None, mask=None):
        b, n, _ = x.shape
        widths = [self.heads * self.head_dim] + [self.kv_heads * self.head_dim] * 2
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight))
        q, k, v = F.linear(x, weight).split(widths, dim=-1)
        q = normalise_rotate(q.view(b, n, -1, self.head_dim), self.q_norm.weight, self.q_norm.eps, cos, sin)
        k = normalise_rotate(k.view(b, n, -1, self.head_dim), self.k_norm.weight, self.k_norm.eps, cos, sin)
        v = v.view(b, n, -1, self.head_dim).transpose(1, 2)
        if cache is not None:
            k, v = cache.update(self, k, v)
        group = self.heads // self.kv_heads
        k = k[:, :, None].expand(-1, -1, group, -1, -1).reshape(b, self.heads, -1, self.head_dim)
        v = v[:, :, None].expand(-1, -1, group, -1, -1).reshape(b, self.heads, -1, self.head_dim)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(b, n, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(gate_product(self.gate_proj(x), self.up_proj(x)))


class Experts(nn.Module):
    def __init__(self, c):
        super().__init__()
        e, h, i = c.num_experts, c.hidden_size, c.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(e, i, h))
        self.up_proj = nn.Parameter(torch.empty(e, i, h))
        self.down_proj = nn.Parameter(torch.empty(e, h, i))

    def forward(self, x, sizes):
        """x [rows sorted by expert, hidden]; sizes: rows of each expert."""
        out = []
        for e, rows in enumerate(x.split(sizes)):
            hidden = gate_product(F.linear(rows, self.gate_proj[e]), F.linear(rows, self.up_proj[e]))
            out.append(F.linear(hidden, self.down_proj[e]))
        return torch.cat(out)


class SparseMLP(nn.Module):
    """Top-k softmax routing with normalised weights; keeps its load-balancing loss in `aux`."""

    def __init__(self, c):
        super().__init__()
        self.top_k, self.num_experts = c.num_experts_per_tok, c.num_experts
        self.gate = nn.Linear(c.hidden_size, c.num_experts, bias=False)
        self.experts = Experts(c)
        self.aux = None

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast("cpu", enabled=False):
            probs = F.linear(flat.float(), self.gate.weight).softmax(-1)
        weight, index = probs.topk(self.top_k, dim=-1)
        weight = weight / weight.sum(-1, keepdim=True)
        if self.training:
            load = F.one_hot(index, self.num_experts).sum(1).float().mean(0) / self.top_k
            self.aux = self.num_experts * (load * probs.mean(0)).sum()
        order = index.flatten().argsort(stable=True)
        sizes = torch.bincount(index.flatten(), minlength=self.num_experts).tolist()
        rows = self.experts(flat[order // self.top_k], sizes)
        rows = rows * weight.flatten()[order][:, None].to(rows.dtype)
        out = torch.zeros_like(rows[: flat.shape[0]]).index_add(0, order // self.top_k, rows)
        return out.view_as(x)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = SparseMLP(c) if c.num_experts else MLP(c)

    def forward(self, x, cos, sin, cache=None, mask=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Qwen3(nn.Module):
    """Decoder with a tied head. `forward` returns final hidden states; `head` turns them into logits."""

    def __init__(self, c):
        super().__init__()
        self.config = c
        self.model = Body(c)
        frequency = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
        angle = torch.arange(c.max_position_embeddings).float()[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.apply(self._init)

    @staticmethod
    def _init(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(
                module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5
            )
        if isinstance(module, Attention):
            nn.init.zeros_(module.o_proj.weight)
        if isinstance(module, MLP):
            nn.init.zeros_(module.down_proj.weight)
        if isinstance(module, Experts):
            for p in (module.gate_proj, module.up_proj):
                nn.init.normal_(p, std=p.shape[2] ** -0.5)
            nn.init.normal_(module.down_proj, std=0.02)

    def forward(self, tokens, positions=None, cache=None, mask=None):
        """tokens [batch, length]; positions the same or None (0, 1, 2 ...) -> hidden [batch, length, hidden]."""
        if positions is None:
            n = tokens.shape[1]
            cos, sin = self.cos[:n], self.sin[:n]
        else:
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin, cache, mask)
        return self.model.norm(x)

    def head(self, hidden):
        return F.linear(hidden, self.model.embed_tokens.weight)
