"""Small models for tests, from the golden cases or from configs with random weights."""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.kernels import resolve
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.types import KernelMode
from tests.golden.cases import Case, weights

_EXPERT = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")


def stacked(drawn: dict[str, np.ndarray]) -> list[tuple[str, mx.array]]:
    """A Hugging Face checkpoint under MLX's names: experts stacked as ``switch_mlp``."""
    stacks: dict[str, list[np.ndarray]] = {}
    out = []
    for name, value in drawn.items():
        if match := _EXPERT.fullmatch(name):
            stacks.setdefault(f"{match[1]}.switch_mlp.{match[3]}.weight", []).append(value)
        else:
            out.append((name, mx.array(value)))
    return out + [(name, mx.array(np.stack(parts))) for name, parts in stacks.items()]


def build(case: Case, mode: KernelMode = "reference", fuse: bool = True) -> Qwen3:
    """The case's model with its drawn float32 weights."""
    model = Qwen3(ModelConfig.from_dict(case.config), resolve(mode))
    model.load_weights(stacked(weights(case)))
    if fuse:
        model.fuse()
    return model


def random_weights(model: Qwen3, seed: int = 0) -> None:
    """Evaluated random weights for a model built from a config."""
    mx.random.seed(seed)
    drawn = []
    for name, value in tree_flatten(model.parameters()):
        noise = mx.random.normal(value.shape)
        drawn.append((name, 1 + 0.1 * noise if value.ndim == 1 else noise * value.shape[-1] ** -0.5))
    model.load_weights(drawn)
    mx.eval(model.parameters())


def in_steps(model: Qwen3, tokens: mx.array, steps: int, kv_bits: int | None = None) -> mx.array:
    """Logits of all positions when the last ``steps`` tokens go in one by one and the others in two pieces."""
    batch, length = tokens.shape
    cache = KVCache(model.config, batch=batch, kv_bits=kv_bits, kernels=model.kernels)
    middle = (length - steps) // 2
    pieces = [tokens[:, :middle], tokens[:, middle : length - steps]]
    pieces += [tokens[:, at : at + 1] for at in range(length - steps, length)]
    logits = []
    for piece in pieces:
        logits.append(model(piece, cache))
        mx.eval(logits[-1])
    return mx.concatenate(logits, axis=1)
