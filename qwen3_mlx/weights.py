"""A checkpoint folder -> a model that is ready to run.

Where the model will run decides how its weights are held. A CPU with stock operations multiplies packed weights a
hundred times slower than plain ones, so there everything becomes float32, once, with exactly the values that the
packed weights stand for. Everywhere else packed weights stay packed, and nothing is wider than 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import machine
from .checkpoint import Checkpoint
from .config import ModelConfig, QuantSpec
from .costs import derived_bytes
from .errors import CheckpointError, InvalidRequest, MemoryLimit
from .kernels import Kernels, resolve
from .layout import Item, match, read
from .model.linear import QuantizedEmbedding, QuantizedLinear, QuantizedSwitchLinear
from .model.qwen3 import Qwen3
from .names import Leaf
from .packing import affine, pack, packed_shapes, recipe, unpack
from .types import KernelMode
from .values import frozen

# Parameters of the released models, in billions: what to fall back to when one is too large.
_RELEASED = {
    "qwen3:235b-a22b": 235.1, "qwen3:32b": 32.8, "qwen3:30b-a3b": 30.5, "qwen3:14b": 14.8, "qwen3:8b": 8.2,
    "qwen3:4b": 4.0, "qwen3:1.7b": 1.7, "qwen3:0.6b": 0.6,
}  # fmt: skip
_BATCH_BYTES = 32 << 20
_QUANTIZED = {
    "embedding": QuantizedEmbedding,
    "linear": QuantizedLinear,
    "router": QuantizedLinear,
    "experts": QuantizedSwitchLinear,
}


def device_limit() -> int:
    """Bytes that this process may have for a model and what it does: what Metal recommends at most, less what MLX holds
    already; or what is free, less a tenth for everything else."""
    if recommended := mx.device_info().get("max_recommended_working_set_size"):
        return max(0, int(recommended) - mx.get_active_memory())
    return machine.free_memory() // 10 * 9


def keep_buffers(limit: int) -> None:
    """Let MLX keep at most a sixteenth of ``limit``, and not more than 256 MB, of freed buffers for later: that is what
    passes use again, and all beyond it are sizes that will not come back. Never raises a limit that is lower. Memory
    is never wired: that has brought machines down."""
    wanted = min(limit // 16, 256 << 20)
    mx.set_cache_limit(min(wanted, mx.set_cache_limit(wanted)))


def load_model(
    folder: Path,
    *,
    bits: int | None = None,
    kernels: KernelMode = "auto",
    deterministic: bool = False,
    limit: int | None = None,
    working: Callable[[Kernels], int] = lambda kernels: 0,
) -> tuple[Qwen3, ModelConfig]:
    """Load a checkpoint, Hugging Face's or MLX's layout, with every array evaluated in the calling thread.

    ``bits`` packs an unquantized checkpoint while loading (2, 3, 4, 5, 6 or 8; affine, groups of 64). ``kernels`` and
    ``deterministic``: see :func:`qwen3_mlx.kernels.resolve`. ``limit``: bytes that the weights may take while they are
    loaded, and afterwards together with what ``working`` says is needed besides (default: what is free).

    Raises UnsupportedModel (config), CheckpointError (files and tensors), InvalidRequest (bits, kernels), Unavailable
    (no Metal), MemoryLimit.
    """
    holding = Holding(resolve(kernels, deterministic), None if bits is None else affine(bits))
    config = ModelConfig.from_folder(folder)
    if (own := config.quantization) is not None and (wanted := holding.wanted) is not None:
        if (own.bits, own.mode) != (wanted.bits, wanted.mode):
            raise InvalidRequest(
                f"{folder} is quantized already ({own.mode}, {own.bits} bits): to have {bits} bits, load the original"
                " checkpoint",
                "bits",
            )
        holding = Holding(holding.kernels)
    checkpoint = Checkpoint(folder)
    try:
        groups = match(checkpoint, config)
        _check_memory(checkpoint, config, groups, holding, limit, working(holding.kernels))
        model = Qwen3(config, holding.kernels)
        for batch in _batches(groups, lambda item: _nbytes(checkpoint, item, holding)):
            _load(model, checkpoint, batch, holding)
    finally:
        checkpoint.close()
    model.fuse()
    mx.eval(model.parameters())
    mx.clear_cache()
    return model, config


@frozen
class Holding:
    """How weights are held in memory: as the kernels want them, and packed as ``wanted`` if they are not yet."""

    kernels: Kernels
    wanted: QuantSpec | None = None

    def packing(self, item: Item) -> QuantSpec | None:
        """The packing whose values a leaf has, whether or not it is kept in that form."""
        if item.spec is None and self.wanted is not None:
            return recipe(item.leaf.kind, item.leaf.shape, self.wanted)
        return item.spec

    def arrays(self, item: Item, stored: dict[str, mx.array]) -> dict[str, mx.array]:
        """A leaf's arrays by part, from those of the checkpoint, unevaluated."""
        spec, held = self.packing(item), stored
        if spec is not None and item.spec is None:
            weight = stored["weight"]
            held = pack(self.cast(weight) if self.kernels.packed else weight, spec)
        if spec is not None and not self.kernels.packed:
            return {"weight": unpack(held, spec)}
        return {part: self.cast(array) for part, array in held.items()}

    def cast(self, array: mx.array) -> mx.array:
        """To the kernels' dtype, but never between the two 16-bit formats: a checkpoint in fp16 runs in fp16."""
        dtype = self.kernels.dtype
        if dtype is None or not mx.issubdtype(array.dtype, mx.floating):
            return array
        return array.astype(dtype) if mx.float32 in (dtype, array.dtype) else array

    def nbytes(self, item: Item, stored_size: int) -> int:
        """Bytes a leaf takes; ``stored_size``: bytes of one of its values in the checkpoint, if it is not packed."""
        spec = self.packing(item)
        if spec is not None and self.kernels.packed:
            return _packed_bytes(item, spec)
        size = {mx.float32: 4, None: stored_size}.get(self.kernels.dtype, 2)
        return size * prod(item.leaf.shape)

    def passing(self, item: Item, stored: int) -> int:
        """Bytes, at most, that there are besides while a leaf is made of ``stored`` bytes of the checkpoint."""
        size, values, spec = stored, prod(item.leaf.shape), self.packing(item)
        if item.spec is None and len(item.source.names) > 1:
            size += stored  # stacked
        if spec is None:
            return size
        if item.spec is None:
            size += 2 * values if self.kernels.packed else _packed_bytes(item, spec)  # as bf16; until it is unpacked
        if (item.spec is None or not self.kernels.packed) and mx.default_device().type == mx.DeviceType.cpu:
            size += 4 * values + 8 * values // spec.group_size  # several operations there; scales and biases widened
        return size


