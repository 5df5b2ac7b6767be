"""Bounds on how long the outside may keep us waiting, and one line for whatever went wrong out there."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from ..errors import ModelNotFound, OutputError, QwenError, Unavailable
from ..values import frozen
from . import names

T = TypeVar("T")

#: Seconds a hub has to give its first answer. With the imports before and the message after it, a machine with no
#: network gets its answer within ten.
FIRST_ANSWER = 6.0


@frozen
class Remote:
    """A hub as its error messages speak of it."""

    address: str
    page: str  # the model's page, where its terms are accepted
    cache: Path
    token: str  # how to give it a token that may read a private model
    elsewhere: str  # how to send the request or the cache somewhere else: "set HF_ENDPOINT to a mirror"
    room: str  # how to move its cache


class NoAnswer(Exception):
    """A hub did not answer in the time it had."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """``call()``, given up after ``seconds`` with ``NoAnswer``.

    A client's own timeouts do not cover name lookup, nor the sum of its retries, so the call runs in a thread of its
    own; a daemon, because one that hangs must not hold up the exit.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # raised again below, in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name="qwen3-mlx-hub")
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise NoAnswer(f"no answer within {seconds:.0f} seconds")
    return result[0]


def explain(error: Exception, model: str, remote: Remote, *, started: bool = False) -> NoReturn:
    """Raise one of our errors, with a remedy, for whatever a hub's client library raised.

    ``model`` is what the hub calls it; ``started`` says that the hub had answered before.
    """
    if isinstance(error, (QwenError, AttributeError, TypeError, NameError, AssertionError)):
        raise error  # said well already, or a programmer's mistake that must not be dressed up as the network's
    status = _status(error)
    if any(type(inner).__name__ == "GatedRepoError" for inner in _chain(error)) or status == 403:
        raise ModelNotFound(
            f"{model} is gated or private: accept its terms at {remote.page}, then {remote.token}"
        ) from error
    if status in (401, 404):
        raise ModelNotFound(
            f"{remote.address} has no model {model} that you may read{local_hint(model)}: check the spelling; if it is"
            f" private, {remote.token}"
        ) from error
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        raise OutputError(f"the disk of {remote.cache} is full: make room, or {remote.room}") from error
    if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        raise OutputError(f"{remote.cache} cannot be written ({reason(error)}): {remote.room}") from error
    if started:
        raise Unavailable(
            f"the download of {model} from {remote.address} failed ({reason(error)}): run the same command again;"
            " the files that have arrived are kept"
        ) from error
    answer = f"answered {status}" if status else f"cannot be reached ({reason(error)})"
    raise Unavailable(
        f"{remote.address} {answer}, and {model} is not in the cache ({remote.cache}){local_hint(model)}: try again"
        f" with a network, {remote.elsewhere}, give the folder of a checkpoint you have, or use --model demo, which"
        " needs none"
    ) from error


def reason(error: BaseException) -> str:
    """An error of some client library as one short line: its innermost cause says the most."""
    *_, innermost = _chain(error)
    text = " ".join(str(innermost).split())
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if isinstance(innermost, NoAnswer) else f"{type(innermost).__name__}: {text}".rstrip(": ")


def local_hint(model: str) -> str:
    """``ORG/NAME`` may have been meant as a path: say so if a folder ORG is right here."""
    path = Path(model)
    return f", nor is there a folder {model} here{names.near_folders(path)}" if path.parent.is_dir() else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    inner: BaseException | None = error
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        inner = inner.__cause__ or inner.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error, wherever its library keeps it."""
    for inner in _chain(error):
        for holder in (getattr(inner, "response", None), inner):
            if isinstance(status := getattr(holder, "status_code", None), int):
                return status
    return None
