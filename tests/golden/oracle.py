"""transformers' logits for a golden case. Needs torch and transformers; nothing else here does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from .cases import Case, tokens, weights


def logits(case: Case) -> np.ndarray:
    """Float32 logits ``[2, length, vocab]`` of one forward pass without a cache."""
    settings: dict[str, Any] = {k: v for k, v in case.config.items() if k not in ("model_type", "architectures")}
    kind = Qwen3Config if case.config["model_type"] == "qwen3" else Qwen3MoeConfig
    model = AutoModelForCausalLM.from_config(kind(**settings), attn_implementation="eager").float().eval()
    model.load_state_dict(_fitted(model, case))
    with torch.no_grad():
        return model(torch.from_numpy(tokens(case)).long(), use_cache=False).logits.numpy()


def _fitted(model: Any, case: Case) -> dict[str, torch.Tensor]:
    """The drawn weights under the names of this version of transformers (5 stacks the experts, gate over up)."""
    drawn = {name: torch.from_numpy(value) for name, value in weights(case).items()}
    if case.config["tie_word_embeddings"]:
        drawn["lm_head.weight"] = drawn["model.embed_tokens.weight"]
    for name in model.state_dict():
        if name.endswith(".experts.gate_up_proj"):
            stem = name.removesuffix(".gate_up_proj")
            each = [
                torch.cat([drawn.pop(f"{stem}.{e}.{part}_proj.weight") for part in ("gate", "up")])
                for e in range(case.config["num_experts"])
            ]
            drawn[name] = torch.stack(each)
        elif name.endswith(".experts.down_proj"):
            stem = name.removesuffix(".down_proj")
            downs = [drawn.pop(f"{stem}.{e}.down_proj.weight") for e in range(case.config["num_experts"])]
            drawn[name] = torch.stack(downs)
    return drawn
