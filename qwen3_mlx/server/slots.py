"""How many requests may be in the engine at a time: the ones that run, and a bounded queue behind them. Pure."""

from __future__ import annotations

from .errors import busy


class Slots:
    """Counts choices. ``running`` of them run in the engine at a time, ``queue`` more may wait."""

    def __init__(self, running: int, queue: int) -> None:
        self.running, self.queue = running, queue
        self.taken = 0

    @property
    def waiting(self) -> int:
        return max(self.taken - self.running, 0)

    def take(self, count: int) -> None:
        """Raises ApiError (429, with Retry-After) if there is no room."""
        if self.taken + count > self.running + self.queue:
            raise busy(
                f"{self.taken} requests run or wait, {self.running + self.queue} may: send this one again later",
                retry_after=1 + self.waiting // self.running,
            )
        self.taken += count

    def release(self, count: int = 1) -> None:
        assert self.taken >= count, "a slot was released twice"
        self.taken -= count
