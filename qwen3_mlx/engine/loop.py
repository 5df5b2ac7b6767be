"""The token loop: schedule, run, sweep. Lives on the engine's thread and nowhere else.

It runs one step ahead: while a token is read and judged by its controller, the device already computes the next one.
When the controller forces or stops, that early draw is thrown away (the cache holds only tokens that were read, so
there is nothing to trim). Rows that are ready take their steps together, one token each. Where one of them follows a
grammar, its next token can only be drawn when the last one has been judged: the forward pass runs meanwhile.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..control.controller import Emit, Force, Stop
from ..errors import EngineError, InvalidRequest, MemoryLimit, QwenError
from ..types import Event, Finished, FinishReason
from .memory import Memory, planned, ran_out
from .pace import Pace
from .row import Row
from .scheduler import Plan, Scheduler
from .warmup import Expected, Warmup

if TYPE_CHECKING:
    from .runner import Read, Runner


class TokenLoop:
    """Takes rows from ``inbox`` and plays them to their end; ``None`` in the inbox ends the loop. When there is nothing
    to play, it computes prompts that are expected.

    ``context`` bounds prompt and answer of a row together, in tokens; ``pace`` learns what passes take,
    ``memory`` says who may run in what there is.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler[Row],
        context: int,
        load_s: float,
        pace: Pace | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.inbox: queue.SimpleQueue[Row | Expected | None] = queue.SimpleQueue()
        self._runner = runner
        self._scheduler = scheduler
        self._context = context
        self._load_s = load_s
        self._pace = pace or Pace()
        self._memory = memory
        self._keeping = True
        self._leaving = False  # rows that took the last step were forced, and leave the batch to be fed
        if memory is not None:
            scheduler.admits = partial(self._admits, memory)
        self._warmup = Warmup(runner) if memory is None else Warmup(runner, memory.alone)

    def serve(self) -> None:
        while self._receive():
            try:
                self._turn()
            except Exception as error:  # unforeseen: nobody may wait for an answer for ever
                for row in [*self._scheduler.running, *self._scheduler.waiting]:
                    self._fail(row, error)
        self._keeping = False  # there is no next one
        for row in [*self._scheduler.running, *self._scheduler.waiting]:
            self._end(row, row.closing or "cancelled")
        self._runner.end()

    def _turn(self) -> None:
        self._sweep()
        plan = self._scheduler.plan(self._pace)
        if plan.decode or plan.prefill:
            self._run(plan)
        elif self._warmup:
            self._warmup.step()

    def _admits(self, memory: Memory, row: Row) -> bool:
        running = self._scheduler.running
        admitted = memory.admits(row, self._runner.held(running))
        if not admitted and self._runner.pack():
            admitted = memory.admits(row, self._runner.held(running))
        self._scheduler.chunk = memory.chunk
        return admitted

    def _grow(self, memory: Memory) -> None:
        """Have room for the next step; of the rows that need it, the longest ends where there is none."""
        while rows := self._runner.full:
            others = [row for row in self._scheduler.running if row not in rows]
            if positions := memory.grow(rows, self._runner.held(others)):
                self._scheduler.chunk = memory.chunk
                self._runner.grow(rows, positions)
            elif not self._runner.pack():
                row = max(rows, key=lambda row: row.length)
                self._fail(row, memory.outgrown(row))

    def _receive(self) -> bool:
        """Take in new rows; waits for one when there is nothing to do. False when the engine closes."""
        idle = not (self._scheduler.running or self._scheduler.waiting or self._warmup)
        while idle or not self.inbox.empty():
            item = self.inbox.get()
            if item is None:
                return False
            if isinstance(item, Row):
                if not self._scheduler.running:
                    self._pace.begin(time.perf_counter())
                self._warmup.pause()
                self._scheduler.add(item)
            else:
                self._warmup.add(item)
            idle = False
        return True

    def _run(self, plan: Plan[Row]) -> None:
        if plan.decode:
            self._step(plan.decode)
        for row, count in plan.prefill:
            self._guard(row, self._prefill, count)
        if plan.prefill and not plan.decode and plan.prefill[-1][0].pending:
            self._pace.done(time.perf_counter())  # all but the last chunk of a prompt is waited for

    def _guard(self, row: Row, work: Callable[..., None], *given: Any) -> None:
        if row.closing is not None:
            return
        try:
            work(row, *given)
        except Exception as error:  # whatever it is, it is this row's own
            self._fail(row, error)

    def _prefill(self, row: Row, count: int) -> None:
        if row.cache is None:
            row.clock.started = time.perf_counter()
            self._runner.start(row)
            self._apply(row, row.controller.start())
            if row.cache is None:  # an answer that leaves no choice at all, or is cut off in front
                return
            for token, logprob in row.request.generated:
                if row.closed is not None:
                    raise InvalidRequest(
                        f"a thinking_budget of {row.request.thinking_budget} is spent already by the thought so far:"
                        " give more than the last time",
                        param="thinking_budget",
                    )
                row.drawn.append((token, logprob))
                self._apply(row, row.controller.step(token, logprob))
                if row.ended:
                    return
        held = row.held
        self._runner.prefill(row, count)
        self._pace.fed(row.held - held, held)
        if row.request.echo and not row.echoed and not row.pending:
            row.echoed = True
            row.send(row.controller.echo(row.scores))

    def _step(self, rows: tuple[Row, ...]) -> None:
        """The next step of all rows, and what their last one has drawn. A row's first token does not wait for it."""
        full = {row for row in rows if row.held >= self._context}
        new = [row for row in rows if row.place is None]
        for row in new:
            self._guard(row, self._first)
        try:
            if new:
                self._runner.join([row for row in new if row.ahead is not None and row not in full])
            if self._memory is not None:
                self._grow(self._memory)
            drawn = self._runner.read(self._runner.step())
        except Exception as error:  # it is the step's, and so of every row in it
            for row in rows:
                if row.place is not None or row.ahead is not None:
                    self._fail(row, error)
            return
        self._pace.done(time.perf_counter())
        if any([row.place is not None for row in self._scheduler.running]):
            self._pace.stepped()
        for row, result in drawn:
            self._guard(row, self._judge, result)
        for row in full:
            row.closing = row.closing or "length"
        try:
            if any([row.controller.constrained for row in rows]):
                self._runner.draw()
            if self._leaving:
                self._hand_out()
        except Exception as error:
            for row in rows:
                if row.place is not None:
                    self._fail(row, error)

    def _hand_out(self) -> None:
        """Take the rows to be fed out of the batch, in no more memory than was asked for unless it is free."""
        self._leaving = False
        held = [*self._runner.held(self._scheduler.running), *self._runner.leaving]
        self._runner.hand_out(keep=self._memory is None or self._memory.spares(held))

    def _first(self, row: Row) -> None:
        self._judge(row, self._runner.first(row))

    def _judge(self, row: Row, result: Read | EngineError) -> None:
        if isinstance(result, EngineError):
            raise result
        row.clock.last = time.perf_counter()
        row.clock.first = row.clock.first or row.clock.last
        row.sampled += 1
        row.tokens.append(result[0])
        row.drawn.append(result)
        self._apply(row, row.controller.step(*result))

    def _apply(self, row: Row, outcome: Emit | Force | Stop) -> None:
        for event in outcome.events:
            row.send(event)
        if isinstance(outcome, Force):
            if row.closed is None and row.controller.usage(0, 0).budget_exhausted:
                row.closed = len(row.drawn)
            before = planned(row)
            self._leaving = self._leaving or row.place is not None
            self._runner.force(row, outcome.tokens)
            if self._memory is not None and planned(row) > before:  # a grammar may leave no choice in thousands
                others = [other for other in self._scheduler.running if other is not row]
                if not self._memory.grow([row], self._runner.held(others)):
                    raise self._memory.outgrown(row)
            if row.held + row.pending >= self._context:
                row.closing = "length"
        if isinstance(outcome, Stop):
            self._finish(row, outcome.reason)
        elif row.controller.constrained:
            row.mask = row.controller.mask()

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
        if row.ended:
            return
        row.ended = True
        prompt_tokens = len(row.request.prompt)
        usage = row.controller.usage(prompt_tokens, min(row.cached, prompt_tokens))
        self._leave(row, keep=self._keeping)
        timings = row.clock.timings(self._load_s, row.prompt - row.cached, row.sampled)
        row.send(Finished(reason, usage, timings, row.resume))

    def _fail(self, row: Row, error: Exception) -> None:
        if row.ended:
            return
        row.ended = True
        self._leave(row, keep=False)
        if ran_out(error):
            error = MemoryLimit(f"the device has run out of memory: {error}")
        if not isinstance(error, QwenError):
            wrapped = EngineError(f"generation failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        row.send(error)

    def _leave(self, row: Row, *, keep: bool) -> None:
        self._scheduler.remove(row)
        self._runner.leave(row, keep=keep)
        if self._memory is not None:
            self._memory.settle(self._runner.held(self._scheduler.running))
            self._scheduler.chunk = self._memory.chunk
