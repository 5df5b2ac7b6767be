"""A model that is a plain function of the tokens before, run in the runner's place: what the loop feeds is checked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qwen3_mlx.control.controller import Controller, Force, Stop
from qwen3_mlx.engine.memory import Held
from qwen3_mlx.engine.row import Row
from qwen3_mlx.types import Event, Finished, Request
from tests.control.toys import EOS, THINK_CLOSE, THINK_OPEN, ToyVocabulary

Next = Callable[[Sequence[int]], int]


def babble(tokens: Sequence[int]) -> int:
    """Letters, now and then a control token: any difference in what came before changes what follows."""
    digest = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=2).digest()
    if digest[0] < 10:
        return (EOS, THINK_OPEN, THINK_CLOSE)[digest[1] % 3]
    return 97 + digest[1] % 26


def allowed(token: int, mask: bytes | None) -> int:
    """The token, or the one in its place that ``mask`` allows."""
    if mask is None or mask[token >> 3] >> (token & 7) & 1:
        return token
    options = [i for i in range(len(mask) * 8) if mask[i >> 3] >> (i & 7) & 1]
    return options[token % len(options)]


def naive(request: Request, model: Next, context: int) -> tuple[list[Event], list[int]]:
    """The reference: no look-ahead, no threads. Returns the events and every token that went through the model."""
    controller = Controller(request, ToyVocabulary(), new_id=lambda: "call")
    sequence, events = list(request.prompt), []
    outcome: Any = controller.start()
    while True:
        events += outcome.events
        if isinstance(outcome, Stop):
            reason = outcome.reason
            break
        if isinstance(outcome, Force):
            sequence += outcome.tokens
            if len(sequence) >= context:
                reason = "length"
                break
        elif len(sequence) > context:
            reason = "length"
            break
        token = allowed(model(sequence), controller.mask())
        outcome = controller.step(token)
        sequence.append(token)
    events += controller.finish(reason)
    return [*events, Finished(reason, controller.usage(len(request.prompt), 0))], sequence


@dataclass(eq=False)
class ToyCache:
    tokens: list[int] = field(default_factory=list)

    @property
    def offset(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class ToyDraw:
    token: int
    before: int


class ToyRunner:
    """Records threads and every call; ``fails_at`` raises when the cache has grown to that length."""

    def __init__(self, model: Next, *, fails_at: int | None = None, gate: threading.Semaphore | None = None) -> None:
        self.model = model
        self.fails_at = fails_at
        self.gate = gate
        self.threads: set[int] = set()
        self._fed: list[tuple[float, list[int]]] = []
        self.chunks: list[int] = []
        self.rows: list[Row] = []
        self.joined: set[Row] = set()
        self.together: list[int] = []
        self.drawing: list[Row] = []

    @property
    def fed(self) -> list[list[int]]:
        """What each request has been fed, in the order in which they were submitted."""
        return [tokens for _, tokens in sorted(self._fed, key=lambda one: one[0])]

    full: ClassVar[list[Row]] = []
    leaving: ClassVar[Held] = []

    def hand_out(self, *, keep: bool) -> None:
        """Rows have left when they were forced."""

    def pack(self) -> bool:
        return False

    def held(self, running: Sequence[Row]) -> Held:
        return [256 for _ in running]

    def start(self, row: Row) -> None:
        cache: Any = ToyCache()
        self._fed.append((row.clock.submitted, cache.tokens))
        row.cache = cache
        row.state = 0  # type: ignore[assignment]

    def prefill(self, row: Row, count: int) -> None:
        self.chunks.append(count)
        tokens, row.feed = row.feed[:count], row.feed[count:]
        self._forward(row, tokens, draw=not row.feed)

    def join(self, rows: Sequence[Row]) -> None:
        for row in rows:
            assert row.place is None and row.ahead is not None and not row.feed
            self.joined.add(row)
            row.place = 1 + max((other.place or 0 for other in self.rows), default=0)
            self.rows.append(row)

    def step(self) -> list[tuple[Row, Any]]:
        unread = [(row, row.ahead) for row in self.rows]
        self.together.append(len(self.rows))
        waits = any(row.controller.constrained for row in self.rows)
        for row, ahead in unread:
            self._forward(row, [ahead.token], draw=not waits)  # type: ignore[union-attr]
        self.drawing = list(self.rows) if waits else []
        fresh, self.joined = self.joined, set()
        return [(row, ahead) for row, ahead in unread if row not in fresh]  # whose token was read before they joined

    def first(self, row: Row) -> tuple[int, None]:
        ahead: Any = row.ahead
        return ahead.token, None

    def draw(self) -> None:
        for row in self.drawing:
            if row in self.rows:
                self._draw(row)
        self.drawing = []

    def read(self, unread: list[tuple[Row, Any]]) -> list[tuple[Row, tuple[int, None]]]:
        return [(row, (ahead.token, None)) for row, ahead in unread]

    def end(self) -> None:
        pass

    def leave(self, row: Row, *, keep: bool) -> None:
        if row.place is not None:
            self.rows.remove(row)
            row.place = None
        row.cache = row.ahead = None

    def force(self, row: Row, tokens: tuple[int, ...]) -> None:
        joined = row.place is not None
        if joined:
            self.rows.remove(row)
            row.place = None
        ahead: Any = row.ahead
        if ahead is not None and joined:
            row.state = ahead.before
        elif ahead is not None:
            row.feed.append(row.tokens[-1])
        row.ahead = None
        row.feed.extend(tokens)
        row.tokens.extend(tokens)
        row.state += len(tokens)  # type: ignore[operator,assignment]

    def _forward(self, row: Row, tokens: list[int], *, draw: bool) -> None:
        if self.gate is not None:
            self.gate.acquire()
        self.threads.add(threading.get_ident())
        cache: Any = row.cache
        cache.tokens.extend(tokens)
        row.held += len(tokens)
        if self.fails_at is not None and len(cache.tokens) >= self.fails_at:
            raise RuntimeError("out of memory")
        row.ahead = None
        if draw:
            self._draw(row)

    def _draw(self, row: Row) -> None:
        cache: Any = row.cache
        state: Any = row.state
        assert len(cache.tokens) == len(row.request.prompt) + state, "a discarded draw must leave no trace"
        ahead: Any = ToyDraw(allowed(self.model(list(cache.tokens)), row.mask), state)
        row.ahead = ahead
        row.state = state + 1
