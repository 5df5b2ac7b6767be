"""Which rows lie together: pure decisions over positions. Knows neither MLX nor threads.

Rows of a group have the capacity of the longest, so that one write and one attention serve them all: the fewer groups,
the fewer launches, and the more groups, the less memory for short rows beside long ones.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

#: The most groups there are: each costs every layer a write, an attention and a copy of its results.
GROUPS = 4
#: Positions that a further group has to save: about as many are read in the time that its launches take.
WORTH = 1024

T = TypeVar("T")


def partition(sizes: Mapping[T, int]) -> list[list[T]]:
    """Rows by group, the longest first, given the positions that each needs: those groups of which places times
    capacity come to the least, each after the first counted as ``WORTH`` more.

    By that measure no row makes what others take less: a plan for all is enough for any of them.
    """
    order = sorted(sizes, key=lambda row: -sizes[row])
    counts = _counts(tuple(sizes[row] for row in order))
    rows = iter(order)
    return [[next(rows) for _ in range(count)] for count in counts]


def halved(rows: Sequence[T], where: Mapping[T, int]) -> list[list[T]]:
    """A group in two, so that one can be computed beside the other. Rows stay with those they lie with, the group that
    ``where`` names, unless three quarters of all would be on one side."""
    groups = sorted(group for group, _ in Counter(where[row] for row in rows if row in where).most_common(2))
    halves: list[list[T]] = [[row for row in rows if where.get(row) == group] for group in groups]
    halves += [[] for _ in range(2 - len(halves))]
    for row in rows:
        if not any(row in half for half in halves):
            min(halves, key=len).append(row)
    few, many = sorted(halves, key=len)
    if len(many) > 3 * len(few):
        while len(many) > len(few) + 1:
            few.append(many.pop())
    return [half for half in halves if half]


def groups(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Places and capacity of the groups of rows that need so many positions."""
    return [(len(rows), sizes[rows[0]]) for rows in partition(dict(enumerate(sizes)))]


@functools.lru_cache(maxsize=256)
def _counts(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """How many of these sizes, which descend, are in each group."""
    one = [(end * sizes[0], (end,)) for end in range(1, len(sizes) + 1)]
    best: list[tuple[int, tuple[int, ...]]] = [(0, ()), *one]  # for the first so many
    for _ in range(1, min(GROUPS, len(sizes))):
        before = list(best)
        for end in range(2, len(sizes) + 1):
            for first in range(1, end):
                cost = before[first][0] + (end - first) * sizes[first] + WORTH
                if cost < best[end][0]:
                    best[end] = cost, (*before[first][1], end - first)
    return best[-1][1]
