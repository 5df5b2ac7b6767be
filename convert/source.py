"""What is converted: an unquantized checkpoint, matched against its config before anything is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import UnsupportedModel
from ..layout import Item, match


@dataclass(frozen=True)
class Source:
    """``raw`` is config.json as it stands; ``groups`` the model's leaves and where they are."""

    folder: Path
    raw: dict[str, Any]
    config: ModelConfig
    checkpoint: Checkpoint
    groups: list[list[Item]]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are read."""
        return sum(item_bytes(self.checkpoint, item) for group in self.groups for item in group)


def open_source(folder: Path) -> Source:
    """Raises UnsupportedModel for another architecture or weights that are quantized already, CheckpointError for a
    damaged or incomplete checkpoint."""
    config = ModelConfig.from_folder(folder)
    if (packed := config.quantization) is not None:
        raise UnsupportedModel(
            f"{folder} is quantized already ({packed.mode}, {packed.bits} bits): convert the original checkpoint,"
            " such as Qwen/Qwen3-4B",
            "quantization",
        )
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    checkpoint = Checkpoint(folder)
    return Source(folder, raw, config, checkpoint, match(checkpoint, config))


def item_bytes(checkpoint: Checkpoint, item: Item) -> int:
    """Bytes a leaf takes in the checkpoint; of a tensor that two leaves share, each has its part."""
    total = sum(checkpoint[name].nbytes for name in item.tensors())
    if item.source.rows is None:
        return total
    first, last = item.source.rows
    return total * (last - first) // item.source.shape[1]
