"""A model's name -> a local folder: embedded, path, alias, Hugging Face, ModelScope or Kaggle.

Embedded names and paths never touch the network, and none of the clients' libraries is imported before it is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..values import frozen
from . import names
from .names import ALIASES, EMBEDDED, Alias

__all__ = ["ALIASES", "EMBEDDED", "Alias", "Listed", "list_models", "local", "resolve"]


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def resolve(name: str | os.PathLike[str], *, say: Callable[[str], None] = _to_stderr) -> Path:
    """The local folder that ``name`` leads to, downloaded first if it must be (progress bars go to stderr).

    ``name`` is ``demo``, ``demo-moe``, a path, an alias (``qwen3:4b``), ``ORG/NAME``, ``modelscope:ORG/NAME`` or
    ``kaggle:HANDLE``; a path object is always a folder's. ``say`` receives the one-line notes that come before a
    download.

    Raises ``ModelNotFound``, ``Unavailable`` (within ten seconds where there is no network) or ``OutputError``; what
    the folder holds is the loader's to judge.
    """
    source = names.parse(name) if isinstance(name, str) else names.folder(Path(name))
    if source.kind == "folder":
        return Path(source.target)
    if source.kind == "huggingface":
        from . import huggingface

        return huggingface.fetch(source.target, say)
    if source.kind == "modelscope":
        from . import modelscope

        return modelscope.fetch(source.target, say)
    from . import kaggle

    return kaggle.fetch(source.target, say)


def local(name: str) -> Path | None:
    """The folder that ``name`` leads to, if that is on this machine already and can be known without its hub's client;
    asks nobody. Raises ``ModelNotFound`` as :func:`resolve` does."""
    from . import huggingface

    source = names.parse(name)
    if source.kind == "folder":
        return Path(source.target)
    return huggingface.cached(source.target) if source.kind == "huggingface" else None


@frozen
class Listed:
    """A model that can be named without knowing where it lives.

    ``target`` is a repository, or the folder of an embedded checkpoint; ``bytes`` is what it takes on disk (about, for
    one that is not there yet); ``local`` is whether it can be loaded with no network.
    """

    name: str
    target: str
    bytes: int
    local: bool


def list_models() -> list[Listed]:
    """The embedded checkpoints and the aliases, in that order. Reads the disk only."""
    from . import files, huggingface

    listed = []
    for name in EMBEDDED:
        folder = names.embedded(name)
        listed.append(Listed(name, str(folder), _bytes(folder), not files.missing(folder)))
    for alias in ALIASES.values():
        folder_or_none = huggingface.cached(alias.repo)
        count = _bytes(folder_or_none) if folder_or_none else alias.bytes
        listed.append(Listed(alias.name, alias.repo, count, folder_or_none is not None))
    return listed


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
