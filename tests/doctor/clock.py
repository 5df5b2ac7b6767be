"""A clock that passes as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Clock:
    """Each pair of looks is one turn, which takes the next of these seconds (the last one for ever)."""

    def __init__(self, turns: Iterable[float]) -> None:
        self._turns: Iterator[float] = iter(turns)
        self._now, self._last, self._begun = 0.0, 0.0, False

    def __call__(self) -> float:
        self._begun = not self._begun
        if not self._begun:
            self._last = next(self._turns, self._last)
            self._now += self._last
        return self._now
