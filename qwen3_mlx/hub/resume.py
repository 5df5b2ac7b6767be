"""Weights over plain HTTP, in a way that leaves what has arrived to the next run.

huggingface_hub takes up a cut connection by itself, but throws a half-fetched file away when its process ends: on a
slow line a checkpoint of one large file might never arrive. So such files are put into the cache's ``blobs`` here, and
the client finds them there. Files in Xet storage (most of Hugging Face's own; few of a mirror's) stay the client's: it
has them from many servers at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

#: Connections at a time: mirrors tend to limit each one.
CONNECTIONS = 4


def prefetch(repo: str, names: list[str], endpoint: str, blobs: Path) -> None:
    """Fetch the files ``names`` of ``repo`` into ``blobs``, each going on where an earlier run stopped.

    Raises what the client raises; files that are another process's at the moment are left out.
    """
    blobs.mkdir(parents=True, exist_ok=True)
    waiting, lock, failures = iter(names), threading.Lock(), list[BaseException]()

    def work() -> None:
        try:
            for name in _taken(waiting, lock):
                _fetch(repo, name, endpoint, blobs)
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)

    # Daemons: Ctrl-C must end the program now, not when the files are through.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(CONNECTIONS, len(names)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _taken(waiting: Iterator[str], lock: threading.Lock) -> Iterator[str]:
    """The next names, each handed to one thread only."""
    while True:
        with lock:
            name = next(waiting, None)
        if name is None:
            return
        yield name


def _fetch(repo: str, name: str, endpoint: str, blobs: Path) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, name, endpoint=endpoint)
    file = get_hf_file_metadata(url, endpoint=endpoint, library_name="qwen3-mlx")
    by_xet = file.xet_file_data is not None and find_spec("hf_xet") and not constants.HF_HUB_DISABLE_XET
    if by_xet or not file.size or file.etag is None or not re.fullmatch(r"[\w-]+", file.etag):
        return
    blob = blobs / file.etag
    part = blobs / f"{file.etag}.part"
    if blob.exists():
        return
    headers = build_hf_headers(library_name="qwen3-mlx")
    if urlsplit(file.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # a storage server's signed address: the token is none of its business
    with part.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        if stream.tell() > file.size:
            stream.truncate(0)
        resumed = stream.seek(0, os.SEEK_END)
        http_get(
            file.location,
            stream,
            resume_size=resumed,
            headers=headers,
            expected_size=file.size,
            displayed_filename=name,
        )
        stream.flush()
        if resumed and len(file.etag) == 64 and _sha256(part) != file.etag:
            part.unlink()
            raise OSError(f"{name}: what an earlier run left of it was damaged; it will be fetched anew")
        part.replace(blob)


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
