"""Checkpoint names and module names, as data: what a model of a given config holds, and how checkpoints spell it.

A *leaf* is a module that owns one weight; its path is the module's path and the MLX layout's name without
``.weight``. Hugging Face layouts spell all but the experts the same way. Loader and converter both read this file;
nothing else in the package knows how a checkpoint names its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from .config import ModelConfig
from .values import frozen

Kind = Literal["norm", "linear", "router", "embedding", "experts"]


@frozen
class Leaf:
    """A module with one weight. ``shape`` is that weight's, unpacked: ``[dims]`` for a norm, ``[out, in]`` for a
    linear layer, a router or an embedding, ``[experts, out, in]`` for stacked experts."""

    path: str
    kind: Kind
    shape: tuple[int, ...]


@frozen
class Source:
    """One way in which a checkpoint may spell a leaf's weight.

    ``names``: one tensor, or several to be stacked on a new first axis. ``shape``: what each of them has to be.
    ``rows``: if given, only these rows (of the second axis) of the tensor belong to the leaf.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None


# Derived buffers that old exporters saved.
_BUFFERS = re.compile(r"(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$")


def is_ignored(name: str, config: ModelConfig) -> bool:
    """Whether a checkpoint may hold this tensor without the model having a place for it.

    That is: rotary buffers, and the head of a model whose config ties it to the embedding (transformers and mlx-lm
    drop it too).
    """
    if config.tie_word_embeddings and name.startswith("lm_head."):
        return True
    return _BUFFERS.search(name) is not None


def groups(config: ModelConfig) -> Iterator[tuple[Leaf, ...]]:
    """The model's leaves in checkpoint order, in groups that are loaded or converted together.

    The first group is the embedding, then one per layer, then the final norm and, if it is not tied, the head.
    """
    width, vocab = config.hidden_size, config.vocab_size
    yield (Leaf("model.embed_tokens", "embedding", (vocab, width)),)
    for index in range(config.num_hidden_layers):
        yield _layer(config, index)
    norm = Leaf("model.norm", "norm", (width,))
    yield (norm,) if config.tie_word_embeddings else (norm, Leaf("lm_head", "linear", (vocab, width)))


def _layer(config: ModelConfig, index: int) -> tuple[Leaf, ...]:
    layer, width, head = f"model.layers.{index}", config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    attention = (
        Leaf(f"{layer}.input_layernorm", "norm", (width,)),
        Leaf(f"{layer}.self_attn.q_proj", "linear", (queries, width)),
        Leaf(f"{layer}.self_attn.k_proj", "linear", (keys, width)),
        Leaf(f"{layer}.self_attn.v_proj", "linear", (keys, width)),
        Leaf(f"{layer}.self_attn.o_proj", "linear", (width, queries)),
        Leaf(f"{layer}.self_attn.q_norm", "norm", (head,)),
        Leaf(f"{layer}.self_attn.k_norm", "norm", (head,)),
        Leaf(f"{layer}.post_attention_layernorm", "norm", (width,)),
    )
    if not config.is_moe_layer(index):
        return attention + _mlp(f"{layer}.mlp", "linear", (), width, config.intermediate_size)
    router = Leaf(f"{layer}.mlp.gate", "router", (config.num_experts, width))
    stack = (config.num_experts,)
    return (*attention, router, *_mlp(f"{layer}.mlp.switch_mlp", "experts", stack, width, config.moe_intermediate_size))


def _mlp(path: str, kind: Kind, stack: tuple[int, ...], width: int, inner: int) -> tuple[Leaf, ...]:
    return (
        Leaf(f"{path}.gate_proj", kind, (*stack, inner, width)),
        Leaf(f"{path}.up_proj", kind, (*stack, inner, width)),
        Leaf(f"{path}.down_proj", kind, (*stack, width, inner)),
    )


def sources(leaf: Leaf) -> tuple[Source, ...]:
    """The spellings of an unpacked leaf, the usual one first.

    Experts come in three: one tensor per expert and projection (released checkpoints), fused stacks with gate over
    up (transformers 5), and MLX's stacks.
    """
    stacked = Source((f"{leaf.path}.weight",), leaf.shape)
    if leaf.kind != "experts":
        return (stacked,)
    count, rows, width = leaf.shape
    mlp, projection = leaf.path.split(".switch_mlp.")
    single = tuple(f"{mlp}.experts.{expert}.{projection}.weight" for expert in range(count))
    if projection == "down_proj":
        fused = Source((f"{mlp}.experts.down_proj",), leaf.shape)
    else:
        first = 0 if projection == "gate_proj" else rows
        fused = Source((f"{mlp}.experts.gate_up_proj",), (count, 2 * rows, width), (first, first + rows))
    return (Source(single, leaf.shape[1:]), fused, stacked)
