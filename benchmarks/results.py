"""What was measured, and its files: ``benchmarks/results/NAME.json``.

A file has the runs of one benchmark on one machine with one set of versions; runs of others are refused. It is written
at once, when a run has ended, and what is read from one is checked: the medians it states are those of its samples.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from qwen3_mlx.errors import QwenError

from .machine import Machine

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"
OURS = "qwen3-mlx"
Kind = Literal["measured", "counted", "predicted"]


class ResultError(QwenError):
    """A result file that cannot be read or must not be added to. Names the file."""

    def __init__(self, problem: str, path: Path) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Row:
    """``at``: where (a number of tokens, a setting); ``samples``: every side's, in the order they were taken."""

    at: int | str
    samples: dict[str, tuple[float, ...]]

    def median(self, side: str) -> float:
        return statistics.median(self.samples[side])

    def ratio(self, peer: str) -> float:
        """Ours through the peer's, of medians; NaN where that is not defined."""
        return self.median(OURS) / self.median(peer) if self.median(peer) else math.nan

    def cell(self, side: str) -> str:
        """The median and, in brackets, the least and the most; empty for a side that was not measured."""
        values = self.samples.get(side)
        if not values:
            return ""
        spread = f" ({figure(min(values))} to {figure(max(values))})" if len(values) > 1 else ""
        return figure(self.median(side)) + spread

    @property
    def peers(self) -> list[str]:
        """The other sides; none where ours was not measured."""
        return [side for side in self.samples if side != OURS] if OURS in self.samples else []


@dataclass(frozen=True, slots=True)
class Quantity:
    """What the rows of a table are: ``axis`` says what tells them apart."""

    what: str
    unit: str
    axis: str
    more_is_better: bool = False
    kind: Kind = "measured"

    def __str__(self) -> str:
        return f"{self.what} ({self.unit}; {'more' if self.more_is_better else 'less'} is better)"

    def row(self, at: int | str, samples: Mapping[str, Iterable[float]]) -> Measured:
        return self, Row(at, {side: tuple(map(float, values)) for side, values in samples.items()})


Measured = tuple[Quantity, Row]


@dataclass(frozen=True, slots=True)
class Table:
    quantity: Quantity
    rows: tuple[Row, ...]

    @property
    def sides(self) -> list[str]:
        """All that any row has, in the order they come."""
        return list(dict.fromkeys(side for row in self.rows for side in row.samples))


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a benchmark. ``date``: when it ended, UTC; ``load``: the machine's load averages when it began and
    when it ended."""

    command: str
    model: str
    date: str
    load: tuple[tuple[float, ...], tuple[float, ...]]
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a benchmark on one machine. ``what``: what it measures, a line."""

    name: str
    what: str
    machine: Machine
    versions: dict[str, str]
    runs: tuple[Run, ...]

    @property
    def host(self) -> str:
        """Machine and versions, in words."""
        return f"{self.machine}; {', '.join(f'{name} {version}' for name, version in self.versions.items())}"


