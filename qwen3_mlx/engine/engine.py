"""The engine: requests in, typed events out, one token loop.

All MLX work happens on one thread of the engine's own. ``submit`` may be called from any thread; the events of a
request reach its sink in order and end with ``Finished`` or with an exception. A request that fails takes nothing but
itself down.

The loop runs one step ahead: while a token is read and judged by its controller, the device already computes the next
one. When the controller forces or stops, that early draw is thrown away (the cache holds only tokens that were read,
so there is nothing to trim).
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..control.controller import Controller, Emit, Force, Stop, Vocabulary
from ..errors import ContextOverflow, EngineError, InvalidRequest, QwenError
from ..types import Event, Finished, FinishReason, Request
from .row import Clock, Row, Sink, Ticket
from .scheduler import Plan, Scheduler

if TYPE_CHECKING:
    from .runner import Runner

PREFILL_CHUNK = 512


class Engine(Protocol):
    """Turns requests into events; local, remote and scripted engines look the same from outside."""

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request. Raises ``InvalidRequest`` at once when it can never be served."""
        ...

    def close(self) -> None: ...


class LocalEngine:
    """The engine in this process.

    ``make_runner`` is called once, on the engine's thread. ``max_rows`` requests run at a time, the others wait their
    turn. ``context`` bounds prompt and answer together, in tokens.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        vocabulary: Vocabulary,
        *,
        context: int,
        vocab_size: int,
        max_rows: int = 1,
        chunk: int = PREFILL_CHUNK,
        load_s: float = 0.0,
    ) -> None:
        self._make_runner = make_runner
        self._vocabulary = vocabulary
        self._context = context
        self._vocab_size = vocab_size
        self._load_s = load_s
        self._scheduler: Scheduler[Row] = Scheduler(max_rows, chunk)
        self._inbox: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- any thread ----------------------------------------------------------------------------------------------

    def submit(self, request: Request, sink: Sink) -> Ticket:
        self._check(request)
        row = Row(request, Controller(request, self._vocabulary), sink, Clock(time.perf_counter()))
        row.feed = list(request.prompt)
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="qwen3-engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._inbox.put(row)
        return row

    def close(self) -> None:
        """Cancel what runs and end the thread. Safe to call twice, and from a sink."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            self._inbox.put(None)
        if thread is not None:
            atexit.unregister(self.close)
            if thread is not threading.current_thread():
                thread.join()

    def _check(self, request: Request) -> None:
        if not request.prompt:
            raise InvalidRequest("the prompt is empty: there is nothing to answer", param="prompt")
        if len(request.prompt) >= self._context:
            raise ContextOverflow(len(request.prompt), self._context)
        worst = max(request.prompt) if min(request.prompt) >= 0 else min(request.prompt)
        if not 0 <= worst < self._vocab_size:
            raise InvalidRequest(f"token id {worst} is outside the vocabulary of {self._vocab_size:,}", param="prompt")

    # -- the engine's thread -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._runner = self._make_runner()
        except Exception as error:
            self._refuse_all(error)
            return
        while self._receive():
            plan = self._scheduler.plan()
            self._run(plan)
            self._sweep()
        for row in [*self._scheduler.running, *self._scheduler.waiting]:
            self._end(row, "cancelled")

    def _refuse_all(self, error: Exception) -> None:
        while (row := self._inbox.get()) is not None:
            self._fail(row, error)

    def _receive(self) -> bool:
        """Take in new rows; waits for one when there is nothing to run. False when the engine closes."""
        idle = not self._scheduler.running and not self._scheduler.waiting
        while idle or not self._inbox.empty():
            row = self._inbox.get()
            if row is None:
                return False
            self._scheduler.add(row)
            idle = False
        return True

    def _run(self, plan: Plan[Row]) -> None:
        for row in plan.decode:
            self._guard(row, self._decode)
        if plan.prefill is not None:
            row, count = plan.prefill
            self._guard(row, lambda row: self._prefill(row, count))

    def _guard(self, row: Row, work: Callable[[Row], None]) -> None:
        if row.cancelled:
            row.closing = "cancelled"
        if row.closing is not None:
            return
        try:
            work(row)
        except Exception as error:  # whatever it is, it is this row's own
            self._fail(row, error)

    def _prefill(self, row: Row, count: int) -> None:
        if row.cache is None:
            row.clock.started = time.perf_counter()
            self._runner.start(row)
            self._apply(row, row.controller.start())
        self._runner.prefill(row, count)

    def _decode(self, row: Row) -> None:
        drawn = row.ahead
        assert drawn is not None and row.cache is not None
        full = row.cache.offset >= self._context
        if full:
            row.ahead = None
        else:
            self._runner.decode(row)
        token, logprob = self._runner.read(drawn)
        row.clock.last = time.perf_counter()
        row.clock.first = row.clock.first or row.clock.last
        row.sampled += 1
        self._apply(row, row.controller.step(token, logprob))
        if full and row.closing is None:
            row.closing = "length"

    def _apply(self, row: Row, outcome: Emit | Force | Stop) -> None:
        for event in outcome.events:
            row.send(event)
        if isinstance(outcome, Force):
            self._runner.force(row, outcome.tokens)
            assert row.cache is not None
            if row.cache.offset + row.pending >= self._context:
                row.closing = "length"
        elif isinstance(outcome, Stop):
            self._finish(row, outcome.reason)

    def _sweep(self) -> None:
        """End the rows that a bound or a cancellation closes, wherever they are."""
        for row in [*self._scheduler.running, *self._scheduler.waiting]:
            if row.cancelled:
                row.closing = "cancelled"
            if row.closing is not None:
                self._end(row, row.closing)

    def _end(self, row: Row, reason: FinishReason) -> None:
        """Release what the controller still holds back, then finish."""
        try:
            events: tuple[Event, ...] = row.controller.finish(reason)
        except Exception as error:
            self._fail(row, error)
            return
        for event in events:
            row.send(event)
        self._finish(row, reason)

    def _finish(self, row: Row, reason: FinishReason) -> None:
        prompt_tokens = len(row.request.prompt)
        usage = row.controller.usage(prompt_tokens, 0)
        self._scheduler.remove(row)
        row.cache = row.ahead = None
        row.send(Finished(reason, usage, row.clock.timings(self._load_s, prompt_tokens, row.sampled)))

    def _fail(self, row: Row, error: Exception) -> None:
        self._scheduler.remove(row)
        row.cache = row.ahead = None
        if not isinstance(error, QwenError):
            wrapped = EngineError(f"generation failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        row.send(error)
