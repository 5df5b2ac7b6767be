"""``kaggle:OWNER/MODEL/FRAMEWORK/VARIATION[/VERSION]`` -> a folder in Kaggle's own cache (kagglehub, an extra)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import ModelNotFound, Unavailable
from . import files, names, network


def fetch(handle: str, say: Callable[[str], None]) -> Path:
    """The folder of ``handle``, downloaded file by file if it is not cached. Raises as ``huggingface.fetch`` does.

    A handle without a version means the newest one in the cache, or else the newest there is.
    """
    if (folder := _cached(handle)) is not None:
        return folder
    # The library talks on stdout, and binds it when it is imported: an answer's stdout must stay the answer's.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            from kagglehub import model_download
        except ImportError as error:
            raise Unavailable("kaggle: names need its library: pip install kagglehub") from error
        return _download(handle, model_download, say)


def _cache_folder() -> Path:
    return Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")


def _cached(handle: str) -> Path | None:
    """The newest whole version of ``handle`` (or the one it names) in kagglehub's cache."""
    folder = _cache_folder() / "models" / handle
    if handle.count("/") == 4:
        return folder if _whole(folder) else None
    versions = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: -int(path.name))
    return next((path for path in versions if _whole(path)), None)


def _whole(folder: Path) -> bool:
    # kagglehub writes straight into the file's final place, so a file that is there may still be cut off.
    return not files.missing(folder) and not any(files.truncated(path) for path in folder.glob("*.safetensors"))


def _download(handle: str, model_download: Callable[..., str], say: Callable[[str], None]) -> Path:
    remote = network.Remote(
        address="https://www.kaggle.com",
        page=f"https://www.kaggle.com/models/{handle}",
        cache=_cache_folder(),
        token="set KAGGLE_API_TOKEN to a token of an account that may (or KAGGLE_USERNAME and KAGGLE_KEY)",
        elsewhere="set KAGGLEHUB_CACHE to a cache that holds it",
        room="set KAGGLEHUB_CACHE to a folder on a disk with room",
    )
    started = False
    try:
        first = network.within(network.FIRST_ANSWER, lambda: model_download(handle, path="config.json"))
        started, folder = True, Path(first).parent
        pinned = handle if handle.count("/") == 4 else f"{handle}/{folder.name}"
        for name in files.SMALL[1:]:
            _fetch_if_there(model_download, pinned, name, remote)
        total, quantized = files.indexed_bytes(folder / files.INDEX), files.quantized(folder)
        for line in names.before_download(handle, total, quantized=quantized, into=remote.cache, prefix="kaggle:"):
            say(line)
        for name in files.indexed(folder / files.INDEX) or ["model.safetensors"]:
            if files.truncated(folder / name):
                _fetch_if_there(model_download, pinned, name, remote)
    except Exception as error:
        network.explain(error, handle, remote, started=started)
    if lacking := files.missing(folder):
        raise ModelNotFound(f"{handle} on Kaggle has no {', '.join(lacking[:3])}: this program cannot load it")
    return folder


def _fetch_if_there(model_download: Callable[..., str], handle: str, name: str, remote: network.Remote) -> None:
    """Fetch one file. What a handle holds is learned only by asking; what was needed and absent is told at the end."""
    try:
        model_download(handle, path=name)
    except Exception as error:
        with contextlib.suppress(ModelNotFound):
            network.explain(error, handle, remote, started=True)
