"""Reading safetensors folders: which tensors there are, and where, checked before any of them is read.

The headers are parsed here, and not left to ``mx.load``, so that a damaged or incomplete checkpoint is refused up front
with the file's and the tensor's name. Format: https://huggingface.co/docs/safetensors (8 bytes of little-endian header
length, a JSON object ``{name: {dtype, shape, data_offsets}}``, then the data without holes).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import mlx.core as mx

from .errors import CheckpointError
from .values import frozen

INDEX = "model.safetensors.index.json"

_MAX_HEADER = 100_000_000  # bytes; the reference implementation's own limit
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
_FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_DTYPES = {**_FLOATS, "U32": mx.uint32, "U8": mx.uint8}
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors$")


@frozen
class TensorInfo:
    """Where a tensor lies: ``dtype`` in safetensors' spelling, ``start`` and ``nbytes`` in bytes of ``file``."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def mx_dtype(self) -> mx.Dtype:
        """Raises CheckpointError for a dtype that no Qwen3 checkpoint this runtime reads may hold."""
        if self.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise CheckpointError(f"dtype {self.dtype} is not supported (only {known})", self.file, self.name)
        return _DTYPES[self.dtype]

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS


class Checkpoint(Mapping[str, TensorInfo]):
    """All tensors of a folder by name. Nothing is read until ``take``.

    Raises CheckpointError when the folder holds no safetensors, a shard is missing, a file is truncated or corrupt, or
    the index and the shards disagree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        self._open: dict[Path, dict[str, mx.array]] = {}
        self._raw: dict[Path, int] = {}  # file descriptors
        placed = _read_index(folder)
        for file in _files(folder, placed):
            for name, info in read_header(file).items():
                if name in self.tensors and name not in placed:
                    raise CheckpointError(f"also found in {self.tensors[name].file.name}", file, name)
                if placed.get(name, file.name) == file.name:
                    self.tensors[name] = info
        for name, shard in placed.items():
            if name not in self.tensors:
                raise CheckpointError(f"{INDEX} says it is in this file, but it is not", folder / shard, name)

    def __getitem__(self, name: str) -> TensorInfo:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(info.nbytes for info in self.tensors.values())

    def take(self, name: str) -> mx.array:
        """The tensor, unevaluated. It can be taken once: the checkpoint keeps no reference, so that memory is freed
        as soon as the caller lets go of it."""
        info = self.tensors[name]
        if info.file not in self._open:
            try:
                loaded = mx.load(str(info.file))
            except Exception as error:  # a header that our checks let pass and MLX's parser does not
                raise CheckpointError(f"cannot be read: {_line(error)}", info.file) from error
            assert isinstance(loaded, dict)
            self._open[info.file] = loaded
        return self._open[info.file].pop(name)

    def close(self) -> None:
        """Let go of the files (and of tensors that nobody took)."""
        self._open.clear()
        for descriptor in self._raw.values():
            os.close(descriptor)
        self._raw.clear()

    def starts_with_nan(self, name: str) -> bool:
        """Whether the first few values are all NaN: a cheap reason to look at the whole tensor."""
        info = self.tensors[name]
        if not info.is_float or not info.nbytes:
            return False
        size = _BITS[info.dtype] // 8
        if info.file not in self._raw:
            self._raw[info.file] = os.open(info.file, os.O_RDONLY)
        head = os.pread(self._raw[info.file], min(4 * size, info.nbytes), info.start)
        words = [int.from_bytes(head[i : i + size], "little") for i in range(0, len(head) - size + 1, size)]
        # NaN: all exponent bits set and a mantissa that is not zero; without the sign, anything above infinity.
        infinity, magnitude = {"F32": (0x7F800000, 0x7FFFFFFF), "BF16": (0x7F80, 0x7FFF), "F16": (0x7C00, 0x7FFF)}[
            info.dtype
        ]
        return bool(words) and all(word & magnitude > infinity for word in words)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Parse and check a safetensors header: JSON, dtypes, shapes, and that offsets fill the file exactly.

    Raises CheckpointError naming file and tensor.
    """
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER):
                _damaged(file, size, "its header does not fit in it")
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", file) from error
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is not valid JSON ({_line(error)}): {_AGAIN}", file) from error
    if not isinstance(header, dict) or not _is_metadata(header.pop("__metadata__", {})):
        raise CheckpointError(f"the header is not a table of tensors: {_AGAIN}", file)
    infos = [_tensor(file, 8 + length, name, entry) for name, entry in header.items()]
    for info in infos:
        if info.start + info.nbytes > size:
            _damaged(file, size, f"tensor {info.name} would end at byte {info.start + info.nbytes:,}")
    end = 8 + length
    for info in sorted(infos, key=lambda info: (info.start, info.nbytes)):
        if info.start != end:
            raise CheckpointError(f"overlaps or leaves a hole before it in the file: {_AGAIN}", file, info.name)
        end = info.start + info.nbytes
    if end != size:
        _damaged(file, size, f"its tensors end at byte {end:,}")
    return {info.name: info for info in infos}


