"""A checkpoint held against a config: where each leaf of the model comes from, settled before any data is read.

``match`` finds every leaf's tensors under one of the spellings of ``names.py``, and refuses what is missing, unknown,
of another shape or of another dtype. ``read`` then makes a leaf's arrays. Loader and converter both work from this.
"""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx

from .checkpoint import Checkpoint, TensorInfo
from .config import ModelConfig, QuantSpec
from .errors import CheckpointError
from .names import Leaf, Source, groups, is_ignored, sources
from .packing import infer, packed_shapes, parts
from .values import frozen


@frozen
class Item:
    """A leaf and its place in a checkpoint. ``spec``: it is packed there, under its MLX name; ``source`` otherwise."""

    leaf: Leaf
    source: Source
    spec: QuantSpec | None = None

    def tensors(self) -> tuple[str, ...]:
        """Names of the checkpoint's tensors it is made of."""
        if self.spec is None:
            return self.source.names
        return tuple(f"{self.leaf.path}.{part}" for part in parts(self.spec))


def match(checkpoint: Checkpoint, config: ModelConfig) -> list[list[Item]]:
    """Items of the whole model, grouped as in ``names.groups``. Reads no data.

    Raises CheckpointError naming file and tensor.
    """
    found = [[_match_leaf(checkpoint, config, leaf) for leaf in group] for group in groups(config)]
    used = {name for group in found for item in group for name in item.tensors()}
    for name, info in checkpoint.items():
        if name not in used and not is_ignored(name, config):
            raise CheckpointError("the model described by config.json has no such tensor", info.file, name)
    return found


def _match_leaf(checkpoint: Checkpoint, config: ModelConfig, leaf: Leaf) -> Item:
    if (item := _packed(checkpoint, config, leaf)) is not None:
        return item
    spellings = sources(leaf)
    source = next((s for s in spellings if any(name in checkpoint for name in s.names)), spellings[0])
    for name in source.names:
        info = _find(checkpoint, name)
        if info.dtype == "U32" and config.quantization is None:
            raise CheckpointError('is packed, but config.json has no "quantization" entry', info.file, name)
        _check(info, source.shape, info.is_float, "a bf16, fp16 or fp32")
    return Item(leaf, source)


def _packed(checkpoint: Checkpoint, config: ModelConfig, leaf: Leaf) -> Item | None:
    """The item of a leaf that is packed in the checkpoint. As in mlx-lm, an entry of its own in the config decides;
    without one, the presence of scales does."""
    scales = f"{leaf.path}.scales"
    quantization = config.quantization
    if quantization is None or leaf.kind == "norm":
        return None
    spec = quantization.for_path(leaf.path)
    named = leaf.path in quantization.overrides
    if spec is None or not (named or scales in checkpoint):
        return None
    weight = _find(checkpoint, f"{leaf.path}.weight")
    last = [info.shape[-1] if info.shape else 0 for info in (weight, _find(checkpoint, scales))]
    if not named:
        spec = infer(leaf.shape[-1], last[0], last[1], spec) or spec
    if leaf.shape[-1] % spec.group_size:
        problem = f"a width of {leaf.shape[-1]} cannot be packed in groups of {spec.group_size}"
        raise CheckpointError(problem, weight.file, weight.name)
    for part, shape in packed_shapes(leaf.shape, spec).items():
        info = _find(checkpoint, f"{leaf.path}.{part}")
        if part == "weight":
            _check(info, shape, info.dtype == "U32", "a uint32")
        elif spec.mode == "affine":
            _check(info, shape, info.is_float, "a bf16, fp16 or fp32")
        else:
            _check(info, shape, info.dtype == "U8", "a uint8")
    return Item(leaf, sources(leaf)[-1], spec)


def _find(checkpoint: Checkpoint, name: str) -> TensorInfo:
    if name in checkpoint:
        return checkpoint[name]
    raise CheckpointError("missing from the checkpoint", checkpoint.folder, name)


def _check(info: TensorInfo, shape: tuple[int, ...], right_dtype: bool, wanted: str) -> None:
    if not right_dtype:
        raise CheckpointError(f"holds {info.dtype}, but {wanted} tensor belongs here", info.file, info.name)
    if info.shape != shape:
        problem = f"has shape {list(info.shape)}, but config.json makes it {list(shape)}"
        raise CheckpointError(problem, info.file, info.name)


def read(checkpoint: Checkpoint, items: Iterable[Item]) -> list[tuple[Item, dict[str, mx.array]]]:
    """The arrays of a group's leaves, by part (``weight``, and ``scales``, ``biases`` of a packed one), unevaluated.

    Raises CheckpointError for a tensor that holds nothing but NaN.
    """
    fused: dict[str, mx.array] = {}  # tensors that several leaves of the group share
    return [(item, _read_item(checkpoint, item, fused)) for item in items]


def _read_item(checkpoint: Checkpoint, item: Item, fused: dict[str, mx.array]) -> dict[str, mx.array]:
    if item.spec is not None:
        return {part: _take(checkpoint, f"{item.leaf.path}.{part}") for part in parts(item.spec)}
    names, rows = item.source.names, item.source.rows
    if rows is not None:
        if names[0] not in fused:
            fused[names[0]] = _take(checkpoint, names[0])
        return {"weight": fused[names[0]][:, rows[0] : rows[1]]}
    if len(names) == 1:
        return {"weight": _take(checkpoint, names[0])}
    return {"weight": mx.stack([_take(checkpoint, name) for name in names])}


def _take(checkpoint: Checkpoint, name: str) -> mx.array:
    array = checkpoint.take(name)
    if checkpoint.starts_with_nan(name) and mx.all(mx.isnan(array)).item():
        raise CheckpointError("holds nothing but NaN: the checkpoint is damaged", checkpoint[name].file, name)
    return array
