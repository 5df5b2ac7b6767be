"""Folders that mlx-lm itself quantized and saved: its defaults, its mixed recipes, its micro-scaling formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from qwen3_mlx.config import ModelConfig
from qwen3_mlx.weights import load_model

from . import makers

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])

KINDS: dict[str, dict[str, Any]] = {
    "dense": makers.DENSE,
    # Wide enough for mlx-lm's mixed recipes to tell first and last layers from those between.
    "deep": {**makers.DENSE, "num_hidden_layers": 9, "tie_word_embeddings": False},
    "moe": makers.MOE,
}
WAYS: list[dict[str, Any]] = [
    {"bits": 4, "group_size": 64},
    {"bits": 8, "group_size": 32},
    {"bits": 6, "group_size": 64},
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    {"recipe": "mixed_4_6"},
    {"recipe": "mixed_2_6"},
]


def saved_by_mlx_lm(source: Path, out: Path, way: dict[str, Any]) -> mx.array:
    """Quantize ``source`` into ``out`` as ``mlx_lm.convert`` does; returns the logits of the result in float32."""
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.utils import load_model as load
    from mlx_lm.utils import quantize_model, save_config, save_model

    model, config = load(source, lazy=True)
    if "recipe" in way:
        predicate = mixed_quant_predicate_builder(way["recipe"], model, 32)
        model, config = quantize_model(model, config, 32, 4, quant_predicate=predicate)
    else:
        mode = way.get("mode", "affine")
        model, config = quantize_model(model, config, way["group_size"], way["bits"], mode=mode)
    save_model(out, model)
    save_config(config, out / "config.json")
    floats = (mx.bfloat16, mx.float32)
    model.update(tree_map(lambda a: a.astype(mx.float32) if a.dtype in floats else a, model.parameters()))
    return model(TOKENS)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
@pytest.mark.parametrize("kind", KINDS)
def test_loads_as_mlx_lm_meant_it(tmp_path: Path, kind: str, way: dict[str, Any]) -> None:
    raw = KINDS[kind]
    source = makers.write(tmp_path / "hf", raw, makers.weights(raw))
    expected = saved_by_mlx_lm(source, tmp_path / "mlx", way)
    quantization = ModelConfig.from_folder(tmp_path / "mlx").quantization
    assert quantization is not None and bool(quantization.overrides) == ("recipe" in way or kind == "moe")
    model, _ = load_model(tmp_path / "mlx", kernels="reference")
    assert float(mx.max(mx.abs(model(TOKENS) - expected)).item()) < 1e-4
    packed, _ = load_model(tmp_path / "mlx", kernels="emulate")
    assert mx.all(mx.isfinite(packed(TOKENS))).item()
