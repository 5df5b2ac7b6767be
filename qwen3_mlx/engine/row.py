"""One request on its way through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from ..types import Event, FinishReason, Request, Timings, TokenLogprob

if TYPE_CHECKING:
    from ..cache.kv import KVCache
    from ..control.controller import Controller
    from ..sampling import SampleOut, Sampler, SamplerState

Sink = Callable[["Event | Exception"], object]
"""Where a request's events go: called on the engine's thread, never blocks. An exception is its last."""


class Ticket(Protocol):
    """What ``submit`` returns: a way to stop the request. Safe to call from any thread, any number of times."""

    def cancel(self) -> None: ...


@dataclass(eq=False, repr=False, slots=True)
class Clock:
    """Moments of a request's life, in seconds of ``time.perf_counter``."""

    submitted: float
    started: float = 0.0
    first: float = 0.0
    last: float = 0.0

    def timings(self, load_s: float, computed: int, sampled_tokens: int) -> Timings:
        """``computed``: the tokens of the prompt that went through the model."""
        prefill = self.first - self.started
        decode = self.last - self.first
        return Timings(
            load_s=load_s,
            queued_s=max(self.started - self.submitted, 0.0) if self.started else 0.0,
            ttft_s=max(self.first - self.submitted, 0.0) if self.first else 0.0,
            prefill_tps=computed / prefill if self.first and prefill > 0 else 0.0,
            decode_tps=(sampled_tokens - 1) / decode if decode > 0 and sampled_tokens > 1 else 0.0,
        )


@dataclass(eq=False, repr=False, slots=True)
class Row:
    """A request with its controller and its place in the token loop.

    ``feed`` holds the tokens that must go through the model before the next one can be drawn. While they do, the row
    has a cache and a sampler's state of its own, and at their end ``ahead``, a token drawn on the device and not yet
    read. Then it takes a ``place`` in the batch, which holds all three from there on. ``held``: the tokens in its
    cache, wherever that is: the first of ``tokens``, the prompt and what was generated; ``cached`` of them were
    found there and not computed. ``drawn``: what was drawn, with what is reported of it; ``closed``: how much of that
    there was when the thought was closed by force. ``mask``: what its controller allows the next token to be;
    ``bound``: tokens that it cannot outgrow. ``scores``: log-probabilities of the prompt's tokens but the first, where
    they are wanted; ``echoed``: whether the prompt was sent back.
    """

    request: Request
    controller: Controller
    sink: Sink
    clock: Clock = field(default_factory=lambda: Clock(time.perf_counter()))
    feed: list[int] = field(default_factory=list)
    cache: KVCache | None = None
    sampler: Sampler | None = None
    state: SamplerState | None = None
    ahead: SampleOut | None = None
    seed: int = 0
    place: int | None = None
    tokens: list[int] = field(default_factory=list)
    held: int = 0
    cached: int = 0
    drawn: list[tuple[int, TokenLogprob | None]] = field(default_factory=list)
    closed: int | None = None
    bound: int = 0
    mask: bytes | None = None
    scores: list[TokenLogprob] = field(default_factory=list)
    echoed: bool = False
    sampled: int = 0
    cancelled: bool = False
    ended: bool = False
    closing: FinishReason | None = None

    @property
    def pending(self) -> int:
        return len(self.feed)

    @property
    def length(self) -> int:
        """Tokens in the cache, or about to be fed to it."""
        return self.held + len(self.feed)

    @property
    def prompt(self) -> int:
        """Tokens that the request came with."""
        return len(self.request.prompt) + len(self.request.generated)

    def cancel(self) -> None:
        self.cancelled = True

    @property
    def resume(self) -> Request | None:
        """The request that goes on where the thought was closed by force; its budget is the one that was spent."""
        if self.closed is None:
            return None
        params = replace(self.request.params, seed=self.seed)
        return replace(self.request, params=params, generated=tuple(self.drawn[: self.closed]))

    def send(self, event: Event | Exception) -> None:
        """Deliver; a consumer that breaks loses its own request and nothing else."""
        try:
            self.sink(event)
        except Exception:
            self.cancelled = True
