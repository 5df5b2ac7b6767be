"""What every side-by-side benchmark shares: its options, what is shown while it runs, and the file at its end.

A benchmark is a generator that yields rows as they are measured; :func:`benchmark` makes the command of it. Nothing is
written before it has ended: one that is interrupted or fails leaves no file and changes none.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from qwen3_mlx import hub
from qwen3_mlx.cli.errors import run as run_command

from . import machine, peers, results
from .peers import Peer
from .results import OURS, Measured, Result, Run, figure

SAVING = ("save", "json_file", "fresh")  # options that change nothing of what is measured


@dataclass(frozen=True, slots=True)
class Bench:
    """What a benchmark is told by the options that all have. ``gguf``: the checkpoint as llama.cpp reads it."""

    model: str
    runs: int
    peers: tuple[Peer, ...]
    gguf: Path | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint's."""
        return hub.resolve(self.model)


class Numbers(click.ParamType):
    """Whole numbers with commas between them, each at least ``least``."""

    name = "numbers"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: whole numbers with commas between them, such as 16,64,256", param, ctx)
        if min(numbers) < self.least:
            self.fail(f"{min(numbers)} is less than {self.least}", param, ctx)
        return tuple(dict.fromkeys(numbers))


def benchmark(
    *, runs: int, peers: Sequence[str] = ("mlx-lm",), model: str | None = "demo"
) -> Callable[[Callable[..., Iterator[Measured]]], Callable[[], int]]:
    """Make a command, to be called without arguments, of a generator whose first argument is a :class:`Bench` and whose
    others are its own options. ``runs``: rounds by default; ``peers``: with whom it can compare; ``model``: the
    checkpoint by default, ``None`` where there is none to choose."""

    def made(measure: Callable[..., Iterator[Measured]]) -> Callable[[], int]:
        module = sys.modules[measure.__module__]
        name = Path(str(module.__file__)).stem

        @functools.wraps(measure)
        def callback(**given: Any) -> None:
            _run(name, module.__doc__ or "", measure, given)

        for option in _options(runs, peers, model):
            callback = option(callback)
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        command = click.command(name, help=as_help(module.__doc__ or ""), context_settings=settings)(callback)
        return functools.partial(run_command, command, f"python -m benchmarks {name}")

    return made


def _options(runs: int, names: Sequence[str], model: str | None) -> Iterator[Callable[[Any], Any]]:
    """In the order of ``--help`` from its end."""
    yield click.option("--fresh", is_flag=True, help="Drop what the file has instead of adding to it.")
    path = click.Path(path_type=Path, dir_okay=False)
    yield click.option("--json", "json_file", type=path, metavar="FILE", help="Save in this file.")
    yield click.option("--save", is_flag=True, help="Save in benchmarks/results/.")
    if "llama.cpp" in names:
        yield click.option("--gguf", type=path, metavar="FILE", help="The same checkpoint, for llama.cpp.")
    choice = click.Choice(list(names))
    yield click.option(
        "--peer", "names", type=choice, multiple=True, default=names[:1], show_default=True, help="May be repeated."
    )
    yield click.option("--runs", type=click.IntRange(1), default=runs, show_default=True, help="Rounds of all sides.")
    if model is not None:
        yield click.option("--model", default=model, show_default=True, metavar="NAME", help="A name or a folder.")


def as_help(doc: str) -> str:
    """A module's docstring for ``--help``: its command lines are left as they are."""
    paragraphs = doc.replace("``", "").strip().split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in paragraphs)


def _run(name: str, doc: str, measure: Callable[..., Iterator[Measured]], given: dict[str, Any]) -> None:
    path = _file(name, given.pop("save"), given.pop("json_file"), fresh := given.pop("fresh"))
    gguf = given.pop("gguf", None)
    chosen = tuple(peers.require(peer, gguf) for peer in dict.fromkeys(given.pop("names")))
    bench = Bench(given.pop("model", ""), given.pop("runs"), chosen, gguf)
    what = doc.strip().splitlines()[0].replace("``", "`")
    empty = Result(name, what, machine.here(), machine.versions(), ())
    old = results.load(path) if path and path.exists() and not fresh else None
    if path is not None:
        results.added(old, empty, path)  # what cannot be saved is said before it is measured
    began, rows = machine.load_average(), []
    try:
        for measured in measure(bench, **given):
            _show(measured, first=not rows or rows[-1][0] != measured[0])
            rows.append(measured)
    except KeyboardInterrupt:
        written = "nothing was written" if path else "nothing was to be saved"
        print(f"interrupted after {len(rows)} rows: {written}", file=sys.stderr, flush=True)
        raise
    print(f"  {empty.host}")
    if path is not None:
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        run = Run(_command(name), bench.model, date, (began, machine.load_average()), results.tables(rows))
        results.save(results.added(old, replace(empty, runs=(run,)), path), path)
        print(f"  saved in {path}")


def _file(name: str, save: bool, file: Path | None, fresh: bool) -> Path | None:
    """Where to save, if anywhere."""
    if save and file:
        raise click.UsageError("--save and --json FILE say two places: give one", click.get_current_context())
    if fresh and not (save or file):
        raise click.UsageError("--fresh is about a file: add --save or --json FILE", click.get_current_context())
    return results.FOLDER / f"{name}.json" if save else file


def _command(name: str) -> str:
    """The command line that measures the same: every option that was given, but for those that save."""
    context = click.get_current_context()
    words = ["python", "-m", "benchmarks", name]
    for param in context.command.params:
        assert param.name is not None
        given = context.get_parameter_source(param.name) == ParameterSource.COMMANDLINE
        if not given or param.name in SAVING:
            continue
        value, option = context.params[param.name], param.opts[0]
        if isinstance(param, click.Option) and param.is_flag:
            words.append(option)
        elif param.multiple:
            words += [word for each in value for word in (option, str(each))]
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _show(measured: Measured, first: bool) -> None:
    """A row as soon as it is there, behind a title if it is the ``first`` of its quantity."""
    quantity, row = measured
    if first:
        kind = "" if quantity.kind == "measured" else f"{quantity.kind}: "
        print(f"{kind}{quantity}, by {quantity.axis}", flush=True)
    parts = [f"  {row.at!s:>12}", *(f"{side} {row.cell(side)}" for side in row.samples)]
    parts += [f"{OURS} / {peer} {figure(row.ratio(peer))}x" for peer in row.peers]
    print("   ".join(parts), flush=True)
