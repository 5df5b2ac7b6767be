"""What a chat template may spend: time, and the bytes it makes.

A template arrives with a checkpoint and is a program from a stranger: nested loops or a doubled string can take all
time and memory there is, and Python cannot interrupt an operation on a huge string from outside. So every step of a
template is metered (``sandbox.py``): a step looks at the clock, what it makes is charged before it is made, and since
nothing large can be made, no single step takes long either. Works in any thread.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

SECONDS = 5.0
BASE_ALLOWANCE = 64 << 20  # units: about one byte each
ALLOWANCE_PER_CHARACTER = 64  # of the conversation: honest templates copy each message some ten times
NODE = 64  # units for a list element, a dictionary entry: about what Python spends on one
MAX_DEPTH = 200

_SCALARS = frozenset({str, int, float, bool, type(None)})
_SEQUENCES: tuple[Any, ...] = (list, tuple, type({}.keys()), type({}.values()), type({}.items()), set, frozenset)


def _parts(item: Any) -> Any:
    """What an object that is no plain JSON value writes out when it is printed."""
    if isinstance(item, str):
        return (str(item),)
    if isinstance(item, dict):
        return (*item.keys(), *item.values())
    if isinstance(item, _SEQUENCES):
        return item
    if type(item).__name__ == "Namespace":
        return (item._Namespace__attrs,)
    return ()


class Overrun(BaseException):
    """A template went beyond its time or its allowance. Not an Exception: no filter may swallow it."""


class Meter:
    """The spending of one rendering (or one compilation)."""

    __slots__ = ("_deadline", "_left", "seconds")

    def __init__(self, characters: int = 0, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._deadline = monotonic() + seconds
        self._left = BASE_ALLOWANCE + ALLOWANCE_PER_CHARACTER * characters

    def tick(self, units: int = 0) -> bool:
        """One step, which makes ``units``. True, so that it can stand in a condition."""
        self._left -= units
        if self._left < 0:
            raise Overrun("it builds more text than the conversation can account for")
        if monotonic() > self._deadline:
            raise Overrun(f"it ran longer than {self.seconds:g} seconds")
        return True

    def weigh(self, value: Any) -> int:
        """Units of ``value`` written out as text. Shared parts count as often as they would be written: a list of
        the same list twice, nested thirty deep, is tiny in memory and endless on paper. Depth is bounded as well:
        Python hashes a deep tuple with no regard for its stack.
        """
        kind = type(value)
        if kind is str:
            return len(value)
        if kind in _SCALARS:
            return NODE
        total, depth = NODE, 0
        level: list[Any] = [value]
        while level:
            depth += 1
            if depth > MAX_DEPTH:
                raise Overrun("it nests lists too deeply")
            self.tick()
            below: list[Any] = []
            for item in level:
                kind = type(item)
                if kind is str:
                    total += len(item)
                elif kind is dict:
                    total = self._bounded(total + 2 * NODE * len(item))
                    below.extend(item)
                    below.extend(item.values())
                elif kind is list or kind is tuple:
                    total = self._bounded(total + NODE * len(item))
                    below.extend(item)
                elif kind not in _SCALARS:
                    parts = _parts(item)
                    total = self._bounded(total + NODE * (1 + len(parts)))
                    below.extend(parts)
            level = below
        return self._bounded(total)

    def _bounded(self, total: int) -> int:
        if total > self._left:
            self.tick(total)
        return total

    def weighed(self, value: Any) -> Any:
        """``value``, once it is known to be small enough to compare or to hash."""
        if type(value) not in _SCALARS:
            self.tick()
            self.weigh(value)
        return value

    def made(self, value: Any) -> Any:
        """``value``, charged for: the result of a step whose size is bounded by what it was given."""
        if isinstance(value, str):
            self.tick(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.tick(NODE * len(value))
        elif hasattr(value, "__next__"):
            return self.metered(value)
        return value

    def metered(self, values: Any) -> Any:
        """The same iterator, with a step counted for every element."""
        for value in values:
            self.tick()
            yield value
