"""What to run next: pure decisions over request slots. Knows neither weights nor clocks nor threads.

A slot is a running or waiting request, seen only as the number of tokens that must still go through the model before
its next token can be drawn (the prompt at first, forced tokens later). Slots are admitted first come, first served, and
none overtakes one that waits for memory. Each step decodes every slot that is ready and prefills some tokens of others.

How many: while some slot streams, as many as ``pace`` says fit into what a step leaves of ``stall``, the longest time
that should pass between two tokens of a stream; else ``chunk``. Never less than one, and up to ``LEAST`` as many as
take no longer than a step, so that prompts move on even where a step alone takes that long.

Whose: those of a stream that is fed forced tokens, alone. Of prompts, the oldest and the one with the fewest tokens
left take turns, so that the oldest has half of the work; what a turn leaves goes on to the others, the shortest first.
So a short prompt does not wait behind a long one, and none starves: the oldest takes twice its time at most, and
everyone becomes the oldest.

What is bounded is the time between two tokens that are drawn one after the other; where tokens are forced in between,
their own pass and up to two steps come on top.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ..values import frozen
from .pace import Pace

LEAST = 16
# Of the bound: the rest is for what the forecast does not know, such as rows that join and other programs.
USED = 0.8


class Slot(Protocol):
    """What the scheduler needs to know of a request."""

    @property
    def pending(self) -> int:
        """Tokens to feed before the next one can be drawn; 0 when the slot is ready to decode."""
        ...

    @property
    def held(self) -> int:
        """Tokens that were fed already: those to come attend to them."""
        ...

    @property
    def sampled(self) -> int:
        """Tokens that were drawn: from the first on, somebody may be reading."""
        ...


S = TypeVar("S", bound=Slot)


@frozen
class Plan(Generic[S]):
    """One step of the engine: the slots to decode, then tokens to prefill, slot by slot."""

    prefill: tuple[tuple[S, int], ...] = ()
    decode: tuple[S, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.prefill or self.decode)


@dataclass(eq=False, repr=False, slots=True)
class Scheduler(Generic[S]):
    """At most ``max_rows`` slots run at a time, each let in by ``admits``; at most ``chunk`` tokens are prefilled a
    step, fewer where ``stall`` (seconds) asks for it. ``_ahead``: how much more work was done for the oldest prompt
    than for the others since it is the oldest."""

    max_rows: int
    chunk: int
    stall: float
    admits: Callable[[S], bool] = lambda slot: True
    waiting: deque[S] = field(default_factory=deque)
    running: list[S] = field(default_factory=list)
    _oldest: S | None = None
    _ahead: float = 0.0

    def add(self, slot: S) -> None:
        self.waiting.append(slot)

    def remove(self, slot: S) -> None:
        """Forget a slot, wherever it is; what was finished or cancelled frees its row at once."""
        if slot in self.running:
            self.running.remove(slot)
        elif slot in self.waiting:
            self.waiting.remove(slot)
        if slot is self._oldest:
            self._oldest = None  # nothing of it stays here

    def plan(self, pace: Pace) -> Plan[S]:
        while self.waiting and len(self.running) < self.max_rows and self.admits(self.waiting[0]):
            self.running.append(self.waiting.popleft())
        decode: list[S] = []
        hungry: list[S] = []
        for slot in self.running:
            (hungry if slot.pending else decode).append(slot)
        prefill = self._prefill(hungry, pace, bool(decode)) if hungry else ()
        return Plan(tuple(prefill), tuple(decode))

    def _prefill(self, hungry: list[S], pace: Pace, decoding: bool) -> list[tuple[S, int]]:
        queue = self._queue(hungry)
        bounded = decoding or any(slot.sampled for slot in queue)
        if decoding and not pace.step_s:
            return []  # a step alone, to know what it takes
        tokens, seconds = self.chunk, USED * self.stall - (pace.step_s if decoding else 0.0)
        pieces: list[tuple[S, int]] = []
        for slot in queue:
            count = min(slot.pending, tokens)
            if bounded:
                count = min(count, pace.tokens(seconds, slot.held))
            least = min(self._least(pace, slot), slot.pending, self.chunk)
            if count < least:
                if pieces:
                    break
                count = least
            pieces.append((slot, count))
            tokens -= count
            seconds -= pace.seconds(count, slot.held)
            self._ahead += pace.work(count, slot.held) * (1 if slot is self._oldest else -1)
        return pieces

    def _least(self, pace: Pace, slot: S) -> int:
        """Tokens that a prompt moves on by in any case. Far behind others a few take longer than a step."""
        if not pace.rate:
            return LEAST
        return max(1, min(LEAST, pace.tokens(pace.step_s, slot.held)))

    def _queue(self, hungry: list[S]) -> list[S]:
        """The slots to feed, in the order of this turn."""
        if streams := [slot for slot in hungry if slot.sampled]:
            return streams
        prompts = list(hungry)
        oldest = prompts[0]
        if oldest is not self._oldest or len(prompts) == 1:
            self._oldest, self._ahead = oldest, 0.0
        prompts.sort(key=lambda slot: slot.pending)
        if self._ahead <= 0:
            prompts.remove(oldest)
            prompts.insert(0, oldest)
        return prompts