_AGAIN = "the file is damaged, download it again"


def _tensor(file: Path, data: int, name: str, entry: Any) -> TensorInfo:
    """One header entry, checked on its own. ``data`` is where the data section starts."""
    if not name.isprintable() or len(name) > 500:
        raise CheckpointError(f"a tensor's name makes no sense: {_AGAIN}", file)
    if not isinstance(entry, dict):
        raise CheckpointError(f"the header's entry is not an object: {_AGAIN}", file, name)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _is_counts(shape) or not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"the header's shape or offsets make no sense: {_AGAIN}", file, name)
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise CheckpointError(f"unknown dtype {_line(repr(dtype))}", file, name)
    nbytes = offsets[1] - offsets[0]
    if prod(shape) * _BITS[dtype] != nbytes * 8:
        raise CheckpointError(f"{nbytes:,} bytes cannot hold {dtype} {shape}: {_AGAIN}", file, name)
    return TensorInfo(name, file, dtype, tuple(shape), data + offsets[0], nbytes)


def _is_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _is_metadata(value: Any) -> bool:
    # MLX writes null for none, where the format's own documentation knows only a table of strings.
    return value is None or (isinstance(value, dict) and all(isinstance(item, str) for item in value.values()))


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _damaged(file: Path, size: int, why: str) -> NoReturn:
    raise CheckpointError(f"truncated or corrupt: {size:,} bytes long, but {why}; download it again", file)


def _line(problem: object) -> str:
    """A foreign message as one short line."""
    return " ".join(str(problem).split())[:200]


def _read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> shard file name; empty when there is no index."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({_line(error)}): {_AGAIN}", path) from error
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f'it has no "weight_map" of tensors: {_AGAIN}', path)
    for name, shard in placed.items():
        if not name.isprintable() or len(name) > 500:
            raise CheckpointError(f"a tensor's name makes no sense: {_AGAIN}", path)
        # A checkpoint is untrusted: its index may not lead out of its folder.
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or "/" in shard or "\\" in shard:
            raise CheckpointError(f"placed in {_line(repr(shard))}, which is no shard of this folder", path, name)
    return placed


def _files(folder: Path, placed: Mapping[str, str]) -> list[Path]:
    """The files to read: those the index names, or else ``model.safetensors``, or else all there are."""
    if placed:
        files = [folder / shard for shard in sorted(set(placed.values()))]
        by = f", named by {INDEX},"
    else:
        whole = folder / "model.safetensors"
        files = [whole] if whole.exists() else sorted(folder.glob("*.safetensors"))
        by = ""
        # Without an index the shards' own names tell how many there have to be.
        for file in list(files):
            if match := _SHARD.match(file.name):
                count = min(int(match[3]), 10_000)
                files = [folder / f"{match[1]}-{n:05d}-of-{match[3]}.safetensors" for n in range(1, count + 1)]
                break
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"this shard{by} is missing: download the rest of the checkpoint", file)
    if not files:
        torch = any(folder.glob("*.bin")) or any(folder.glob("*.pth"))
        hint = "only PyTorch's own files, which are not read" if torch else "no weights"
        raise CheckpointError(f"the folder holds {hint}: a checkpoint needs .safetensors files", folder)
    return files
