"""What a whole checkpoint is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen3_mlx.hub import files

from .conftest import checkpoint, safetensors, write


def test_a_whole_one(tmp_path: Path) -> None:
    assert files.missing(write(tmp_path / "one", checkpoint())) == []
    assert files.missing(write(tmp_path / "three", checkpoint(shards=3))) == []


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    assert files.missing(tmp_path) == ["config.json", "tokenizer.json", "model.safetensors"]


def test_a_shard_that_the_index_names(tmp_path: Path) -> None:
    folder = write(tmp_path, checkpoint(shards=3))
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert files.missing(folder) == ["model-00002-of-00003.safetensors"]


def test_a_shard_that_only_the_others_names_tell_of(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": b"{}", "tokenizer.json": b"{}", "model-00001-of-00002.safetensors": safetensors()})
    assert files.missing(tmp_path) == ["model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"weight_map": 3}', b"\xff", b'{"weight_map": {"w": "../../home/x.safetensors"}}']
)
def test_a_broken_index_names_no_file(tmp_path: Path, index: bytes) -> None:
    folder = write(tmp_path, {files.INDEX: index})
    assert files.indexed(folder / files.INDEX) == [] and files.indexed_bytes(folder / files.INDEX) == 0


def test_the_index_tells_the_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path, checkpoint(shards=3))
    assert files.indexed_bytes(folder / files.INDEX) == 192


def test_weights_are_those_at_the_top(tmp_path: Path) -> None:
    assert files.weights(["a.safetensors", "sub/b.safetensors", "c.bin"]) == ["a.safetensors"]
    assert files.weights(["model.safetensors", "consolidated.safetensors"]) == ["model.safetensors"]


@pytest.mark.parametrize("cut", [0, 4, 8, 20, -1])
def test_a_truncated_file_is_known_by_its_header(tmp_path: Path, cut: int) -> None:
    whole = safetensors()
    write(tmp_path, {"whole.safetensors": whole, "cut.safetensors": whole[:cut]})
    assert not files.truncated(tmp_path / "whole.safetensors")
    assert files.truncated(tmp_path / "cut.safetensors") and files.truncated(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("config", "expected"),
    [({}, False), ({"quantization": {"bits": 4}}, True), ({"quantization_config": {"quant_method": "fp8"}}, True)],
)
def test_quantized_is_what_the_config_says(tmp_path: Path, config: dict[str, object], expected: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert files.quantized(tmp_path) is expected
