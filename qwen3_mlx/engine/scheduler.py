"""What to run next: pure decisions over request slots. Knows neither weights nor clocks nor threads.

A slot is a running or waiting request, seen only as the number of tokens that must still go through the model before
its next token can be drawn (the prompt at first, forced tokens later). Slots are admitted first come, first served;
each step prefills one chunk of the oldest slot that needs it and decodes every slot that is ready, so that a long
prompt never holds running streams back for longer than one chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Slot(Protocol):
    """What the scheduler needs to know of a request."""

    @property
    def pending(self) -> int:
        """Tokens to feed before the next one can be drawn; 0 when the slot is ready to decode."""
        ...


S = TypeVar("S", bound=Slot)


@dataclass(frozen=True, slots=True)
class Plan(Generic[S]):
    """One step of the engine: at most one chunk of prefill, and the slots to decode."""

    prefill: tuple[S, int] | None = None
    decode: tuple[S, ...] = ()

    def __bool__(self) -> bool:
        return self.prefill is not None or bool(self.decode)


@dataclass(slots=True)
class Scheduler(Generic[S]):
    """First come, first served, at most ``max_rows`` at a time, prompts in chunks of ``chunk`` tokens."""

    max_rows: int
    chunk: int
    waiting: deque[S] = field(default_factory=deque)
    running: list[S] = field(default_factory=list)

    def add(self, slot: S) -> None:
        self.waiting.append(slot)

    def remove(self, slot: S) -> None:
        """Forget a slot, wherever it is; what was finished or cancelled frees its row at once."""
        if slot in self.running:
            self.running.remove(slot)
        elif slot in self.waiting:
            self.waiting.remove(slot)

    def plan(self) -> Plan[S]:
        while self.waiting and len(self.running) < self.max_rows:
            self.running.append(self.waiting.popleft())
        prefill = next(((slot, min(slot.pending, self.chunk)) for slot in self.running if slot.pending), None)
        return Plan(prefill, tuple(slot for slot in self.running if not slot.pending))
