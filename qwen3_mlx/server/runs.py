"""One HTTP request's choices on their way through the engine: submitted, followed, cancelled, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import QwenError
from ..types import Event, Finished, Request
from .errors import ApiError, busy
from .inbox import Inbox, Item, Mailroom, Signal
from .slots import Slots

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.row import Ticket
    from ..engine.streams import Then

Prepared = Sequence[tuple[Request, "Then | None"]]


class ClientGone(QwenError):
    """Nobody waits for the answer any more."""

    http_status = 499


class _Cancelled(QwenError):
    """A run was cancelled while its requests were made."""

    http_status = 503


class Run:
    """``count`` choices in the engine. Takes its slots at once (ApiError if there are none), and each is free again
    when the engine has let go of the choice.

    ``events``: all of each choice so far; ``requests``: what the engine was asked for.
    """

    def __init__(self, mailroom: Mailroom, slots: Slots, count: int) -> None:
        slots.take(count)
        self.count = count
        self.open = count
        self.events: list[list[Event]] = [[] for _ in range(count)]
        self.requests: list[Request] = []
        self._slots = slots
        self._inbox = Inbox(mailroom, lambda item: slots.release())
        self._tickets: list[Ticket] = []
        self._then: list[Then | None] = []
        self._cancelled = False
        self._ended: Exception | None = None  # what a signal means to the client
        self._error: Exception | None = None

    async def start(self, engine: Engine, prepare: Callable[[], Prepared]) -> None:
        """Prepares the requests and hands them to the engine, on a thread of its own: a long prompt or a grammar takes
        its time. Raises what either raises."""
        try:
            await asyncio.to_thread(self._submit, engine, prepare)
        except BaseException as error:
            self._slots.release(self.count - len(self._tickets))
            self.cancel()
            if isinstance(error, _Cancelled) and self._ended is not None:
                raise self._ended from None
            raise

    def _submit(self, engine: Engine, prepare: Callable[[], Prepared]) -> None:
        for index, (request, then) in enumerate(prepare()):
            if self._cancelled:
                raise _Cancelled("cancelled before it could start")
            self.requests.append(request)
            self._then.append(then)
            self._tickets.append(engine.submit(request, self._inbox.sink(index)))
        if self._cancelled:  # between the last look and the last ticket
            self.cancel()

    def signal(self, signal: Signal) -> None:
        """Tells the run of something that ends it, or that nothing has come for a while."""
        if signal is not Signal.QUIET:
            self._ended = self._ended or self._problem(signal)
            self.cancel()
        self._inbox.put(signal)

    def cancel(self) -> None:
        """Has the engine let go of everything."""
        self._cancelled = True
        for ticket in list(self._tickets):
            ticket.cancel()

    async def more(self) -> list[tuple[int, Event]]:
        """The events that have come, at least one but after ``Signal.QUIET``. Raises what ended the request early, when
        all that came before has been returned."""
        if self._error is not None:
            raise self._error
        events: list[tuple[int, Event]] = []
        for item in await self._inbox.take():
            self._error = self._error or self._problem(item)
            if self._error is None and isinstance(item, Item):
                assert not isinstance(item.event, Exception)
                events.append((item.choice, item.event))
                self._note(item.choice, item.event)
        if self._error is not None:
            self.cancel()
            if not events:
                raise self._error
        return events

    def _note(self, index: int, event: Event) -> None:
        events = self.events[index]
        events.append(event)
        if isinstance(event, Finished):
            self.open -= 1
            if (then := self._then[index]) is not None:
                then(events)

    def _problem(self, item: Item | Signal) -> Exception | None:
        match item:
            case Signal.GONE:
                return ClientGone("the client has gone")
            case Signal.LATE:
                return ApiError(504, "the answer took longer than this server allows: ask for less", code="deadline")
            case Signal.CLOSING:
                return busy("the server is shutting down", 5, 503, "shutting_down")
            case Item(event=Exception() as error):
                return error
            case Item(event=Finished(finish_reason="cancelled")):
                return busy("the engine was closed", 5, 503, "shutting_down")
        return None

    @property
    def finished(self) -> list[Finished]:
        """The last event of each choice that has come to its end."""
        return [event for events in self.events for event in events[-1:] if isinstance(event, Finished)]


def choices_of(request: Request, count: int, seed: int) -> list[Request]:
    """``count`` requests that differ in their seeds only: ``seed`` and those behind it."""
    return [replace(request, params=replace(request.params, seed=(seed + i) % 2**64)) for i in range(count)]