def figure(value: float) -> str:
    """A number with three or four digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def tables(measured: Iterable[Measured]) -> tuple[Table, ...]:
    """The rows by their quantities, in the order they came."""
    found: dict[Quantity, list[Row]] = {}
    for quantity, row in measured:
        found.setdefault(quantity, []).append(row)
    return tuple(Table(quantity, tuple(rows)) for quantity, rows in found.items())


def added(old: Result | None, new: Result, path: Path) -> Result:
    """``new`` with the runs of ``old`` that it does not repeat (a run is told by its command). Raises ResultError where
    they are not of the same machine and versions."""
    if old is None:
        return new
    differs = _difference(old, new)
    if differs:
        raise ResultError(
            f"holds what was measured elsewhere ({differs}), and a file never mixes machines or versions: start it anew"
            " with --fresh, or write to another with --json FILE",
            path,
        )
    repeated = {run.command for run in new.runs}
    kept = tuple(run for run in old.runs if run.command not in repeated)
    return replace(new, runs=(*kept, *new.runs))


def _difference(old: Result, new: Result) -> str:
    """What of machine and versions is not the same; empty if all is."""
    if old.name != new.name:
        return f"it is of {old.name}, not of {new.name}"
    before, now = ({**asdict(one.machine), **one.versions} for one in (old, new))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {before.get(key, 'none')}, now {now.get(key, 'none')}" for key in keys)


def save(result: Result, path: Path) -> None:
    """Write a file, all of it or nothing. Raises ResultError if that cannot be done."""
    text = json.dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise ResultError(f"cannot be written ({error.strerror})", path) from None


def load(path: Path) -> Result:
    """Read and check a file. Raises ResultError for one that is missing, damaged, of another schema, or whose medians
    and ratios are not those of its samples."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError("there is no such file", path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"cannot be read as JSON ({error})", path) from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else None
        raise ResultError(f"has schema {found!r}, this is version {SCHEMA}: measure it again with --fresh", path)
    try:
        result = _from_json(value)
        same = to_json(result) == value
    except (KeyError, TypeError, ValueError, AttributeError, statistics.StatisticsError) as error:
        raise ResultError(f"is not a result ({type(error).__name__}: {error}): measure it again", path) from None
    if not same:
        raise ResultError("states figures that its samples do not give: it was changed by hand, measure it again", path)
    return result


def every(folder: Path = FOLDER) -> list[Result]:
    """All results of a folder, by name."""
    return [load(path) for path in sorted(folder.glob("*.json"))]


def to_json(result: Result) -> dict[str, Any]:
    """What a file holds. Medians, spreads and ratios are for those who read it with other programs."""
    return {
        "schema": SCHEMA,
        "name": result.name,
        "what": result.what,
        "machine": asdict(result.machine),
        "versions": dict(result.versions),
        "runs": [
            {
                "command": run.command,
                "model": run.model,
                "date": run.date,
                "load_average": {"begin": list(run.load[0]), "end": list(run.load[1])},
                "tables": list(map(table_json, run.tables)),
            }
            for run in result.runs
        ],
    }


def table_json(table: Table) -> dict[str, Any]:
    return {**asdict(table.quantity), "rows": list(map(_row_json, table.rows))}


def _row_json(row: Row) -> dict[str, Any]:
    sides = {
        side: {"median": row.median(side), "min": min(values), "max": max(values), "samples": list(values)}
        for side, values in row.samples.items()
    }
    ratios = {peer: None if math.isnan(row.ratio(peer)) else row.ratio(peer) for peer in row.peers}
    return {"at": row.at, "sides": sides, "ratios": ratios}


def _from_json(value: dict[str, Any]) -> Result:
    return Result(
        name=_text(value["name"]),
        what=_text(value["what"]),
        machine=Machine(**value["machine"]),
        versions={_text(name): _text(version) for name, version in value["versions"].items()},
        runs=tuple(map(_run, value["runs"])),
    )


def _run(value: dict[str, Any]) -> Run:
    load = value["load_average"]
    begin, end = (tuple(map(float, load[when])) for when in ("begin", "end"))
    found = []
    for table in value["tables"]:
        quantity = Quantity(**{key: item for key, item in table.items() if key != "rows"})
        if quantity.kind not in get_args(Kind):
            raise ValueError(f"kind {quantity.kind!r}")
        found.append(Table(quantity, tuple(map(_row, table["rows"]))))
    return Run(_text(value["command"]), _text(value["model"]), _text(value["date"]), (begin, end), tuple(found))


def _row(value: dict[str, Any]) -> Row:
    at = value["at"]
    if type(at) not in (int, str):
        raise TypeError(f"a row at {at!r}")
    samples = {_text(side): tuple(map(float, held["samples"])) for side, held in value["sides"].items()}
    if not all(map(math.isfinite, sum(samples.values(), ()))):
        raise ValueError("a sample that is no number")
    return Row(at, samples)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
