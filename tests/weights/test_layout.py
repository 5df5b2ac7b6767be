"""Checkpoints held against configs: every spelling finds its leaf, and what does not belong is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import Checkpoint
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.errors import CheckpointError
from qwen3_mlx.layout import match, read
from qwen3_mlx.packing import unpack

from . import makers

Tensors = dict[str, mx.array]


def arrays(folder: Path) -> dict[str, tuple[QuantSpec | None, Tensors]]:
    """Everything of a checkpoint, by the leaf's path."""
    checkpoint = Checkpoint(folder)
    config = ModelConfig.from_folder(folder)
    return {
        item.leaf.path: (item.spec, parts)
        for group in match(checkpoint, config)
        for item, parts in read(checkpoint, group)
    }


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        arrays(folder)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("layout", ["single", "fused", "stacked"])
def test_expert_layouts_give_the_same_arrays(tmp_path: Path, layout: str) -> None:
    held = makers.weights(makers.MOE)
    change: dict[str, Callable[[Tensors, int], Tensors]] = {
        "single": lambda tensors, experts: tensors,
        "fused": makers.fused,
        "stacked": makers.stacked,
    }
    folder = makers.write(tmp_path, makers.MOE, change[layout](held, 4), shards=2)
    expected = makers.stacked(held, 4)
    found = arrays(folder)
    assert {f"{path}.weight" for path in found} == set(expected)
    for path, (spec, parts) in found.items():
        assert spec is None and mx.array_equal(parts["weight"], expected[f"{path}.weight"]), path


def test_experts_may_lie_in_several_shards(tmp_path: Path) -> None:
    held = makers.weights(makers.MOE)
    whole = arrays(makers.write(tmp_path / "1", makers.MOE, held))
    split = arrays(makers.write(tmp_path / "20", makers.MOE, held, shards=20))
    assert all(mx.array_equal(whole[path][1]["weight"], split[path][1]["weight"]) for path in whole)


PACKINGS = [
    *({"bits": bits, "group_size": group} for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    {"bits": 4, "group_size": 16, "mode": "nvfp4"},
]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: "-".join(map(str, packing.values())))
def test_every_packing_is_read(tmp_path: Path, packing: dict[str, Any]) -> None:
    config = {**makers.DENSE, "hidden_size": 128, "quantization": packing}
    tensors = makers.weights(config)
    paths = [name.removesuffix(".weight") for name in tensors if "norm" not in name]
    held = makers.packed(tensors, dict.fromkeys(paths, packing))
    found = arrays(makers.write(tmp_path, config, held))
    for path in paths:
        spec, parts = found[path]
        assert spec == QuantSpec(packing["bits"], packing["group_size"], packing.get("mode", "affine"))
        assert {f"{path}.{part}" for part in parts} == {name for name in held if name.startswith(path + ".")}
        # What a packed matmul multiplies with, read off by multiplying with the identity in float32.
        exact = {p: a.astype(mx.float32) if a.dtype == mx.bfloat16 else a for p, a in parts.items()}
        width = tensors[f"{path}.weight"].shape[1]
        rows = mx.quantized_matmul(mx.eye(width), exact["weight"], exact["scales"], exact.get("biases"), **packing)
        assert mx.array_equal(unpack(parts, spec), rows.T)


