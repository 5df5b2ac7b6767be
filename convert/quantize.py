"""The conversion itself: read a leaf, pack it, write it, let go of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from ..errors import CheckpointError
from ..layout import read
from ..packing import affine, pack
from .recipes import Step, plan, quantization_entry
from .report import model_card
from .save import check_disk, check_output, copy_small_files, staged, write_config
from .shards import ShardWriter
from .source import Source, item_bytes, open_source

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Result:
    """What a conversion made. Bytes are those of the tensors; ``parameters`` counts weights, not packed words."""

    output: Path
    bytes_before: int
    bytes_after: int
    parameters: int
    seconds: float

    @property
    def bits_per_weight(self) -> float:
        return self.bytes_after * 8 / self.parameters


def convert(
    folder: Path,
    output: Path,
    *,
    bits: int = 4,
    group_size: int = 64,
    force: bool = False,
    name: str | None = None,
    base: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Quantize the checkpoint in ``folder`` into ``output``, which appears at once when all is done, or not at all.

    ``name`` is what the model card calls the source, ``base`` its repository on Hugging Face; ``progress`` is told the
    bytes read so far and in all.

    Raises InvalidRequest (bits, group size), UnsupportedModel, CheckpointError, or OutputError: an output that exists
    (unless ``force``), cannot be written, or a disk too full.
    """
    begun = time.perf_counter()
    spec = affine(bits, group_size)
    output = check_output(output, folder, force)
    source = open_source(folder)
    groups = plan(source, spec)
    steps = [step for group in groups for step in group]
    tensors = [tensor for step in steps for tensor in step.tensors]
    result = Result(
        output=output,
        bytes_before=source.nbytes,
        bytes_after=sum(tensor.nbytes for tensor in tensors),
        parameters=sum(_count(step) for step in steps),
        seconds=0.0,
    )
    check_disk(output, result.bytes_after)
    try:
        with staged(output, force) as stage:
            with ShardWriter(stage, tensors, shard_bytes, result.parameters) as writer:
                _write(source, groups, writer, progress, result.bytes_before)
            write_config(stage, source, quantization_entry(steps, spec))
            copy_small_files(folder, stage)
            card = model_card(name or folder.name, base, source, spec, result)
            (stage / "README.md").write_text(card, "utf-8")
    finally:
        source.checkpoint.close()
    return Result(**{**vars(result), "seconds": time.perf_counter() - begun})


def _count(step: Step) -> int:
    total = 1
    for dim in step.item.leaf.shape:
        total *= dim
    return total


def _write(
    source: Source,
    groups: list[list[Step]],
    writer: ShardWriter,
    progress: Callable[[int, int], None],
    total: int,
) -> None:
    done = 0
    for group in groups:
        loaded = read(source.checkpoint, [step.item for step in group])
        for step in group:
            _, arrays = loaded.pop(0)
            weight = arrays.pop("weight").astype(_DTYPES[step.dtype])
            packed = {"weight": weight} if step.spec is None else pack(weight, step.spec)
            del weight
            _evaluate(packed, source, step)
            for part in list(packed):
                writer.write(f"{step.item.leaf.path}.{part}", packed.pop(part))
            done += item_bytes(source.checkpoint, step.item)
            progress(done, total)
        # What MLX keeps for reuse counts as the process's memory all the same.
        mx.clear_cache()


_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


def _evaluate(arrays: dict[str, mx.array], source: Source, step: Step) -> None:
    try:
        mx.eval(arrays)
    except RuntimeError as error:
        info = source.checkpoint[step.item.tensors()[0]]
        problem = f"cannot be read: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(problem, info.file, info.name) from error
