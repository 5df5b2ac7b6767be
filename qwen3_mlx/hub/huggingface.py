"""``ORG/NAME`` -> a folder in Hugging Face's own cache, shared with every other program that uses it.

A checkpoint that is whole in the cache is found by reading the cache's folders alone: no network, and no import of
huggingface_hub, which would take longer than everything else on the way to a first token.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelNotFound, OutputError, Unavailable
from . import files, names, network


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT`` (a mirror) or Hugging Face's own."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    """Whether the environment forbids the network, in huggingface_hub's own spelling."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def cache_folder() -> Path:
    """huggingface_hub's cache, from the same variables in the same order of precedence."""
    home = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
    home = os.environ.get("HF_HOME", os.path.join(home, "huggingface"))
    cache = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(home, "hub"))
    return Path(os.path.expandvars(os.path.expanduser(os.environ.get("HF_HUB_CACHE", cache))))


def cached(repo: str) -> Path | None:
    """The folder of ``repo`` in the cache if every file of it is there, else None (a download cut off, or none)."""
    storage = _storage(repo)
    try:
        commit = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = storage / "snapshots" / commit
    return snapshot if snapshot.is_dir() and not files.missing(snapshot) else None


def fetch(repo: str, say: Callable[[str], None]) -> Path:
    """The folder of ``repo``, downloaded if it is not cached.

    A connection that is cut is taken up again where it broke, in the same run and (but for Xet storage, see
    ``resume``) in the next.

    Raises ``ModelNotFound`` (no such repository, or none this token may read), ``Unavailable`` (no answer, cut off,
    offline) and ``OutputError`` (a cache that cannot be written, or has no room).
    """
    if (folder := cached(repo)) is not None:
        return folder
    if offline():
        raise Unavailable(
            f"HF_HUB_OFFLINE is set and {repo} is not whole in the cache ({cache_folder()}): unset it to download,"
            " give the folder of a checkpoint, or use --model demo"
        )
    sizes = _list(repo)
    folder = _download(repo, [name for name in files.SMALL if name in sizes]) if "config.json" in sizes else Path()
    wanted = files.indexed(folder / files.INDEX) or files.weights(sizes)
    if lacking := _lacking(sizes, wanted):
        raise ModelNotFound(f"{repo} at {endpoint()} has no {lacking}: it is not a checkpoint this program can load")
    _check_room(repo, folder, sizes, wanted)
    total = sum(sizes.get(name, 0) for name in wanted)
    for line in names.before_download(repo, total, quantized=files.quantized(folder), into=cache_folder()):
        say(line)
    folder = _download_weights(repo, wanted)
    if missing := files.missing(folder):
        raise Unavailable(f"{repo} arrived without {', '.join(missing[:3])}: run the same command again")
    return folder


def _lacking(sizes: dict[str, int], wanted: list[str]) -> str:
    """What a repository's files lack to be a checkpoint, or an empty text."""
    absent = [name for name in ("config.json", "tokenizer.json", *wanted) if name not in sizes]
    return ", ".join(absent[:3]) if absent or wanted else "safetensors weights"


def _storage(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _remote(repo: str) -> network.Remote:
    return network.Remote(
        address=endpoint(),
        page=f"{endpoint()}/{repo}",
        cache=cache_folder(),
        token="set HF_TOKEN to a token of an account that may (or run `hf auth login`)",
        elsewhere="set HF_ENDPOINT to a mirror",
        room="set HF_HOME to a folder on a disk with room",
    )


def _list(repo: str) -> dict[str, int]:
    """The repository's files and their sizes in bytes; the one call that finds out whether anybody answers."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint(), library_name="qwen3-mlx")
    try:
        info = network.within(
            network.FIRST_ANSWER, lambda: api.model_info(repo, files_metadata=True, timeout=network.FIRST_ANSWER)
        )
    except Exception as error:
        network.explain(error, repo, _remote(repo))
    return {entry.rfilename: int(entry.size or 0) for entry in info.siblings or []}


def _download(repo: str, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo,
                allow_patterns=wanted,
                endpoint=endpoint(),
                cache_dir=cache_folder(),
                library_name="qwen3-mlx",
            )
        )
    except Exception as error:
        network.explain(error, repo, _remote(repo), started=True)


def _download_weights(repo: str, wanted: list[str]) -> Path:
    from . import resume

    try:
        resume.prefetch(repo, wanted, endpoint(), _storage(repo) / "blobs")
    except Exception as error:
        network.explain(error, repo, _remote(repo), started=True)
    return _download(repo, wanted)


def _check_room(repo: str, folder: Path, sizes: dict[str, int], wanted: list[str]) -> None:
    """Refuse to start a download that the disk cannot hold; what is there already, even in part, needs no room."""
    needed = sum(sizes.get(name, 0) for name in wanted if not (folder / name).is_file())
    needed -= sum(part.stat().st_size for part in (_storage(repo) / "blobs").glob("*.part"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{repo} needs {names.size(needed)} more, but the disk of {cache_folder()} has {names.size(free)} free:"
            f" make room, or {_remote(repo).room}"
        )
