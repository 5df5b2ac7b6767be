"""Results to test with, of figures made up here."""

from __future__ import annotations

from benchmarks.machine import Machine
from benchmarks.results import OURS, Quantity, Result, Row, Run, Table

MACHINE = Machine("a processor", 2, 8_000_000_000, "Linux x86_64", "the CPU")
VERSIONS = {"python": "3.11.7", "mlx": "0.32.4", "commit": "abc1234"}
SPEED = Quantity("decode", "tokens/s", "tokens of context", more_is_better=True)
BOUND = Quantity("at least", "ms", "model", kind="predicted")


def row(at: int | str, ours: tuple[float, ...], peer: tuple[float, ...]) -> Row:
    return Row(at, {OURS: ours, "mlx-lm": peer})


def run(command: str = "python -m benchmarks decode", **rows: tuple[Row, ...]) -> Run:
    speed = Table(
        SPEED, rows.get("speed", (row(0, (90.0, 100.0, 120.0), (40.0, 50.0, 45.0)), row(256, (80.0,), (50.0,))))
    )
    bound = Table(BOUND, (Row("8B", {"M4 Max": (8.07,)}),))
    return Run(command, "demo", "2026-11-30T16:46:48Z", ((0.1, 0.2, 0.3), (1.5, 0.2, 0.3)), (speed, bound))


def result(*runs: Run, name: str = "decode", machine: Machine = MACHINE, versions: dict[str, str] = VERSIONS) -> Result:
    return Result(name, "How fast one answer grows.", machine, versions, runs or (run(),))
