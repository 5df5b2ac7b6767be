"""From the engine's thread to the event loop: many events, one wakeup.

The engine sends a token for every row of a step at once. What it sends until the loop gets to it is handed over
together, so a step costs one wakeup and not one for every stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from ..types import Event, Finished


class Signal(Enum):
    """What may happen to a request besides its events."""

    GONE = "the client has gone"
    LATE = "its time is over"
    CLOSING = "the server shuts down"
    QUIET = "nothing has come for a while"


class Item(NamedTuple):
    """An event of a choice, known by its index, or the error that ended it."""

    choice: int
    event: Event | Exception

    @property
    def last(self) -> bool:
        return isinstance(self.event, Finished | Exception)


class Mailroom:
    """Hands events from other threads over to the inboxes of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Inbox, Item]] = deque()
        self._woken = False

    def post(self, inbox: Inbox, item: Item) -> None:
        """To be called on any thread."""
        self._waiting.append((inbox, item))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads this any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # first: what comes from here on wakes the loop again, if only for nothing
        waiting = self._waiting
        while waiting:
            inbox, item = waiting.popleft()
            inbox.put(item)


class Inbox:
    """What has come for one request. Everything but ``Mailroom.post`` happens on the event loop.

    ``on_end`` is called once for every choice, when the engine has let go of it, also if nobody listens any more.
    """

    def __init__(self, mailroom: Mailroom, on_end: Callable[[Item], None]) -> None:
        self._mailroom = mailroom
        self._on_end = on_end
        self._items: list[Item | Signal] = []
        self._waiter: asyncio.Future[None] | None = None

    def sink(self, index: int) -> Callable[[Event | Exception], None]:
        """Where the engine sends the events of choice ``index``."""
        post = self._mailroom.post
        return lambda event: post(self, Item(index, event))

    def put(self, item: Item | Signal) -> None:
        if isinstance(item, Item) and item.last:
            self._on_end(item)
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Item | Signal]:
        """All that has come; waits until there is something."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, self._items = self._items, []
        return items
