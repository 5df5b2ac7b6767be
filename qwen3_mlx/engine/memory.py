"""Who may run in the memory there is: pure decisions over bytes. Knows neither MLX nor threads.

A row is let in with the tokens it is expected to come to: its prompt and ``ANSWER`` more, or what it is bound to where
that is less. Expecting every bound in full would refuse much that fits: most answers are far shorter than the 32,768
tokens that are asked for by habit. So a row may outgrow what was expected, and the batch asks before it grows. How rows
will lie together is planned as the batch does it (:mod:`grouping`).

Where memory is short, one step after the other is taken, and logged:

1. prefixes kept of former requests are dropped, those first that were not used for the longest time;
2. prompts go in smaller chunks, which need less working memory;
3. the places that rows have left in the batch are given up (the token loop does that);
4. those who wait are not let in until others have finished;
5. a request that does not fit even alone is refused, with what would fit, and a row that cannot grow ends with
   :class:`MemoryLimit`, the longest first; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..costs import CACHE_STEP, Footprint, grown
from ..errors import MemoryLimit
from .grouping import WORTH, groups

ANSWER = 1024
LEAST_CHUNK = 64


class Prefixes(Protocol):
    """What is kept of former requests; at most ``budget`` bytes."""

    budget: int

    @property
    def nbytes(self) -> int: ...

    def shrink(self, count: int, /) -> int:
        """Drop at least ``count`` bytes, or all; returns how many."""
        ...


class Sized(Protocol):
    """A row as memory sees it, in tokens."""

    @property
    def length(self) -> int:
        """In its cache, or about to be fed to it."""
        ...

    @property
    def bound(self) -> int:
        """The most it can come to."""
        ...

    @property
    def prompt(self) -> int: ...


Held = Sequence[int]
"""Positions planned for the rows that run and for the places that rows have left."""


def expected(row: Sized) -> int:
    """Tokens that a row is planned with; it needs a place for the next one at least."""
    return max(row.length + 1, _aim(row))


def planned(row: Sized) -> int:
    """Positions that a row is planned with."""
    return _capacity(expected(row))


def _aim(row: Sized) -> int:
    return min(row.bound, row.prompt + ANSWER)


def info(text: str) -> None:
    """To the log of this package."""
    import logging  # seldom needed, and not for nothing

    logging.getLogger("qwen3_mlx").info(text)


@dataclass(eq=False, repr=False, slots=True)
class Memory:
    """The memory of one engine: ``limit`` bytes for weights, caches and working memory together, buffers that MLX keeps
    for later not counted. ``release`` gives back those; ``log`` is told of each step.

    ``chunk``: tokens of a prompt that may go at a time now; ``whole``: when there is no need to save. Used on the
    engine's thread, but for :meth:`check`.
    """

    footprint: Footprint
    limit: int
    whole: int
    prefixes: Prefixes
    release: Callable[[], object] = lambda: None
    log: Callable[[str], object] = info
    chunk: int = 0
    _kept: int = 0
    _pausing: bool = False

    def __post_init__(self) -> None:
        self.chunk = self.whole
        self._kept = self.prefixes.budget

    def check(self, row: Sized) -> None:
        """Raises MemoryLimit for a row that does not fit with all the memory to itself. Safe in any thread."""
        tokens = expected(row)
        needed = self.peak([_capacity(tokens)], LEAST_CHUNK)
        if needed <= self.limit:
            return
        raise MemoryLimit(
            f"the prompt of {row.prompt:,} tokens and an answer of {tokens - row.prompt:,} need {size(needed)} of"
            f" memory with the model, {size(self.limit)} may be used: fits {self._fits()}"
        )

    def fits(self, kv_bits: int | None = None) -> int:
        """Tokens of prompt and answer that a single row may have; ``kv_bits``: with a cache of so many."""
        footprint = self.footprint if kv_bits is None else replace(self.footprint, kv_bits=kv_bits)
        return footprint.tokens(self.limit, LEAST_CHUNK)

    def admits(self, row: Sized, held: Held) -> bool:
        """Whether a row can be let in beside those that run. One that would run alone always is: it was checked."""
        if self._make_room([*held, planned(row)]) or not held:
            self._pausing = False
            return True
        if not self._pausing:
            self._pausing = True
            self.log(f"a request of {row.prompt:,} tokens waits until others have finished")
        return False

    def alone(self, tokens: int) -> bool:
        """Whether there is room for so many tokens that nobody has asked for, while nothing runs."""
        return self._make_room([_capacity(tokens + 1)])

    def spares(self, held: Held) -> bool:
        """Whether so much fits as things are: none of the steps is taken for it."""
        if self.peak(held, self.chunk) + self.prefixes.nbytes > self.limit:
            return False
        self._save(held, self.chunk)  # prefixes may not take it meanwhile
        return True

    def settle(self, held: Held) -> None:
        """A row has gone: chunks and prefixes may take what it leaves."""
        self._save(held, self._chunk(held) or LEAST_CHUNK)

    def grow(self, rows: Sequence[Sized], others: Held) -> list[int]:
        """Positions for each of these rows, which have filled what they had; none if there is no memory for that."""
        for wanted in (list(map(_more, rows)), [_capacity(row.length + 1) for row in rows]):
            if self._make_room([*others, *map(max, wanted, map(planned, rows))]):
                return wanted
        return []

    def outgrown(self, row: Sized) -> MemoryLimit:
        """The error of a row that cannot grow."""
        self.log(f"a row of {row.length:,} tokens ends: no memory to grow")
        return MemoryLimit(
            f"the answer ends here, at {row.length:,} tokens with its prompt: there is no memory left for more"
            f" ({size(self.limit)} may be used, other requests included; alone, it fits {self._fits()})"
        )

    def _fits(self) -> str:
        text = f"{self.fits():,} tokens"
        if self.footprint.kv_bits is None:
            text += f"; with 8-bit KV {self.fits(8):,}"
        return text

    def peak(self, held: Held, chunk: int) -> int:
        """Bytes that so many positions take, with all else there is. Rows of groups that are not worth parting until
        all have come lie in one till then."""
        planned = groups(held)
        return self.footprint.peak(planned, chunk) + self.footprint.cache([(1, WORTH * max(len(planned) - 1, 0))])

    def _chunk(self, held: Held) -> int:
        """The largest chunk with which so much cache fits, prefixes aside; 0 where none does."""
        chunk = self.whole
        while self.peak(held, chunk) > self.limit:
            if chunk <= LEAST_CHUNK:
                return 0
            chunk = max(chunk // 2, LEAST_CHUNK)
        return chunk

    def _make_room(self, held: Held) -> bool:
        """Take the steps that so much cache needs; none, where they are not enough."""
        chunk = self._chunk(held)
        if chunk:
            self._save(held, chunk)
        return chunk > 0

    def _save(self, held: Held, chunk: int) -> None:
        left = max(0, self.limit - self.peak(held, chunk))
        self.prefixes.budget = min(self._kept, left)
        if self.prefixes.nbytes > left:
            freed = self.prefixes.shrink(self.prefixes.nbytes - left)
            self.log(f"{size(freed)} of kept prefixes were dropped")
            self.release()
        if chunk < self.chunk:
            self.log(f"prompts go in chunks of {chunk} tokens instead of {self.chunk}")
        self.chunk = chunk


def _capacity(tokens: int) -> int:
    return -(-tokens // CACHE_STEP) * CACHE_STEP


def _more(row: Sized) -> int:
    """Positions to grow to, half as many again, but not beyond what the row is expected or bound to come to."""
    needed, aim = row.length + 1, _aim(row)
    return max(min(grown(row.length, needed), _capacity(aim if needed <= aim else row.bound)), _capacity(needed))


def ran_out(error: Exception) -> bool:
    """Whether MLX says that it could not have memory; it has no type of error for that."""
    return isinstance(error, MemoryError) or any(
        sign in str(error) for sign in ("[malloc", "Unable to allocate", "Insufficient Memory", "OutOfMemory")
    )


def size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
