"""The engine: requests in, typed events out.

All MLX work happens on one thread of the engine's own, in one token loop. ``submit`` may be called from any thread; the
events of a request reach its sink in order and end with ``Finished`` or with an exception. A request that fails takes
nothing but itself down.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

from ..control.budget import EARLY_STOP, GRACE, OPENING_NEWLINE
from ..control.controller import Controller, Vocabulary
from ..errors import ContextOverflow, EngineError, InvalidRequest
from ..types import Request
from .loop import TokenLoop
from .memory import Memory
from .pace import Pace
from .row import Clock, Row, Sink, Ticket
from .scheduler import Scheduler
from .warmup import Expected

if TYPE_CHECKING:
    from .runner import Runner

PREFILL_CHUNK = 512  # tokens
STALL = 0.25  # seconds


class Engine(Protocol):
    """Turns requests into events; local, remote and scripted engines look the same from outside."""

    def submit(self, request: Request, sink: Sink) -> Ticket:
        """Queue a request. Raises ``InvalidRequest`` at once when it can never be served."""
        ...

    def expect(self, prompt: Expected) -> None:
        """Compute a prompt when there is nothing else to do, for a request that will begin with it. What it is, is
        asked only then; it may fail. Does nothing when the engine is closed."""
        ...

    def close(self) -> None:
        """Cancel what runs and let go of everything. Nothing can be submitted afterwards."""
        ...


class LocalEngine:
    """The engine in this process.

    ``runner`` is only ever used on the engine's own thread. ``max_rows`` requests run at a time, the others wait their
    turn. ``context`` bounds prompt and answer together, in tokens. A step prefills ``chunk`` tokens at most, and fewer
    where two tokens of a running stream would otherwise be more than ``stall`` seconds apart. The thread starts with
    the first request and ends with ``close``, with the engine's last reference, or with the interpreter.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        *,
        context: int,
        vocab_size: int,
        max_rows: int = 1,
        chunk: int = PREFILL_CHUNK,
        stall: float = STALL,
        pace: Pace | None = None,
        memory: Memory | None = None,
        load_s: float = 0.0,
    ) -> None:
        self._vocabulary = vocabulary
        self._context = context
        self._vocab_size = vocab_size
        self._memory = memory
        scheduler: Scheduler[Row] = Scheduler(max_rows, chunk, stall)
        self._loop: TokenLoop | None = TokenLoop(runner, scheduler, context, load_s, pace, memory)
        self._lock = threading.Lock()
        self._stop: weakref.finalize[[TokenLoop, threading.Thread], LocalEngine] | None = None

    def submit(self, request: Request, sink: Sink) -> Ticket:
        request = self._fit(self._check(request))
        controller = Controller(self._within(request), self._vocabulary)
        row = Row(request, controller, sink, Clock(time.perf_counter()))
        row.tokens = [*request.prompt, *(token for token, _ in request.generated)]
        row.feed, row.bound = list(row.tokens), self._bound(request)
        if self._memory is not None:
            self._memory.check(row)
        with self._lock:
            if self._loop is None:
                raise EngineError("the engine is closed: load the model again")
            self._serving(self._loop).put(row)
        return row

    def expect(self, prompt: Expected) -> None:
        with self._lock:
            if self._loop is not None:
                self._serving(self._loop).put(partial(_checked, prompt, self._vocab_size, self._context))

    def _serving(self, loop: TokenLoop) -> queue.SimpleQueue[Row | Expected | None]:
        """The inbox of the loop, which runs from now on."""
        if self._stop is None:
            thread = threading.Thread(target=loop.serve, name="qwen3-engine", daemon=True)
            thread.start()
            self._stop = weakref.finalize(self, _stop, loop, thread)
        return loop.inbox

    def close(self) -> None:
        with self._lock:
            self._loop = None
            stop = self._stop
        if stop is not None:
            stop()

    def _check(self, request: Request) -> Request:
        if not request.prompt:
            raise InvalidRequest("the prompt is empty: there is nothing to answer", param="prompt")
        length = len(request.prompt) + len(request.generated)
        if length >= self._context:
            raise ContextOverflow(length, self._context, "prompt" if request.raw else "messages")
        ids = [*request.prompt, *(token for token, _ in request.generated)]
        worst = max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < self._vocab_size:
            raise InvalidRequest(f"token id {worst} is outside the vocabulary of {self._vocab_size:,}", param="prompt")
        return request

    def _bound(self, request: Request) -> int:
        """Tokens that prompt and answer cannot outgrow."""
        bounds = (self._context, self._most(request), request.max_completion_tokens)
        length = len(request.prompt) + len(request.generated)
        return min(self._context, length + min(bound for bound in bounds if bound is not None))

    def _within(self, request: Request) -> Request:
        """The request with a bound that the context sets: what a grammar forces at once is not to go beyond either."""
        room = self._context + 1 - len(request.prompt)  # the last token is drawn from a full context
        bound = request.max_completion_tokens
        return replace(request, max_completion_tokens=room if bound is None else min(bound, room))

    def _most(self, request: Request) -> int | None:
        """Tokens that ``max_tokens`` leaves the answer, its thought included."""
        if (most := request.params.max_tokens) is None:
            return None
        if request.thinking_budget is not None and (request.thinking or request.in_thinking):
            most += request.thinking_budget + self._forced + GRACE + 2
        return most

    @cached_property
    def _forced(self) -> int:
        """Tokens that close a thought."""
        return len(self._vocabulary.encode(OPENING_NEWLINE + EARLY_STOP))

    def _fit(self, request: Request) -> Request:
        """The request with a thinking budget after which the forced close and an answer's first token still fit."""
        if request.thinking_budget is None or not (request.thinking or request.in_thinking):
            return request
        forced = self._forced
        room = self._context - len(request.prompt) - forced - GRACE - 2  # the tag, and the answer's token
        if room < 0:
            raise ContextOverflow(len(request.prompt) + forced + GRACE + 2, self._context)
        return replace(request, thinking_budget=min(request.thinking_budget, room))


def _checked(prompt: Expected, vocab_size: int, context: int) -> Sequence[int]:
    tokens = prompt()
    if not tokens or min(tokens) < 0 or max(tokens) >= vocab_size or len(tokens) >= context:
        raise InvalidRequest("no prompt of this model", param="prompt")
    return tokens


def _stop(loop: TokenLoop, thread: threading.Thread) -> None:
    loop.inbox.put(None)
    if thread is not threading.current_thread():
        thread.join()
