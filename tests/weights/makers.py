"""Makers of tiny checkpoints with random weights, spelled out name by name (and not taken from the code under test)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 160,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
MOE: dict[str, Any] = {
    **DENSE,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
}


def weights(config: Mapping[str, Any], dtype: mx.Dtype = mx.bfloat16, seed: int = 0) -> dict[str, mx.array]:
    """Random tensors under Hugging Face's names."""
    width, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = shapes[at + "post_attention_layernorm.weight"] = (width,)
        shapes[at + "self_attn.q_proj.weight"] = (queries, width)
        shapes[at + "self_attn.k_proj.weight"] = shapes[at + "self_attn.v_proj.weight"] = (keys, width)
        shapes[at + "self_attn.o_proj.weight"] = (width, queries)
        shapes[at + "self_attn.q_norm.weight"] = shapes[at + "self_attn.k_norm.weight"] = (head,)
        mlps = {at + "mlp.": config["intermediate_size"]}
        if "num_experts" in config and layer not in config["mlp_only_layers"]:
            shapes[at + "mlp.gate.weight"] = (config["num_experts"], width)
            inner = config["moe_intermediate_size"]
            mlps = {at + f"mlp.experts.{expert}.": inner for expert in range(config["num_experts"])}
        for mlp, inner in mlps.items():
            shapes[mlp + "gate_proj.weight"] = shapes[mlp + "up_proj.weight"] = (inner, width)
            shapes[mlp + "down_proj.weight"] = (width, inner)
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], width)
    mx.random.seed(seed)
    made = {}
    for name, shape in shapes.items():
        values = mx.random.normal(shape) * 0.2
        made[name] = (1 + values if "norm" in name else values).astype(dtype)
    return made


def fused(tensors: Mapping[str, mx.array], experts: int) -> dict[str, mx.array]:
    """The same experts as transformers 5 holds them: stacks, gate over up."""
    out = {name: array for name, array in tensors.items() if ".experts." not in name}
    for mlp in sorted({name.split("experts.")[0] for name in tensors if ".experts." in name}):
        part = {
            kind: mx.stack([tensors[f"{mlp}experts.{e}.{kind}_proj.weight"] for e in range(experts)])
            for kind in ("gate", "up", "down")
        }
        out[mlp + "experts.gate_up_proj"] = mx.concatenate([part["gate"], part["up"]], axis=1)
        out[mlp + "experts.down_proj"] = part["down"]
    return out


def stacked(tensors: Mapping[str, mx.array], experts: int) -> dict[str, mx.array]:
    """The same experts in MLX's layout."""
    out = {name: array for name, array in tensors.items() if ".experts." not in name}
    for mlp in sorted({name.split("experts.")[0] for name in tensors if ".experts." in name}):
        for kind in ("gate", "up", "down"):
            rows = [tensors[f"{mlp}experts.{e}.{kind}_proj.weight"] for e in range(experts)]
            out[f"{mlp}switch_mlp.{kind}_proj.weight"] = mx.stack(rows)
    return out


def packed(tensors: Mapping[str, mx.array], names: Mapping[str, dict[str, Any]]) -> dict[str, mx.array]:
    """``tensors`` with those of the modules in ``names`` quantized as their values say (arguments of mx.quantize)."""
    out: dict[str, mx.array] = {}
    for name, array in tensors.items():
        path = name.removesuffix(".weight")
        if path in names:
            for part, packed in zip(("weight", "scales", "biases"), mx.quantize(array, **names[path]), strict=False):
                out[f"{path}.{part}"] = packed
        else:
            out[name] = array
    return out


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, mx.array], shards: int = 1) -> Path:
    """A checkpoint folder: one file, or ``shards`` of them with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), dict(tensors))
        return folder
    names, placed = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        held = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        mx.save_safetensors(str(folder / file), {name: tensors[name] for name in held})
        placed.update(dict.fromkeys(held, file))
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def dense(folder: Path, **changes: Any) -> Path:
    config = {**DENSE, **changes}
    return write(folder, config, weights(config))


def moe(folder: Path, **changes: Any) -> Path:
    config = {**MOE, **changes}
    return write(folder, config, weights(config))
