"""Which files a checkpoint is made of, and whether a folder holds them all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

INDEX = "model.safetensors.index.json"

#: Everything that is read besides the weights. Whatever else a repository holds (.bin, .pth, .gguf, ONNX) stays there.
SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    INDEX,
)

_PLAIN = re.compile(r"[\w.-]+\.safetensors")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")


def indexed(index: Path) -> list[str]:
    """The weight files an index names, sorted. An index that cannot be read names none: its loader will say why.

    An index is a stranger's text and its names become paths, so one that leads out of its folder counts as broken.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return names if all(_PLAIN.fullmatch(name) for name in names) else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def weights(names: Iterable[str]) -> list[str]:
    """The weight files among a repository's file names, where no index says which: those at its top level."""
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    return ["model.safetensors"] if "model.safetensors" in found else found


def missing(folder: Path) -> list[str]:
    """What ``folder`` lacks to be a whole checkpoint (empty: it is one). A dangling link counts as missing."""
    lacking = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    expected = indexed(folder / INDEX)
    if not expected:
        present = weights(path.name for path in folder.glob("*.safetensors") if path.is_file())
        expected = present or ["model.safetensors"]
        for name in present:
            if shard := _SHARD.fullmatch(name):
                stem, _, count = shard.groups()
                expected = [f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]
                break
    return lacking + [name for name in expected if not (folder / name).is_file()]


def quantized(folder: Path) -> bool:
    """Whether a checkpoint's config says that its weights are quantized already, in whatever format."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and any(config.get(key) for key in ("quantization", "quantization_config"))


def indexed_bytes(index: Path) -> int:
    """The bytes of weights an index announces, 0 where it announces none."""
    try:
        return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def truncated(path: Path) -> bool:
    """Whether a safetensors file is absent or shorter than its own header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                return True
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return path.stat().st_size < 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
