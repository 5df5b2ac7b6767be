"""The output folder, which appears whole or not at all, and the small files in it."""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import INDEX
from ..errors import OutputError
from ..hub.files import SMALL
from .report import size
from .shards import write_json
from .source import Source

# A conversion in progress is a hidden folder beside the output, so that the last step is a rename on one file system.
# While it lives its process holds a lock on it: a folder without one was left by a process that was killed.
_STAGE = ".{name}.converting-"
_REPLACED = ".{name}.replaced-"
_SMALL_FILES = 64 << 20  # bytes to keep free for tokenizer, config and card


def check_output(output: Path, source: Path | None, force: bool) -> Path:
    """The output as an absolute path. Raises OutputError when it must not be written.

    ``force`` replaces an earlier checkpoint only; it never deletes a folder that holds something else, or the source
    (None while that is not known).
    """
    output = Path(os.path.realpath(output.expanduser()))
    if source is not None and output in (real := Path(os.path.realpath(source)), *real.parents):
        raise OutputError(f"{output} is where the source lies: choose another output folder")
    if not os.path.lexists(output):
        return output
    if not output.is_dir():
        raise OutputError(f"{output} is a file: choose another output folder")
    held = sorted(entry.name for entry in output.iterdir())
    if held and not force:
        raise OutputError(f"{output} exists already: choose another output, or replace it with --force")
    foreign = next((name for name in held if not _ours(output / name)), None)
    if foreign is not None:
        raise OutputError(
            f"{output} holds other things than a checkpoint ({foreign}): choose another folder, or move them away"
        )
    return output


def _ours(entry: Path) -> bool:
    """Is it a file that belongs to a checkpoint?"""
    known = (*SMALL, INDEX, "README.md", "model*.safetensors")
    return entry.is_file() and any(fnmatch.fnmatch(entry.name, pattern) for pattern in known)


def check_disk(output: Path, nbytes: int) -> None:
    """Raises OutputError when the disk cannot hold ``nbytes`` of tensors more (and the small files)."""
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    needed, free = nbytes + _SMALL_FILES, shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{output} needs {size(needed)}, but only {size(free)} are free there: make room, choose another disk, or"
            " use fewer bits"
        )


@contextlib.contextmanager
def staged(output: Path, force: bool) -> Iterator[Path]:
    """A folder to write into, which becomes ``output`` when the block ends well and is deleted when it does not."""
    made = [folder for folder in output.parents if not folder.exists()]
    stage = output.parent / f"{_STAGE.format(name=output.name)}{secrets.token_hex(4)}"
    lock = -1
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _sweep(output)
        stage.mkdir()
        lock = _lock(stage)
        yield stage
        _publish(stage, output, force)
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{output} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock, or -1 when another process does (or the file system has none)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _sweep(output: Path) -> None:
    """Delete what killed conversions to the same output left behind; put back a folder they were about to replace."""
    for entry in output.parent.iterdir():
        if entry.name.startswith(_STAGE.format(name=output.name)) and entry.is_dir():
            lock = _lock(entry)
            if lock >= 0:
                shutil.rmtree(entry, ignore_errors=True)
                os.close(lock)
        elif entry.name.startswith(_REPLACED.format(name=output.name)) and entry.is_dir():
            if os.path.lexists(output):
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.rename(output)


def _publish(stage: Path, output: Path, force: bool) -> None:
    if not (output.is_dir() and any(output.iterdir())):
        stage.rename(output)
        return
    if not force:
        raise OutputError(f"{output} was made by someone else in the meantime: choose another output")
    old = output.parent / f"{_REPLACED.format(name=output.name)}{secrets.token_hex(4)}"
    output.rename(old)
    try:
        stage.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_config(folder: Path, source: Source, quantization: dict[str, Any]) -> None:
    """config.json with the spellings that mlx-lm reads as well: everything explicit and at the top level."""
    config, raw = source.config, source.raw
    dropped = ("rope_parameters", "num_local_experts", "_name_or_path")
    out = {key: value for key, value in raw.items() if key not in dropped}
    explicit = ["num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings"]
    if config.num_experts:
        explicit += ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"]
        explicit += ["decoder_sparse_step", "mlp_only_layers"]
    for key in explicit:
        value = getattr(config, key)
        out[key] = list(value) if isinstance(value, tuple) else value
    out["rope_theta"] = config.rope.theta
    out["rope_scaling"] = _rope_scaling(source)
    out["quantization"] = out["quantization_config"] = quantization
    write_json(folder / "config.json", dict(sorted(out.items())))


def _rope_scaling(source: Source) -> dict[str, Any] | None:
    rope = source.config.rope
    if rope.type == "default":
        return None
    given = {**(source.raw.get("rope_scaling") or {}), **(source.raw.get("rope_parameters") or {})}
    out = {key: value for key, value in given.items() if key not in ("type", "rope_theta")}
    original = rope.original_max_position_embeddings
    return {**out, "rope_type": rope.type, "factor": rope.factor, "original_max_position_embeddings": original}


def copy_small_files(source: Path, folder: Path) -> None:
    """Tokenizer, chat template and generation defaults, as they are."""
    for name in SMALL:
        if name not in ("config.json", INDEX) and (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
