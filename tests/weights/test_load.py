"""Loading: logits equal mlx-lm's on the same folder, weights are held as the device wants them, damage is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

from qwen3_mlx import machine
from qwen3_mlx.checkpoint import Checkpoint
from qwen3_mlx.convert import convert
from qwen3_mlx.errors import CheckpointError, InvalidRequest, MemoryLimit, QwenError, UnsupportedModel
from qwen3_mlx.model.linear import Quantized
from qwen3_mlx.types import KernelMode
from qwen3_mlx.weights import device_limit, load_model

from . import makers

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2]])


def logits(folder: Path, *, bits: int | None = None, kernels: KernelMode = "reference") -> mx.array:
    model, _ = load_model(folder, bits=bits, kernels=kernels)
    return model(TOKENS)


def mlx_lm_logits(folder: Path, dtype: mx.Dtype | None = mx.float32) -> mx.array:
    """What mlx-lm computes on the folder; with float32, in that precision (packed weights keep their values)."""
    from mlx_lm.utils import load_model as load

    model, _ = load(folder)
    if dtype is not None:
        floats = (mx.bfloat16, mx.float16, mx.float32)
        model.update(
            tree_map(lambda array: array.astype(dtype) if array.dtype in floats else array, model.parameters())
        )
    return model(TOKENS)


def furthest(a: mx.array, b: mx.array) -> float:
    assert a.shape == b.shape
    return float(mx.max(mx.abs(a.astype(mx.float32) - b.astype(mx.float32))).item())


def typically_apart(a: mx.array, b: mx.array) -> float:
    """The median position's largest difference, relative to the largest logit: in bf16 a near tie between two experts
    may fall either way, and changes a whole position."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    worst = mx.sort(mx.max(mx.abs(a - b), axis=-1).flatten())
    return float((worst[worst.size // 2] / mx.max(mx.abs(b))).item())


KINDS: dict[str, dict[str, Any]] = {
    "dense": makers.DENSE,
    "untied": {**makers.DENSE, "tie_word_embeddings": False},
    "yarn": {
        **makers.DENSE,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    },
    "moe": makers.MOE,
    "moe-all": {**makers.MOE, "mlp_only_layers": [], "norm_topk_prob": False, "tie_word_embeddings": True},
}
DTYPES = [mx.bfloat16, mx.float16, mx.float32]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unquantized_equals_mlx_lm(tmp_path: Path, kind: str, dtype: mx.Dtype) -> None:
    raw = KINDS[kind]
    held = makers.weights(raw, dtype)
    # mlx-lm looks for experts in layer 0 only when it stacks them; the stacked form it always takes.
    if "num_experts" in raw:
        theirs = makers.write(tmp_path / "mlx", raw, makers.stacked(held, raw["num_experts"]))
    else:
        theirs = makers.write(tmp_path / "mlx", raw, held)
    expected = mlx_lm_logits(theirs)
    layouts = [held, makers.fused(held, 4), makers.stacked(held, 4)] if "num_experts" in raw else [held]
    for number, layout in enumerate(layouts):
        found = logits(makers.write(tmp_path / str(number), raw, layout, shards=1 + number))
        assert found.dtype == mx.float32 and furthest(found, expected) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_converted_equals_mlx_lm(tmp_path: Path, kind: str, bits: int) -> None:
    source = makers.write(tmp_path / "hf", KINDS[kind], makers.weights(KINDS[kind]))
    convert(source, tmp_path / "out", bits=bits, group_size=32)
    assert furthest(logits(tmp_path / "out"), mlx_lm_logits(tmp_path / "out")) < 1e-4
    packed = logits(tmp_path / "out", kernels="emulate")
    assert packed.dtype == mx.bfloat16
    assert typically_apart(packed, mlx_lm_logits(tmp_path / "out", None)) < 0.05


@pytest.mark.parametrize("mode", [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)], ids=lambda mode: mode[0])
def test_micro_scaling_formats_equal_mlx_lm(tmp_path: Path, mode: tuple[str, int, int]) -> None:
    packing: dict[str, Any] = dict(zip(("mode", "bits", "group_size"), mode, strict=True))
    raw = {**makers.MOE, "quantization": packing}
    tensors = makers.stacked(makers.weights(raw), 4)
    paths = [name.removesuffix(".weight") for name in tensors if "norm" not in name]
    folder = makers.write(tmp_path, raw, makers.packed(tensors, dict.fromkeys(paths, packing)))
    assert furthest(logits(folder), mlx_lm_logits(folder)) < 1e-4
    assert any(isinstance(module, Quantized) for _, module in load_model(folder, kernels="emulate")[0].named_modules())


def test_per_layer_overrides_equal_mlx_lm(tmp_path: Path) -> None:
    low = {"bits": 4, "group_size": 32}
    special = {"bits": 6, "group_size": 64}
    names = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.v_proj"]
    raw = {
        **makers.DENSE,
        "tie_word_embeddings": False,
        "quantization": {**low, **{name: special for name in names}, "lm_head": False},
    }
    tensors = makers.weights(raw)
    packing = {name.removesuffix(".weight"): low for name in tensors if "norm" not in name and "head" not in name}
    packing |= {name: special for name in names}
    folder = makers.write(tmp_path, raw, makers.packed(tensors, packing))
    assert furthest(logits(folder), mlx_lm_logits(folder)) < 1e-4
    assert typically_apart(logits(folder, kernels="emulate"), mlx_lm_logits(folder, None)) < 0.05


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["untied", "moe"])
@pytest.mark.parametrize("kernels", ["reference", "emulate"])
def test_bits_at_load_equal_conversion(tmp_path: Path, kind: str, bits: int, kernels: KernelMode) -> None:
    source = makers.write(tmp_path / "hf", KINDS[kind], makers.weights(KINDS[kind]))
    convert(source, tmp_path / "out", bits=bits)
    assert mx.array_equal(logits(source, bits=bits, kernels=kernels), logits(tmp_path / "out", kernels=kernels)).item()


@pytest.mark.parametrize("kernels", ["reference", "emulate"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_how_weights_are_held(tmp_path: Path, kernels: KernelMode, dtype: mx.Dtype, packed: bool) -> None:
    folder = makers.write(tmp_path / "hf", makers.MOE, makers.weights(makers.MOE, dtype))
    if packed:
        folder = convert(folder, tmp_path / "out", group_size=32).output
    model, _ = load_model(folder, kernels=kernels)
    held = {array.dtype for _, array in tree_flatten(model.parameters())}
    if kernels == "reference":
        assert held == {mx.float32}
    else:
        floats = {mx.bfloat16 if dtype == mx.float32 else dtype}
        assert held == (floats | {mx.uint32} if packed else floats)
    quantized = [module for _, module in model.named_modules() if isinstance(module, Quantized)]
    assert bool(quantized) == (packed and kernels == "emulate")


def test_bits_must_agree_with_a_quantized_checkpoint(tmp_path: Path) -> None:
    out = convert(makers.dense(tmp_path / "hf"), tmp_path / "out", bits=4).output
    assert mx.array_equal(logits(out), logits(out, bits=4)).item()
    with pytest.raises(InvalidRequest, match=r"quantized already \(affine, 4 bits\)") as caught:
        load_model(out, bits=8)
    assert caught.value.param == "bits"


@pytest.mark.parametrize("bits", [0, 1, 7, 16])
def test_bits_that_mlx_lacks(tmp_path: Path, bits: int) -> None:
    with pytest.raises(InvalidRequest, match="choose from 2, 3, 4, 5, 6, 8"):
        load_model(makers.dense(tmp_path), bits=bits)


def test_tied_head_in_the_file_changes_nothing(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    plain = makers.write(tmp_path / "plain", makers.DENSE, held)
    with_head = {**held, "lm_head.weight": held["model.embed_tokens.weight"]}
    headed = makers.write(tmp_path / "headed", makers.DENSE, with_head)
    assert mx.array_equal(logits(plain), logits(headed)).item()


def test_memory_limit_says_what_is_needed_and_what_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = makers.dense(tmp_path / "hf")
    packed = convert(folder, tmp_path / "out", group_size=32).output
    monkeypatch.setattr(machine, "free_memory", lambda: 300_000)
    with pytest.raises(MemoryLimit, match=r"float32, but 0 MB are free: take a smaller checkpoint \(demo fits"):
        load_model(packed, kernels="reference")
    load_model(packed, kernels="emulate")  # packed, it fits
    monkeypatch.setattr(machine, "free_memory", lambda: 60_000)
    with pytest.raises(MemoryLimit, match="4-bit"):
        load_model(packed, kernels="emulate")


def test_a_limit_that_is_set_counts_instead_of_what_is_free(tmp_path: Path) -> None:
    folder = makers.dense(tmp_path / "hf")
    with pytest.raises(MemoryLimit, match="but 0 MB may be used"):
        load_model(folder, kernels="reference", limit=300_000)
    load_model(folder, kernels="reference", limit=10_000_000)
    with pytest.raises(MemoryLimit, match="10 MB may be used"):
        load_model(folder, kernels="reference", limit=10_000_000, working=lambda kernels: 10_000_000)


def test_the_device_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Metal recommends, less what is held; elsewhere nine tenths of what is free."""
    monkeypatch.setattr(machine, "free_memory", lambda: 1_000_000_000)
    assert device_limit() == 900_000_000
    held = mx.zeros(1_000_000)
    mx.eval(held)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 48 << 30})
    assert device_limit() == (48 << 30) - mx.get_active_memory() < (48 << 30) - 4_000_000 + 1
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 1})
    assert device_limit() == 0
    assert held.size


def test_memory_of_a_large_model_is_known_from_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 16 GB: refused before anything of it is read."""
    shape = {"hidden_size": 4096, "intermediate_size": 4096 * 40, "num_hidden_layers": 4}
    raw = {**makers.DENSE, **shape, "vocab_size": 4096}
    mlp = 4096 * 4096 * 40
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (4096, 4096), "model.norm.weight": (4096,)}
    for layer in range(4):
        at = f"model.layers.{layer}."
        tensors |= {at + f"{norm}_layernorm.weight": (4096,) for norm in ("input", "post_attention")}
        tensors |= {at + f"self_attn.{name}_norm.weight": (32,) for name in "qk"}
        tensors |= {at + "self_attn.q_proj.weight": (128, 4096), at + "self_attn.o_proj.weight": (4096, 128)}
        tensors |= {at + f"self_attn.{name}_proj.weight": (64, 4096) for name in "kv"}
        tensors |= {at + f"mlp.{name}_proj.weight": (4096 * 40, 4096) for name in ("gate", "up")}
        tensors |= {at + "mlp.down_proj.weight": (4096, 4096 * 40)}
    header, end = {}, 0
    for name, dims in tensors.items():
        nbytes = 2
        for dim in dims:
            nbytes *= dim
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr(machine, "free_memory", lambda: 10_000_000_000)
    needed = (12 + 3) * mlp * 4 / 1e9  # all layers, and one more while it is fused
    with pytest.raises(MemoryLimit, match=rf"needs {needed:.0f}\.\d GB .* 10\.0 GB are free.*\(qwen3:1\.7b would"):
        load_model(tmp_path, kernels="reference")


LAYERED: dict[str, dict[str, Any]] = {
    "dense": {**makers.DENSE, "hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 4},
    "wide": {**makers.DENSE, "hidden_size": 128, "vocab_size": 8000, "tie_word_embeddings": False},
    "moe": {**makers.MOE, "hidden_size": 128, "moe_intermediate_size": 128, "num_experts": 16},
}


@pytest.mark.parametrize("batch", [1, 1 << 20])
@pytest.mark.parametrize("kernels", ["reference", "emulate"])
@pytest.mark.parametrize("how", ["bf16", "float32", "packed", "pack bf16", "pack float32"])
@pytest.mark.parametrize("kind", LAYERED)
def test_loading_takes_no_more_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, kernels: KernelMode, batch: int
) -> None:
    """What a load is measured to take is more than a limit at which it is let in, whatever it does on the way."""
    monkeypatch.setattr("qwen3_mlx.weights._BATCH_BYTES", batch)
    raw = LAYERED[kind]
    folder = makers.write(tmp_path / "made", raw, makers.weights(raw, mx.float32 if "32" in how else mx.bfloat16))
    if how == "packed":
        folder = convert(folder, tmp_path / "packed").output
    bits = 4 if "pack " in how else None
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    load_model(folder, bits=bits, kernels=kernels)
    taken = mx.get_peak_memory() - before
    rounding = 4096  # of many small arrays by the allocator
    with pytest.raises(MemoryLimit):
        load_model(folder, bits=bits, kernels=kernels, limit=taken - rounding)


def test_what_a_load_needs_is_not_said_to_be_far_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen3_mlx.weights._BATCH_BYTES", 1)
    folder = convert(makers.dense(tmp_path / "made", **LAYERED["dense"]), tmp_path / "packed").output
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    load_model(folder, kernels="reference")
    load_model(folder, kernels="reference", limit=(mx.get_peak_memory() - before) * 115 // 100)


def damaged(folder: Path, error: type[QwenError]) -> str:
    with pytest.raises(error) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_without_config(tmp_path: Path) -> None:
    assert "config.json" in damaged(tmp_path, CheckpointError)


def test_other_architecture(tmp_path: Path) -> None:
    assert "model_type" in damaged(makers.dense(tmp_path, model_type="llama"), UnsupportedModel)


def test_damage_names_file_and_tensor(tmp_path: Path) -> None:
    held = makers.weights(makers.DENSE)
    held["model.layers.1.self_attn.k_norm.weight"] = mx.full((32,), float("nan"), mx.bfloat16)
    said = damaged(makers.write(tmp_path, makers.DENSE, held, shards=2), CheckpointError)
    assert "model-00002-of-00002.safetensors: tensor model.layers.1.self_attn.k_norm.weight: " in said


def test_file_that_is_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = makers.dense(tmp_path)
    import qwen3_mlx.weights as module

    def cut(*args: Any) -> None:
        file = folder / "model.safetensors"
        with open(file, "r+b") as stream:
            stream.truncate(file.stat().st_size // 2)

    monkeypatch.setattr(module, "_check_memory", cut)
    assert "read" in damaged(folder, CheckpointError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
)
def test_damaged_files_load_or_are_refused(tmp_path: Path, flips: list[tuple[float, int]], cut: float | None) -> None:
    whole = tmp_path / "whole"
    if not whole.exists():
        makers.moe(whole, num_hidden_layers=1)
    data = bytearray((whole / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for at, flip in flips:
        data[int(at * header)] ^= flip
    hurt = tmp_path / "hurt"
    shutil.copytree(whole, hurt, dirs_exist_ok=True)
    (hurt / "model.safetensors").write_bytes(data if cut is None else data[: int(cut * len(data))])
    try:
        load_model(hurt)
    except QwenError as error:
        assert "\n" not in str(error)


def test_batches_of_any_size_load_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = makers.moe(tmp_path)
    at_once = logits(folder)
    monkeypatch.setattr("qwen3_mlx.weights._BATCH_BYTES", 1)
    assert mx.array_equal(logits(folder), at_once).item()


@pytest.mark.parametrize("bits", [None, 4])
def test_large_models_are_loaded_layer_by_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int | None
) -> None:
    raw = {**makers.DENSE, "hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 12}
    folder = makers.write(tmp_path, raw, makers.weights(raw), shards=3)
    stored = Checkpoint(folder).nbytes
    monkeypatch.setattr("qwen3_mlx.weights._BATCH_BYTES", 1)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model, _ = load_model(folder, bits=bits, kernels="emulate")
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert held == pytest.approx(stored if bits is None else stored * 4.5 / 16, rel=0.05)
    # One layer of twelve is there twice while it is made; without layers it would be the whole model.
    assert mx.get_peak_memory() - before < held + stored / 12 * 2.5
