"""Conversions of tiny checkpoints, judged by MLX's own quantization, by mlx-lm, and by what memory they took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import costs
from qwen3_mlx.checkpoint import Checkpoint
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.convert import Result, convert
from qwen3_mlx.errors import CheckpointError, InvalidRequest, UnsupportedModel

from ..weights import makers


def tensors(folder: Path) -> dict[str, mx.array]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.take(name) for name in list(checkpoint)}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_dense_is_what_mlx_quantizes(tmp_path: Path, bits: int, group_size: int) -> None:
    source = makers.dense(tmp_path / "hf", tie_word_embeddings=False)
    result = convert(source, tmp_path / "out", bits=bits, group_size=group_size)
    held = tensors(source)
    packing = {"bits": bits, "group_size": group_size}
    paths = [name.removesuffix(".weight") for name in held if "norm" not in name]
    expected = makers.packed(held, dict.fromkeys(paths, packing))
    found = tensors(tmp_path / "out")
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and mx.array_equal(found[name], array), name
    assert config_of(tmp_path / "out")["quantization"] == {**packing, "mode": "affine"}
    check_numbers(result, held, found)


def check_numbers(result: Result, before: dict[str, mx.array], after: dict[str, mx.array]) -> None:
    assert result.bytes_before == sum(array.nbytes for array in before.values())
    assert result.bytes_after == sum(array.nbytes for array in after.values())
    assert result.parameters == sum(array.size for array in before.values())
    assert result.bits_per_weight == pytest.approx(result.bytes_after * 8 / result.parameters)


@pytest.mark.parametrize("layout", ["single", "fused"])
def test_moe_is_stacked_and_its_router_has_8_bits(tmp_path: Path, layout: str) -> None:
    held = makers.weights(makers.MOE)
    given = held if layout == "single" else makers.fused(held, 4)
    source = makers.write(tmp_path / "hf", makers.MOE, given, shards=3)
    result = convert(source, tmp_path / "out", bits=4, group_size=32)
    stacked = makers.stacked(held, 4)
    packing: dict[str, dict[str, int]] = {
        name.removesuffix(".weight"): {"bits": 4, "group_size": 32} for name in stacked if "norm" not in name
    }
    routers = ["model.layers.0.mlp.gate", "model.layers.2.mlp.gate"]
    packing.update({router: {"bits": 8, "group_size": 64} for router in routers})
    expected = makers.packed(stacked, packing)
    found = tensors(tmp_path / "out")
    assert set(found) == set(expected)
    assert all(mx.array_equal(found[name], array) for name, array in expected.items())
    override = {"bits": 8, "group_size": 64, "mode": "affine"}
    entry = {"bits": 4, "group_size": 32, "mode": "affine", **dict.fromkeys(routers, override)}
    config = config_of(tmp_path / "out")
    assert config["quantization"] == config["quantization_config"] == entry
    check_numbers(result, held, found)


def test_widths_without_whole_groups_stay(tmp_path: Path) -> None:
    source = makers.dense(tmp_path / "hf", hidden_size=96, intermediate_size=128)
    convert(source, tmp_path / "out", bits=4, group_size=64)
    found = tensors(tmp_path / "out")
    entry = config_of(tmp_path / "out")["quantization"]
    wide = {f"model.layers.{layer}.{path}" for layer in (0, 1) for path in ("self_attn.o_proj", "mlp.down_proj")}
    assert {name.removesuffix(".scales") for name in found if name.endswith(".scales")} == wide
    assert {path for path, value in entry.items() if value is False} == {
        name.removesuffix(".weight") for name in tensors(source) if "norm" not in name
    } - wide
    quantization = ModelConfig.from_folder(tmp_path / "out").quantization
    assert quantization is not None and quantization.for_path("model.embed_tokens") is None


@pytest.mark.parametrize("dtype", [mx.float16, mx.float32, mx.bfloat16], ids=str)
def test_dtypes_are_kept(tmp_path: Path, dtype: mx.Dtype) -> None:
    held = makers.weights(makers.DENSE, dtype)
    convert(makers.write(tmp_path / "hf", makers.DENSE, held), tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert {str(found[name].dtype) for name in found if not name.endswith("weight")} == {str(dtype)}
    for name in held:
        if "norm" in name:
            assert found[name].dtype == dtype and mx.array_equal(found[name], held[name])


def test_shards_and_index(tmp_path: Path) -> None:
    source = makers.moe(tmp_path / "hf")
    convert(source, tmp_path / "one")
    convert(source, tmp_path / "many", shard_bytes=10_000)
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 5 and [path.name for path in (tmp_path / "one").glob("*.safetensors")] == ["model.safetensors"]
    one, many = tensors(tmp_path / "one"), tensors(tmp_path / "many")
    assert set(one) == set(many) and all(mx.array_equal(one[name], many[name]) for name in one)
    for folder in ("one", "many"):
        index = json.loads((tmp_path / folder / "model.safetensors.index.json").read_text())
        checkpoint = Checkpoint(tmp_path / folder)
        assert index["weight_map"] == {name: info.file.name for name, info in checkpoint.items()}
        assert index["metadata"]["total_size"] == checkpoint.nbytes
        sizes: dict[str, int] = {}
        for info in checkpoint.values():
            assert info.start % info.mx_dtype.size == 0
            sizes[info.file.name] = sizes.get(info.file.name, 0) + info.nbytes
            single = sum(other.file == info.file for other in checkpoint.values()) == 1
            assert folder == "one" or sizes[info.file.name] <= 10_000 or single


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def test_config_of_transformers_5_becomes_what_mlx_lm_reads(tmp_path: Path) -> None:
    raw = {key: value for key, value in makers.MOE.items() if key not in ("rope_theta", "rope_scaling", "num_experts")}
    raw |= {"num_local_experts": 4, "rope_parameters": {"rope_theta": 5e6, **YARN}, "dtype": "bfloat16"}
    raw |= {"_name_or_path": "/secret"}
    source = makers.write(tmp_path / "hf", raw, makers.weights(makers.MOE))
    convert(source, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["num_experts"], config["rope_theta"], config["rope_scaling"]) == (4, 5e6, YARN)
    assert not {"num_local_experts", "rope_parameters", "_name_or_path"} & set(config)
    before, after = ModelConfig.from_folder(source), ModelConfig.from_folder(tmp_path / "out")
    assert after.quantization is not None
    assert {k: getattr(before, k) for k in before.__slots__ if k != "quantization"} == {
        k: getattr(after, k) for k in after.__slots__ if k != "quantization"
    }


def test_old_spelling_of_yarn(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16}
    convert(makers.dense(tmp_path / "hf", rope_scaling=scaling), tmp_path / "out")
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16}
    assert config_of(tmp_path / "out")["rope_scaling"] == expected


def test_defaults_become_explicit(tmp_path: Path) -> None:
    raw = {key: value for key, value in makers.DENSE.items() if key not in ("head_dim", "rms_norm_eps")}
    raw |= {"tie_word_embeddings": None}
    held = makers.weights({**makers.DENSE, "head_dim": 128, "tie_word_embeddings": False})
    convert(makers.write(tmp_path / "hf", raw, held), tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["head_dim"], config["rms_norm_eps"], config["tie_word_embeddings"]) == (128, 1e-6, False)


def test_small_files_come_along(tmp_path: Path) -> None:
    source = makers.dense(tmp_path / "hf")
    small = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "merges.txt"]
    for name in small:
        (source / name).write_text(f"this is {name}")
    for name in ("training_args.bin", "optimizer.pt", "notes.md"):
        (source / name).write_text("stays")
    convert(source, tmp_path / "out", name="Qwen3-Tiny", base="Qwen/Qwen3-Tiny")
    out = tmp_path / "out"
    made = {"config.json", "model.safetensors", "model.safetensors.index.json", "README.md"}
    assert {path.name for path in out.iterdir()} == made | set(small)
    assert all((out / name).read_text() == f"this is {name}" for name in small)
    card = (out / "README.md").read_text()
    assert "base_model: Qwen/Qwen3-Tiny\n" in card and "library_name: mlx\n" in card and "4-bit" in card


def test_card_without_a_repository_names_none(tmp_path: Path) -> None:
    convert(makers.dense(tmp_path / "hf"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model" not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    "raw", [makers.DENSE, makers.MOE, {**makers.MOE, "hidden_size": 96}], ids=["dense", "moe", "96"]
)
@pytest.mark.parametrize("spec", [QuantSpec(4, 64), QuantSpec(3, 32)], ids=str)
def test_size_is_what_costs_foretells(tmp_path: Path, raw: dict[str, Any], spec: QuantSpec) -> None:
    source = makers.write(tmp_path / "hf", raw, makers.weights(raw))
    result = convert(source, tmp_path / "out", bits=spec.bits, group_size=spec.group_size)
    config = ModelConfig.from_dict(raw)
    assert result.bytes_before == costs.weight_bytes(config)
    assert result.bytes_after == costs.weight_bytes(config, spec=spec)
    assert result.parameters == costs.parameters(config).total


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = convert(
        makers.write(tmp_path / "hf", makers.MOE, makers.fused(makers.weights(makers.MOE), 4)),
        tmp_path / "out",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen) and seen[-1] == (result.bytes_before, result.bytes_before)


@pytest.mark.parametrize(("bits", "group"), [(1, 64), (7, 64), (0, 64), (16, 64), (4, 16), (4, 256), (4, 0)])
def test_packings_that_mlx_lacks(tmp_path: Path, bits: int, group: int) -> None:
    with pytest.raises(InvalidRequest, match="choose from"):
        convert(makers.dense(tmp_path / "hf"), tmp_path / "out", bits=bits, group_size=group)
    assert not (tmp_path / "out").exists()


def test_quantized_input(tmp_path: Path) -> None:
    convert(makers.dense(tmp_path / "hf"), tmp_path / "4", bits=4)
    with pytest.raises(UnsupportedModel, match=r"quantized already \(affine, 4 bits"):
        convert(tmp_path / "4", tmp_path / "8", bits=8)
    assert not (tmp_path / "8").exists()


@pytest.mark.parametrize("method", ["fp8", "awq", "gptq"])
def test_input_quantized_by_others_is_refused_by_name(tmp_path: Path, method: str) -> None:
    source = makers.dense(tmp_path / "hf", quantization_config={"quant_method": method})
    with pytest.raises(UnsupportedModel, match=method):
        convert(source, tmp_path / "out")


def test_damage_leaves_nothing(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    held["model.norm.weight"] = mx.full((64,), float("nan"), mx.bfloat16)  # found last, when most is written
    source = makers.write(tmp_path / "hf", makers.DENSE, held)
    with pytest.raises(CheckpointError, match="NaN"):
        convert(source, tmp_path / "made" / "here" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


_MEASURE = """
import resource, sys
from pathlib import Path
import mlx.core as mx
from qwen3_mlx.convert import convert
mx.eval(mx.quantize(mx.ones((64, 64))))
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
result = convert(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=20_000_000)
print(result.bytes_before, mx.get_peak_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
"""


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_memory_is_that_of_a_few_weights(tmp_path: Path, kind: str) -> None:
    shape = {"hidden_size": 512, "num_hidden_layers": 6, "vocab_size": 1000}
    if kind == "dense":
        raw = {**makers.DENSE, **shape, "intermediate_size": 4096}
        largest = 4096 * 512 * 2
    else:
        raw = {**makers.MOE, **shape, "num_experts": 16, "moe_intermediate_size": 256, "mlp_only_layers": []}
        largest = 16 * 256 * 512 * 2
    source = makers.write(tmp_path / "hf", raw, makers.weights(raw), shards=7)
    command = [sys.executable, "-c", _MEASURE, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    model, peak, resident = map(int, done.stdout.split())
    assert model > 70_000_000
    assert peak < 4 * largest < model / 4
    assert resident < model / 2


def test_quantization_entry_speaks_config_py(tmp_path: Path) -> None:
    convert(makers.moe(tmp_path / "hf"), tmp_path / "out", bits=5, group_size=32)
    quantization = ModelConfig.from_folder(tmp_path / "out").quantization
    assert quantization is not None
    assert quantization.for_path("lm_head") == QuantSpec(5, 32)
    assert quantization.for_path("model.layers.0.mlp.gate") == QuantSpec(8, 64)