def test_overrides_decide_layer_by_layer(tmp_path: Path) -> None:
    eight = {"bits": 8, "group_size": 64}
    config = {
        **makers.MOE,
        "quantization": {
            "bits": 4,
            "group_size": 32,
            "model.layers.0.mlp.gate": eight,
            "model.embed_tokens": False,
            "model.layers.0.self_attn.q_proj": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
        },
    }
    tensors = makers.stacked(makers.weights(config), 4)
    default = {"bits": 4, "group_size": 32}
    named: dict[str, dict[str, Any]] = {
        name.removesuffix(".weight"): default
        for name in tensors
        if "norm" not in name and "embed" not in name and name != "lm_head.weight"
    }
    named["model.layers.0.mlp.gate"] = eight
    named["model.layers.0.self_attn.q_proj"] = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    found = arrays(makers.write(tmp_path, config, makers.packed(tensors, named)))
    assert found["model.layers.0.mlp.gate"][0] == QuantSpec(8, 64)
    assert found["model.layers.2.mlp.gate"][0] == QuantSpec(4, 32)
    assert found["model.layers.0.self_attn.q_proj"][0] == QuantSpec(4, 32, "mxfp4")
    assert found["model.embed_tokens"][0] is None
    assert found["lm_head"][0] is None  # not named, and has no scales: as mlx-lm reads it
    assert found["model.layers.0.mlp.switch_mlp.up_proj"][0] == QuantSpec(4, 32)


def test_packing_is_told_from_shapes_where_the_default_is_wrong(tmp_path: Path) -> None:
    config = {**makers.DENSE, "quantization": {"bits": 4, "group_size": 64}}
    held = makers.packed(makers.weights(config), {"model.layers.1.mlp.up_proj": {"bits": 6, "group_size": 32}})
    found = arrays(makers.write(tmp_path, config, held))
    assert found["model.layers.1.mlp.up_proj"][0] == QuantSpec(6, 32)


def test_what_has_no_place_but_is_known_is_passed_over(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    extra = {"lm_head.weight": held["model.embed_tokens.weight"], "model.rotary_emb.inv_freq": mx.ones((16,))}
    assert set(arrays(makers.write(tmp_path, makers.DENSE, {**held, **extra}))) == {
        name.removesuffix(".weight") for name in held
    }


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.self_attn.k_norm.weight", "model.norm.weight", "lm_head.weight"],
)
def test_missing_tensor(tmp_path: Path, name: str) -> None:
    config = {**makers.DENSE, "tie_word_embeddings": False}
    held = makers.weights(config)
    del held[name]
    error = refused(makers.write(tmp_path, config, held))
    assert error.tensor == name and "missing" in str(error)


def test_missing_expert(tmp_path: Path) -> None:
    held = makers.weights(makers.MOE)
    del held["model.layers.2.mlp.experts.3.up_proj.weight"]
    assert refused(makers.write(tmp_path, makers.MOE, held)).tensor == "model.layers.2.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize("part", ["scales", "biases"])
def test_missing_part_of_a_packed_weight(tmp_path: Path, part: str) -> None:
    path = "model.layers.0.mlp.up_proj"
    config = {**makers.DENSE, "quantization": {"bits": 4, "group_size": 64, path: {"bits": 4, "group_size": 64}}}
    held = makers.packed(makers.weights(config), {path: {"bits": 4, "group_size": 64}})
    del held[f"{path}.{part}"]
    assert refused(makers.write(tmp_path, config, held)).tensor == f"{path}.{part}"


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.mlp.up_proj.weight",
        "visual.patch_embed.weight",
        "model.layers.0.mlp.experts.0.up_proj.weight",
    ],
)
def test_tensor_without_a_place(tmp_path: Path, name: str) -> None:
    held = makers.weights(makers.DENSE)
    error = refused(makers.write(tmp_path, makers.DENSE, {**held, name: mx.ones((3,))}))
    assert error.tensor == name and error.path.name == "model.safetensors"


