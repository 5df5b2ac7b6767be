"""Safetensors files written tensor by tensor: everything about them but the data is known beforehand."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import mlx.core as mx

from ..checkpoint import INDEX
from .recipes import Tensor

_CHUNK = 64 << 20  # bytes written at once


class ShardWriter:
    """Writes ``tensors`` into safetensors files of at most ``shard_bytes``, one at a time, in any order within a file.

    Headers come first in the format, and all shapes are known, so a tensor goes to its place as soon as it exists.
    ``close`` (the end of the with block) writes the index.
    """

    def __init__(self, folder: Path, tensors: Sequence[Tensor], shard_bytes: int, parameters: int) -> None:
        self.folder = folder
        self.parameters = parameters
        self.total = sum(tensor.nbytes for tensor in tensors)
        shards = _split(tensors, shard_bytes)
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        self.shards = dict(zip(names if len(shards) > 1 else ["model.safetensors"], shards, strict=True))
        self.place = {tensor.name: shard for shard, held in self.shards.items() for tensor in held}
        self.waiting = {tensor.name: tensor for tensor in tensors}
        self.files: dict[str, tuple[BinaryIO, dict[str, int]]] = {}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file, _ in self.files.values():
            file.close()
        if kind is None:
            assert not self.waiting, f"not written: {sorted(self.waiting)[:3]}"
            metadata = {"total_size": self.total, "total_parameters": self.parameters}
            index = {"metadata": metadata, "weight_map": dict(sorted(self.place.items()))}
            write_json(self.folder / INDEX, index)

    def write(self, name: str, array: mx.array) -> None:
        """Put an array in its place. Its shape and dtype must be the planned ones."""
        tensor = self.waiting.pop(name)
        assert array.shape == tensor.shape and array.nbytes == tensor.nbytes, (name, array.shape, tensor)
        shard = self.place[name]
        if shard not in self.files:
            self.files[shard] = self._start(shard)
        file, starts = self.files[shard]
        # The buffer protocol has no bfloat16; bytes it has. They are flattened here because MLX counts in 32 bits.
        data = memoryview(array.view(mx.uint8)).cast("B")  # type: ignore[arg-type]
        file.seek(starts[name])
        for at in range(0, len(data), _CHUNK):
            file.write(data[at : at + _CHUNK])
        if not any(other.name in self.waiting for other in self.shards[shard]):
            file.flush()
            os.fsync(file.fileno())

    def _start(self, shard: str) -> tuple[BinaryIO, dict[str, int]]:
        """Create a shard with its header; returns it with each tensor's first byte."""
        # Widest dtypes first, so that every tensor is aligned to its own.
        ordered = sorted(self.shards[shard], key=lambda tensor: -tensor.itemsize)
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        end = 0
        for tensor in ordered:
            offsets = [end, end + tensor.nbytes]
            header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
            end += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file = open(self.folder / shard, "wb")  # noqa: SIM115 (closed by __exit__)
        file.write(len(text).to_bytes(8, "little") + text)
        data = 8 + len(text)
        return file, {tensor.name: data + header[tensor.name]["data_offsets"][0] for tensor in ordered}


def _split(tensors: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """In order, a new file whenever the next tensor would make one too large."""
    shards: list[list[Tensor]] = [[]]
    held = 0
    for tensor in tensors:
        if held and held + tensor.nbytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(tensor)
        held += tensor.nbytes
    return shards


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", "utf-8")
