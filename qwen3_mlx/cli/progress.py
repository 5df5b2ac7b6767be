"""How far a command is that takes a while."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

#: Told what is done now, how many steps are behind, and how many there are.
Show = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """A bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