def _packed_bytes(item: Item, spec: QuantSpec) -> int:
    shapes = packed_shapes(item.leaf.shape, spec)
    return 4 * prod(shapes.pop("weight")) + sum(2 * prod(shape) for shape in shapes.values())


def _batches(groups: list[list[Item]], nbytes: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Groups to be evaluated together. One by one where they are large, so that no more than one is held twice; a
    small model at once, because each evaluation costs a switch of threads."""
    batch: list[Item] = []
    size = 0
    for group in groups:
        batch += group
        size += sum(map(nbytes, group))
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


def _nbytes(checkpoint: Checkpoint, item: Item, holding: Holding) -> int:
    return holding.nbytes(item, checkpoint[item.tensors()[0]].mx_dtype.size)


def _load(model: Qwen3, checkpoint: Checkpoint, items: list[Item], holding: Holding) -> None:
    """Read, evaluate and place leaves; what they were made from is freed when this returns."""
    ready = [(item, holding.arrays(item, stored)) for item, stored in read(checkpoint, items)]
    try:
        mx.eval([arrays for _, arrays in ready])
    except RuntimeError as error:
        problem = f"the weights cannot be read: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(problem, checkpoint.folder) from error
    for item, arrays in ready:
        place(model, item.leaf, arrays, holding.packing(item))


def place(model: Qwen3, leaf: Leaf, arrays: dict[str, mx.array], spec: QuantSpec | None) -> None:
    """Give the module at the leaf's path its weight, or put a quantized module in its stead."""
    *above, name = leaf.path.split(".")
    parent: Any = model
    for step in above:
        parent = parent[int(step)] if step.isdigit() else getattr(parent, step)
    if "scales" not in arrays:
        getattr(parent, name).weight = arrays["weight"]
        return
    assert spec is not None
    setattr(parent, name, _QUANTIZED[leaf.kind](arrays["weight"], arrays["scales"], arrays.get("biases"), spec))


def _check_memory(
    checkpoint: Checkpoint,
    config: ModelConfig,
    groups: list[list[Item]],
    holding: Holding,
    limit: int | None,
    working: int,
) -> None:
    """Raises MemoryLimit when the weights cannot fit, before any of them is read."""
    dtype = holding.kernels.dtype or mx.float32
    needed = _needed(checkpoint, groups, holding, working) + derived_bytes(config, dtype.size)
    free = machine.free_memory() if limit is None else limit
    if needed <= free:
        return
    packed = holding.kernels.packed
    why = "" if packed else " on a CPU, where weights become float32"
    do = "take a smaller or a 4-bit checkpoint" if packed else "take a smaller checkpoint"
    raise MemoryLimit(
        f"{checkpoint.folder} needs {_size(needed)} of memory{why}, but {_size(free)}"
        f" {'are free' if limit is None else 'may be used'}: {do}{_fitting(free, 4.5 / 8 if packed else 4)}"
    )


def _needed(checkpoint: Checkpoint, groups: list[list[Item]], holding: Holding, working: int) -> int:
    """Bytes at the widest moment: while a batch is made of what is stored, while a group is fused and its parts live
    beside the result, or while the model works."""
    held = widest = 0
    for batch in _batches(groups, lambda item: _nbytes(checkpoint, item, holding)):
        held += sum(_nbytes(checkpoint, item, holding) for item in batch)
        passing = (holding.passing(item, sum(checkpoint[name].nbytes for name in item.tensors())) for item in batch)
        widest = max(widest, held + sum(passing))
    largest = max(sum(_nbytes(checkpoint, item, holding) for item in group) for group in groups)
    return max(widest, held + max(largest, working))


def _fitting(free: int, bytes_per_weight: float) -> str:
    for name, billions in _RELEASED.items():
        needed = billions * 1e9 * bytes_per_weight * 1.05
        if needed <= free:
            return f" ({name} would take {_size(needed)})"
    return " (demo fits anywhere)"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
