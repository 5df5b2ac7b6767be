"""Qwen3, dense and MoE: token ids in, logits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..cache.groups import GroupedCache
from ..cache.kv import KVCache, Uncached
from ..config import ModelConfig
from ..costs import Parameters
from ..kernels import Kernels, Lengths, resolve
from .attention import LayerCache
from .block import Block
from .deterministic import substitute
from .fuse import transpose
from .linear import Embedding, Linear, RMSNorm
from .rope import frequencies

#: What the path of an array says of its role: the first of these that is in it.
_ROLES = {
    "norm": "norms",
    "embed_tokens": "embedding",
    "lm_head": "head",
    "self_attn": "attention",
    "switch_mlp": "experts",
    "mlp.gate.": "router",
    "mlp": "mlp",
}


class Decoder(nn.Module):
    """Everything but the head; the ``model.`` of checkpoint names."""

    def __init__(self, config: ModelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Block(config, kernels, index) for index in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size)
        self._frequencies = frequencies(config.rope, config.head_dim)
        self.eps = config.rms_norm_eps
        self.kernels = kernels

    def __call__(self, tokens: mx.array, offsets: Lengths, caches: Sequence[LayerCache]) -> mx.array:
        rotation = self.kernels.rotation(self["_frequencies"], offsets, tokens.shape[1])
        x = self["embed_tokens"](tokens)
        for block, cache in zip(self["layers"], caches, strict=True):
            x = block(x, rotation, cache)
        return self.kernels.rms_norm(x, self["norm"]["weight"], self.eps)


class Qwen3(nn.Module):
    """The model of ``config``, with lazy weights: nothing is allocated before something is evaluated.

    ``kernels`` (by default those of ``resolve("auto")``) run it. Load weights into the tree of checkpoint names, then
    call :meth:`fuse`.
    """

    def __init__(self, config: ModelConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        self.config = config
        self.kernels = kernels or resolve()
        self.model = Decoder(config, self.kernels)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)

    def __call__(self, tokens: mx.array, cache: KVCache | GroupedCache | None = None) -> mx.array:
        """Token ids ``[batch, length]`` -> logits ``[batch, length, vocab]``.

        With a cache, the tokens follow those it holds, and are added to it; rows of different lengths take one each.
        """
        return self.head(self.hidden(tokens, cache))

    def hidden(self, tokens: mx.array, cache: KVCache | GroupedCache | None = None) -> mx.array:
        """Token ids ``[batch, length]`` -> ``[batch, length, hidden]`` after the final norm."""
        if cache is None:
            nothing = Lengths((0,) * tokens.shape[0])
            return self["model"](tokens, nothing, [Uncached()] * self.config.num_hidden_layers)
        return self["model"](tokens, cache.lengths, cache.layers)

    def head(self, hidden: mx.array) -> mx.array:
        """``[..., hidden]`` -> logits ``[..., vocab]``."""
        if self.config.tie_word_embeddings:
            return self["model"]["embed_tokens"].as_head(hidden)
        return self["lm_head"](hidden)

    def rehearse(self, kv_bits: int | None = None) -> None:
        """Run a pass of every kind of size over caches of ``kv_bits``, so that what the kernels refuse is refused
        before somebody waits for an answer. Raises what they raise."""
        for batch, length in ((1, 1), (8, 1), (1, 5), (1, 16)):
            cache = KVCache(self.config, batch, kv_bits=kv_bits, kernels=self.kernels)
            mx.eval(self(mx.zeros((batch, length), mx.int32), cache))

    def held(self) -> Parameters:
        """Bytes of the arrays of each role, fused or not, packed or not."""
        arrays: Any = tree_flatten(self.parameters())
        held = Counter[str]()
        for path, array in arrays:
            held[next(role for sign, role in _ROLES.items() if sign in path)] += array.nbytes
        return Parameters(**{field.name: held[field.name] for field in fields(Parameters)})

    def fuse(self) -> None:
        """Join projections that read the same input, and lay weights out for the device; call once, after loading.

        Evaluates layer by layer and lets go of each layer's originals, so that at most one layer is held twice (unless
        the caller keeps references to them). The results are the same to the bit, but parameters no longer carry
        checkpoint names.
        """
        transposed = self.kernels.transposed
        for block in self.model.layers:
            block.self_attn.fuse(transposed)
            block.mlp.fuse(transposed)
            if transposed:
                transpose(block)
            mx.eval(block.parameters())
        if transposed:
            transpose(self.model, deep=False)
            mx.eval(self.model.embed_tokens.parameters())
            transpose(self, deep=False)
        if self.kernels.linear is not None:
            substitute(self, self.kernels.linear)
        mx.eval(self.parameters())
        mx.clear_cache()
