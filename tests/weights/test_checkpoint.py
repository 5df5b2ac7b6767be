"""The safetensors reader: whatever was done to the files, a typed error that says where, or the right tensors."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwen3_mlx.checkpoint import INDEX, Checkpoint, read_header
from qwen3_mlx.errors import CheckpointError

from . import makers


def header_of(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(file: Path, header: Any, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return makers.dense(tmp_path / "one")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return makers.write(tmp_path / "many", makers.DENSE, makers.weights(makers.DENSE), shards=3)


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(folder)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32], ids=str)
def test_reads_what_mlx_wrote(tmp_path: Path, dtype: mx.Dtype) -> None:
    held = makers.weights(makers.DENSE, dtype)
    checkpoint = Checkpoint(makers.write(tmp_path, makers.DENSE, held))
    assert set(checkpoint) == set(held)
    for name, array in held.items():
        info = checkpoint[name]
        assert (info.shape, info.mx_dtype, info.nbytes) == (array.shape, array.dtype, array.nbytes)
        assert mx.array_equal(checkpoint.take(name), array)
        raw = info.file.read_bytes()[info.start : info.start + info.nbytes]
        assert raw == bytes(memoryview(array.view(mx.uint8)))  # type: ignore[arg-type]


def test_shards_are_one_checkpoint(sharded: Path, folder: Path) -> None:
    one, many = Checkpoint(folder), Checkpoint(sharded)
    assert set(one) == set(many) and len({info.file for info in many.values()}) == 3
    assert all(mx.array_equal(one.take(name), many.take(name)) for name in one)


def test_shards_without_an_index(sharded: Path) -> None:
    held = len(Checkpoint(sharded))
    (sharded / INDEX).unlink()
    assert len(Checkpoint(sharded)) == held
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in str(refused(sharded))


def test_missing_shard(sharded: Path) -> None:
    gone = sharded / "model-00003-of-00003.safetensors"
    gone.unlink()
    error = refused(sharded)
    assert error.path == gone and "missing" in str(error)


def test_index_names_a_tensor_that_is_nowhere(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.layers.7.mlp.up_proj.weight"] = "model-00001-of-00003.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    assert refused(sharded).tensor == "model.layers.7.mlp.up_proj.weight"


def test_index_names_the_wrong_shard(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    assert index["weight_map"]["model.norm.weight"] == "model-00003-of-00003.safetensors"
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    error = refused(sharded)
    assert error.tensor == "model.norm.weight" and error.path.name == "model-00001-of-00003.safetensors"


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 3, "model.bin"], ids=str)
def test_index_may_not_lead_elsewhere(sharded: Path, shard: Any) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    assert refused(sharded).tensor == "model.norm.weight"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "\xff"], ids=repr)
def test_broken_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_bytes(text.encode("latin-1"))
    assert refused(sharded).path.name == INDEX


def test_same_tensor_in_two_files(tmp_path: Path) -> None:
    held = {"model.norm.weight": mx.ones((4,))}
    for shard in ("model-00001-of-00002", "model-00002-of-00002"):
        mx.save_safetensors(str(tmp_path / f"{shard}.safetensors"), held)
    error = refused(tmp_path)
    assert error.tensor == "model.norm.weight" and "model-00001-of-00002" in str(error)


def test_no_weights(tmp_path: Path) -> None:
    assert "no weights" in str(refused(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    assert "PyTorch" in str(refused(tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 200, -1, -2, -1000])
def test_truncated(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    assert refused(folder).path == file


def test_truncated_anywhere(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    for keep in random.Random(1).sample(range(len(data)), 300):
        file.write_bytes(data[:keep])
        assert refused(folder).path == file


def test_longer_than_its_tensors(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    assert "corrupt" in str(refused(folder))


def test_web_page_saved_as_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>Access denied</html>")
    assert "header" in str(refused(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "Q4"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"dtype": "F32"}, "cannot hold"),
        ({"shape": [65]}, "cannot hold"),
        ({"shape": [-64]}, "shape"),
        ({"shape": [64.0]}, "shape"),
        ({"shape": [True] * 3}, "shape"),
        ({"shape": "64"}, "shape"),
        ({"shape": [1] * 99}, "shape"),
        ({"shape": [1 << 61, 1 << 61, 1 << 61]}, "cannot hold"),
        ({"shape": [1 << 70]}, "shape"),
        ({"data_offsets": [0]}, "offsets"),
        ({"data_offsets": [128, 0]}, "offsets"),
        ({"data_offsets": [4, 132]}, "overlaps|hole"),
        ({"data_offsets": [1 << 50, (1 << 50) + 128]}, "truncated"),
    ],
    ids=str,
)
def test_header_entries(folder: Path, change: dict[str, Any], says: str) -> None:
    file = folder / "model.safetensors"
    header, data = header_of(file)
    header["model.norm.weight"].update(change)
    rewrite(file, header, data)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_header(file)
    assert caught.value.tensor == "model.norm.weight" or "model.norm.weight" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [NaN, 0]}}',
        b'{"__metadata__": {"format": 3}}',
        b"[" * 100_000,
        b"\xff\xfe{}",
        b'{"a\\u001b[31m": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}',
        b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}',
    ],
    ids=lambda text: repr(text[:40]),
)
def test_header_is_no_table(tmp_path: Path, text: bytes) -> None:
    rewrite(tmp_path / "model.safetensors", text, b"")
    error = refused(tmp_path)
    assert str(error).isprintable()


def test_unsupported_dtype_is_named_when_asked_for(tmp_path: Path) -> None:
    entry = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}
    rewrite(tmp_path / "model.safetensors", {"model.norm.weight": entry}, b"\0" * 4)
    info = Checkpoint(tmp_path)["model.norm.weight"]
    with pytest.raises(CheckpointError, match="F8_E4M3"):
        _ = info.mx_dtype


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32], ids=str)
def test_nan_is_told_from_its_first_values(tmp_path: Path, dtype: mx.Dtype) -> None:
    nan, inf = float("nan"), float("inf")
    held = {
        "nan": mx.full((9,), nan, dtype),
        "minus": -mx.full((9,), nan, dtype),
        "one": mx.full((1,), nan, dtype),
        "infinite": mx.full((9,), inf, dtype),
        "mixed": mx.array([nan, 1, nan, nan, nan], dtype),
        "late": mx.array([nan, nan, nan, nan, 1.0], dtype),
        "empty": mx.zeros((0,), dtype),
        "packed": mx.full((9,), 0xFFFFFFFF, mx.uint32),
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), held)
    checkpoint = Checkpoint(tmp_path)
    assert {name for name in held if checkpoint.starts_with_nan(name)} == {"nan", "minus", "one", "late"}
    checkpoint.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
)
def test_damaged_headers_never_surprise(
    folder: Path, tmp_path: Path, flips: list[tuple[float, int]], cut: float | None
) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    for at, flip in flips:
        data[int(at * header)] ^= flip
    hurt = tmp_path / "hurt"
    shutil.rmtree(hurt, ignore_errors=True)
    hurt.mkdir()
    (hurt / "model.safetensors").write_bytes(data if cut is None else data[: int(cut * len(data))])
    try:
        checkpoint = Checkpoint(hurt)
        arrays = [checkpoint.take(name) for name in list(checkpoint)]
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    mx.eval(arrays)
