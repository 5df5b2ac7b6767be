"""A checkpoint of a few bytes, a stand-in that serves it, and an environment in which nothing else can be reached."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from .standin import Hub, serving

_CLIENT_VARIABLES = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "MODELSCOPE_", "KAGGLE", "XDG_CACHE_HOME")


def safetensors(data: bytes = bytes(64)) -> bytes:
    """A valid safetensors file of one uint8 tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def checkpoint(shards: int = 1, **config: object) -> dict[str, bytes]:
    """A checkpoint's files with much besides that must not be fetched."""
    contents = {
        "config.json": json.dumps({"model_type": "qwen3", **config}).encode(),
        # No two alike: a cache that goes by content would fetch only one of them.
        "generation_config.json": b'{"temperature": 0.6}',
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b'{"model_max_length": 40960}',
        "vocab.json": b'{"a": 0}',
        "merges.txt": b"#version: 0.2\n",
        "chat_template.jinja": b"{{ messages }}",
        "README.md": b"# a model\n",
        "LICENSE": b"Apache-2.0\n",
        "pytorch_model.bin": b"pickle",
        "original/consolidated.safetensors": safetensors(b"o" * 8),
        "onnx/model.onnx": b"onnx",
        "model-Q4_K_M.gguf": b"GGUF",
        "rope.pth": b"pickle",
    }
    if shards == 1:
        return contents | {"model.safetensors": safetensors(os.urandom(100_000))}
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    index = {"metadata": {"total_size": 64 * shards}, "weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    contents["model.safetensors.index.json"] = json.dumps(index).encode()
    contents["extra.safetensors"] = safetensors(b"e" * 8)
    return contents | {name: safetensors(name.encode() * 4) for name in names}


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own with empty caches, and none of the variables that the hubs' clients read."""
    for name in list(os.environ):
        if name.startswith(_CLIENT_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    # Anything that slips past the stand-in meets a closed port at once.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


@pytest.fixture
def hub(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, serving ``Org/Model``; HF_ENDPOINT leads to it."""
    with serving(Hub({"Org/Model": checkpoint()})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
