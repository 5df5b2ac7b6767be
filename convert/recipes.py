"""Which weight is packed how, and what that makes of each tensor: the whole output, known before any data is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from ..config import QuantSpec
from ..layout import Item
from ..packing import packed_shapes, recipe
from .source import Source

_BYTES = {"U32": 4, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to be written; ``dtype`` in safetensors' spelling."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        return _BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True)
class Step:
    """A leaf to be converted: packed as ``spec``, or copied when that is None. ``dtype`` is its own (of the scales,
    when packed)."""

    item: Item
    spec: QuantSpec | None
    dtype: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        path, shape = self.item.leaf.path, self.item.leaf.shape
        if self.spec is None:
            return (Tensor(f"{path}.weight", self.dtype, shape),)
        shapes = packed_shapes(shape, self.spec)
        return tuple(Tensor(f"{path}.{p}", "U32" if p == "weight" else self.dtype, s) for p, s in shapes.items())


def plan(source: Source, spec: QuantSpec) -> list[list[Step]]:
    """Steps in the order of the source's groups. Norms, and widths without whole groups, stay as they are."""
    return [[_step(source, item, spec) for item in group] for group in source.groups]


def _step(source: Source, item: Item, spec: QuantSpec) -> Step:
    dtype = source.checkpoint[item.tensors()[0]].dtype
    return Step(item, recipe(item.leaf.kind, item.leaf.shape, spec), dtype)


def quantization_entry(steps: Iterable[Step], spec: QuantSpec) -> dict[str, Any]:
    """The ``quantization`` entry of config.json: the packing of most, and by path what differs (``false``: as it is).

    mlx-lm hands an override's keys to its layers, so nothing but bits, group_size and mode may stand there.
    """
    entry = _spec(spec)
    for step in steps:
        if step.item.leaf.kind != "norm" and step.spec != spec:
            entry[step.item.leaf.path] = _spec(step.spec) if step.spec else False
    return entry


def _spec(spec: QuantSpec) -> dict[str, Any]:
    return {"bits": spec.bits, "group_size": spec.group_size, "mode": spec.mode}
