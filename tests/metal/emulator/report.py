"""What the emulator counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class BufferReport:
    """The traffic of one buffer. All but `size` are 0 unless the launch was instrumented.

    `requested` adds what every lane asks for. `bytes` and `lines` count what the lanes of a simdgroup ask for with one
    instruction once, as the hardware does. `distinct` is how many different bytes were read at all (inputs only).
    """

    size: int
    loads: int = 0
    requested: int = 0
    bytes: int = 0
    lines: int = 0
    distinct: int = 0
    stores: int = 0
    store_requested: int = 0
    store_bytes: int = 0
    store_lines: int = 0


@dataclass(frozen=True)
class Report:
    """One launch. `dispatches` counts the fills that MLX adds for `init_value`."""

    kernel: str
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    dispatches: int
    threadgroups: int
    simdgroups: int
    threads: int
    barriers: int
    simdgroup_barriers: int
    simd_ops: int
    threadgroup_memory: int
    seconds: float
    instrumented: bool
    buffers: dict[str, BufferReport] = field(default_factory=dict)


_recorders: list[list[Report]] = []
_last: list[Report] = []


def note(report: Report) -> None:
    """Keeps the report of a launch that has just ended."""
    _last[:] = [report]
    for recorder in _recorders:
        recorder.append(report)


def last_report() -> Report:
    """The report of the last launch that ended well."""
    return _last[0]


@contextmanager
def recording() -> Iterator[list[Report]]:
    """Collects the reports of all launches inside the block."""
    reports: list[Report] = []
    _recorders.append(reports)
    try:
        yield reports
    finally:
        _recorders.remove(reports)