def test_renamed_tensor(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    held["model.layers.0.mlp.gate_projection.weight"] = held.pop("model.layers.0.mlp.gate_proj.weight")
    assert refused(makers.write(tmp_path, makers.DENSE, held)).tensor == "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize("shape", [(128, 63), (64, 128), (128, 64, 1), (128 * 64,), ()], ids=str)
def test_wrong_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    held = makers.weights(makers.DENSE)
    held["model.layers.0.mlp.up_proj.weight"] = mx.zeros(shape, mx.bfloat16)
    error = refused(makers.write(tmp_path, makers.DENSE, held))
    assert error.tensor == "model.layers.0.mlp.up_proj.weight"
    assert str(list(shape)) in str(error) and "[128, 64]" in str(error)


def test_wrong_shape_of_one_expert(tmp_path: Path) -> None:
    held = makers.weights(makers.MOE)
    held["model.layers.0.mlp.experts.2.down_proj.weight"] = mx.zeros((64, 63), mx.bfloat16)
    assert refused(makers.write(tmp_path, makers.MOE, held)).tensor == "model.layers.0.mlp.experts.2.down_proj.weight"


@pytest.mark.parametrize(("part", "shape"), [("weight", (128, 9)), ("scales", (128, 3)), ("biases", (128, 1))])
def test_wrong_shape_of_a_packed_part(tmp_path: Path, part: str, shape: tuple[int, ...]) -> None:
    path = "model.layers.0.mlp.up_proj"
    config = {**makers.DENSE, "quantization": {"bits": 4, "group_size": 32}}
    held = makers.packed(makers.weights(config), {path: {"bits": 4, "group_size": 32}})
    name = f"{path}.{part}"
    held[name] = mx.zeros(shape, held[name].dtype)
    error = refused(makers.write(tmp_path, config, held))
    assert error.tensor is not None and error.tensor.startswith(path)


def test_width_that_has_no_whole_groups(tmp_path: Path) -> None:
    path = "model.layers.0.mlp.up_proj"
    config = {**makers.DENSE, "quantization": {"bits": 4, "group_size": 32, path: {"bits": 4, "group_size": 128}}}
    held = makers.packed(makers.weights(config), {path: {"bits": 4, "group_size": 32}})
    assert "groups of 128" in str(refused(makers.write(tmp_path, config, held)))


@pytest.mark.parametrize("dtype", [mx.int8, mx.int32, mx.uint8, mx.bool_], ids=str)
def test_wrong_dtype(tmp_path: Path, dtype: mx.Dtype) -> None:
    held = makers.weights(makers.DENSE)
    held["model.norm.weight"] = mx.ones((64,), dtype)
    assert refused(makers.write(tmp_path, makers.DENSE, held)).tensor == "model.norm.weight"


def test_packed_without_saying_so(tmp_path: Path) -> None:
    held = makers.packed(makers.weights(makers.DENSE), {"model.layers.0.mlp.up_proj": {"bits": 4, "group_size": 32}})
    error = refused(makers.write(tmp_path, makers.DENSE, held))
    assert error.tensor == "model.layers.0.mlp.up_proj.weight" and "quantization" in str(error)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_nothing_but_nan(tmp_path: Path, name: str) -> None:
    held = makers.weights(makers.DENSE)
    held[name] = mx.full(held[name].shape, float("nan"), mx.bfloat16)
    error = refused(makers.write(tmp_path, makers.DENSE, held))
    assert error.tensor == name and error.path.name == "model.safetensors" and "NaN" in str(error)


def test_nothing_but_nan_in_one_expert(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.experts.1.gate_proj.weight"
    held = makers.weights(makers.MOE)
    held[name] = mx.full(held[name].shape, float("nan"), mx.bfloat16)
    assert refused(makers.write(tmp_path, makers.MOE, held)).tensor == name


def test_nothing_but_nan_in_scales(tmp_path: Path) -> None:
    path = "model.layers.0.mlp.up_proj"
    config = {**makers.DENSE, "quantization": {"bits": 4, "group_size": 32}}
    held = makers.packed(makers.weights(config), {path: {"bits": 4, "group_size": 32}})
    held[f"{path}.scales"] = mx.full((128, 2), float("nan"), mx.bfloat16)
    assert refused(makers.write(tmp_path, config, held)).tensor == f"{path}.scales"


def test_some_nan_is_not_the_readers_to_judge(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    values = [float("nan")] * 63 + [1.0]
    held["model.norm.weight"] = mx.array(values, mx.bfloat16)
    assert "model.norm" in arrays(makers.write(tmp_path, makers.DENSE, held))
