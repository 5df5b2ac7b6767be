"""A request's events as an iterator, for threads and for asyncio; works on any ``Engine``."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable, Sequence

from ..types import Event, Finished, Request
from .engine import Engine

Then = Callable[[Sequence[Event]], None]
"""Told all events of a request that has come to its end, just before its reader gets the last one."""


class EventStream:
    """Iterates over a request's events. Closing it, or dropping it, cancels what is still running."""

    def __init__(self, engine: Engine, request: Request, then: Then | None = None) -> None:
        self._then, self._seen = then, list[Event]()
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._ended = False
        self._engine = engine  # which ends with its last reference
        self._ticket = engine.submit(request, self._events.put)

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        event = self._events.get()
        if isinstance(event, Exception):
            self._ended = True
            raise event
        self._ended = isinstance(event, Finished)
        if self._then is not None:
            self._seen.append(event)
            if self._ended:
                self._then(self._seen)
                self._then = None  # what it holds is not needed again
        return event

    def cancel(self) -> None:
        """Stop generating; what is iterated on ends with ``Finished("cancelled")``."""
        self._ticket.cancel()

    def close(self) -> None:
        """Stop generating and iterating."""
        self._ended = True
        self._ticket.cancel()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_ticket"):
            self._ticket.cancel()


async def astream(engine: Engine, request: Request, then: Then | None = None) -> AsyncIterator[Event]:
    """The same for asyncio: closing the iterator, or cancelling the task, cancels the request."""
    import asyncio

    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | Exception] = asyncio.Queue()
    ticket = engine.submit(request, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
    seen: list[Event] = []
    try:
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            if then is not None:
                seen.append(event)
                if isinstance(event, Finished):
                    then(seen)
            yield event
            if isinstance(event, Finished):
                return
    finally:
        ticket.cancel()
