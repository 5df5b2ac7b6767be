"""What was found out about kernels on this machine, kept in the user's cache folder between runs."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, get_args

from .. import machine
from ..values import frozen

Kind = Literal["good", "differs", "refused", "failed", "trying"]
_FORMAT = 1


@frozen
class Verdict:
    """``good``: the kernel agrees with the reference. ``differs``: it does not. ``refused``: it does not compile, or
    fit the device. ``failed``: anything else went wrong. ``detail``: by how much, or the whole message.

    ``trying``: a process, whose id is the detail, is trying the kernel, or has ended while it did.

    ``error``: the largest error in units of what is tolerated, as long as the process that measured it runs.
    """

    kind: Kind
    detail: str = ""
    error: float | None = field(default=None, compare=False)

    @property
    def good(self) -> bool:
        return self.kind == "good"


def cache_folder() -> Path | None:
    """Where verdicts are kept by default; ``None`` for a user without a home."""
    return machine.cache_folder("kernels")


class Store:
    """Verdicts as files of ``folder`` (by default :func:`cache_folder`, asked at each use).

    ``subject`` says what a verdict is about, and on which machine: a verdict is found again only under exactly the same
    subject. The store never fails: what cannot be read is not there, and what cannot be written is not kept.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def read(self, subject: dict[str, Any]) -> Verdict | None:
        path = self.path(subject)
        found = path and _read(path)
        return found[1] if found and found[0] == subject else None

    def held(self) -> list[tuple[dict[str, Any], Verdict]]:
        """Every verdict there is, also on other machines and versions, with its subject."""
        folder = self._folder or cache_folder()
        paths = sorted(folder.glob("*.json")) if folder else []
        return [found for found in map(_read, paths) if found]

    def write(self, subject: dict[str, Any], verdict: Verdict) -> None:
        path = self.path(subject)
        if path is None:
            return
        own = path.with_name(f"{path.name}.{os.getpid()}")  # a reader sees the old file or the new one, whole
        held = {"format": _FORMAT, "subject": subject, "verdict": verdict.kind, "detail": verdict.detail}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            own.write_text(json.dumps(held, indent=1), encoding="utf-8")
            os.replace(own, path)
        except OSError:
            with contextlib.suppress(OSError):
                own.unlink()

    def remove(self, subject: dict[str, Any]) -> None:
        path = self.path(subject)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()

    def path(self, subject: dict[str, Any]) -> Path | None:
        """The file of a verdict, whether it is there or not; ``None`` if nothing is kept."""
        import hashlib

        folder = self._folder or cache_folder()
        if folder is None:
            return None
        name = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:32]
        return folder / f"{name}.json"


def _read(path: Path) -> tuple[dict[str, Any], Verdict] | None:
    """A subject and the verdict on it, if the file holds them."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        subject, kind, detail = held["subject"], held["verdict"], held["detail"]
        if held["format"] == _FORMAT and isinstance(subject, dict) and kind in get_args(Kind):
            return subject, Verdict(kind, str(detail))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    return None
