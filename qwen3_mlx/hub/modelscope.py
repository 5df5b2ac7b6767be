"""``modelscope:ORG/NAME`` -> a folder in ModelScope's own cache, through its library (an optional extra)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ModelNotFound, Unavailable
from . import files, names, network


def fetch(repo: str, say: Callable[[str], None]) -> Path:
    """The folder of ``repo``, downloaded if it is not cached. Raises as ``huggingface.fetch`` does."""
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise Unavailable("modelscope: names need its library: pip install modelscope") from error
    if (folder := _cached(repo, snapshot_download)) is not None:
        return folder
    address = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")
    remote = network.Remote(
        address=address,
        page=f"{address}/models/{repo}",
        cache=Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser(),
        token="set MODELSCOPE_API_TOKEN to a token of an account that may (or run `modelscope login`)",
        elsewhere="set MODELSCOPE_ENDPOINT to another address",
        room="set MODELSCOPE_CACHE to a folder on a disk with room",
    )
    try:
        # One small file first: it shows in bounded time whether anybody answers, and whether this is a checkpoint.
        folder = Path(
            network.within(network.FIRST_ANSWER, lambda: snapshot_download(repo, allow_patterns=["config.json"]))
        )
    except Exception as error:
        network.explain(error, repo, remote)
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{repo} on ModelScope has no config.json: it is not a checkpoint this program can load")
    try:
        snapshot_download(repo, allow_patterns=list(files.SMALL))
        total, quantized = files.indexed_bytes(folder / files.INDEX), files.quantized(folder)
        for line in names.before_download(repo, total, quantized=quantized, into=remote.cache, prefix="modelscope:"):
            say(line)
        snapshot_download(repo, allow_patterns=files.indexed(folder / files.INDEX) or ["model.safetensors"])
    except Exception as error:
        network.explain(error, repo, remote, started=True)
    if lacking := files.missing(folder):
        raise ModelNotFound(f"{repo} on ModelScope has no {', '.join(lacking[:3])}: this program cannot load it")
    return folder


def _cached(repo: str, snapshot_download: Callable[..., Any]) -> Path | None:
    try:
        folder = Path(snapshot_download(repo, local_files_only=True))
    except Exception:  # its type differs between versions of the library; all it says is "not here"
        return None
    return folder if not files.missing(folder) else None
