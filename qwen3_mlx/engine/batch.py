"""The rows that decode together, one token of each a step.

A row joins with a cache of its own, filled by its prefill, which is copied into the batch's; the first row's cache *is*
the batch's, so a row alone is never copied. A place that a row has left stays in the batch, computed for nothing,
until the next row takes it or it is worth copying the others together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..cache.kv import KVCache
from ..model.qwen3 import Qwen3 as Model
from ..sampling import SampleOut, Sampler, SamplerState
from ..types import SamplingParams
from .row import Row
from .step import DecodeStep

# Bytes of keys and values that are copied without a thought when rows have left.
CHEAP = 64 << 20


@dataclass(frozen=True, slots=True)
class Unread:
    """A token drawn for a row, on the device."""

    row: Row
    out: SampleOut
    index: int


@dataclass(slots=True)
class _Together:
    """What all places of the batch share. ``sampler``: ``None`` when others draw now than last; ``before``: its state
    from before the last step's tokens were drawn, for rows that leave it to be fed. ``logits``: of the last forward
    pass, while nothing has been drawn from them; ``tokens`` are then those it was fed, and ``before`` is ``state``."""

    cache: KVCache
    sampler: Sampler | None
    state: SamplerState
    before: SamplerState
    tokens: mx.array
    logits: mx.array | None = None


class Batch:
    """``rows``: who has which place. Used on the engine's thread only."""

    def __init__(self, model: Model) -> None:
        self.rows: list[Row | None] = []
        self._vocab_size = model.config.vocab_size
        self._decode = DecodeStep(model)
        self._drawing: list[tuple[SamplingParams, int]] = []  # of each place, whoever has it or had it last
        self._together: _Together | None = None
        self._unread: list[Unread] = []

    @property
    def cache(self) -> KVCache | None:
        """Keys and values of all places; ``None`` when there are none."""
        return self._together.cache if self._together is not None else None

    @property
    def longest(self) -> Row | None:
        """The row for which the next step has no room, if there is one."""
        if (cache := self.cache) is None or cache.lengths.most < cache.capacity:
            return None
        return self.rows[cache.lengths.each.index(cache.lengths.most)]

    def join(self, rows: Sequence[Row]) -> None:
        """Take in rows whose prefill has drawn a token, which has been read."""
        if not rows:
            return
        if self._together is None:
            self._adopt(rows[0])
            rows = rows[1:]
        if rows:
            self._place(rows)

    def step(self) -> list[Unread]:
        """Feed the tokens drawn last and start drawing the next, unless a row follows a grammar: then :meth:`draw` does
        when its mask is known. Returns what is still unread of the last."""
        unread, self._unread = self._unread, []
        self._tidy()
        if (t := self._together) is not None:
            t.logits, t.before = self._decode(t.tokens, t.cache), t.state
            rows = [row for row in self.rows if row is not None]
            for row in rows:
                row.held += 1
            if any(row.controller.constrained for row in rows):
                mx.async_eval(t.logits)
            else:
                self.draw()
        return unread

    def draw(self) -> None:
        """Start drawing from the last forward pass, if that has not been done."""
        t = self._together
        if t is None or t.logits is None:
            return
        if t.sampler is None:
            params, seeds = zip(*self._drawing, strict=True)
            t.sampler = Sampler(params, seeds, self._vocab_size)
        out, after = t.sampler(t.logits, t.state, [row.mask if row is not None else None for row in self.rows])
        mx.async_eval(out.arrays())
        t.tokens, t.before, t.state, t.logits = out.tokens, t.state, after, None
        self._unread = [Unread(row, out, place) for place, row in enumerate(self.rows) if row is not None]

    def leave(self, row: Row, *, keep: bool) -> None:
        """Let a row go; its unread token is forgotten. ``keep``: give it its cache, and the sampler's state from
        before that token."""
        place, t = row.place, self._together
        if place is None or t is None:
            return
        alone = sum(other is not None for other in self.rows) == 1
        if keep:
            row.state = SamplerState.gather([(t.before, place)])
            row.cache = t.cache if alone and len(self.rows) == 1 else t.cache.row(place)
        row.place = self.rows[place] = None
        self._unread = [one for one in self._unread if one.row is not row]
        if alone:
            self.rows, self._drawing, self._together = [], [], None
        else:
            t.cache.clear([i for i, other in enumerate(self.rows) if other is None])

    def _adopt(self, row: Row) -> None:
        assert row.cache is not None and row.sampler is not None and row.state is not None and row.ahead is not None
        self._together = _Together(row.cache, row.sampler, row.state, row.state, row.ahead.tokens)
        self.rows, self._drawing = [row], [(row.request.params, row.seed)]
        self._seat(row, 0)

    def _tidy(self) -> None:
        """Copy the rows together when half of the places are empty, or copying is cheap."""
        t = self._together
        taken = [place for place, row in enumerate(self.rows) if row is not None]
        if t is None or len(taken) == len(self.rows):
            return
        share = len(taken) / len(self.rows)
        if share <= 0.5 or self._cheap(share):
            self._arrange(taken)

    def pack(self) -> bool:
        """Copy the rows together, whatever it costs, because memory is short; whether there was an empty place."""
        taken = [place for place, row in enumerate(self.rows) if row is not None]
        if len(taken) == len(self.rows):
            return False
        self._arrange(taken)
        return True

    def _cheap(self, share: float) -> bool:
        """Whether this share of the batch's cache may be copied at any time."""
        return self._together is None or self._together.cache.nbytes * share <= CHEAP

    def _arrange(self, places: list[int]) -> None:
        """Have the rows of these places, in this order. Before a step, which is when ``before`` begins to count."""
        t = self._together
        assert t is not None
        t.cache.arrange(places)
        self.rows = [self.rows[place] for place in places]
        self._drawing = [self._drawing[place] for place in places]
        t.tokens = mx.take(t.tokens, mx.array(places))
        t.state, t.sampler = SamplerState.gather([(t.state, place) for place in places]), None
        for place, row in enumerate(self.rows):
            if row is not None:
                row.place = place

    def _place(self, rows: Sequence[Row]) -> None:
        """Put rows into free places, and into as many more as are needed: a place has the capacity of the longest row,
        and copying all of them takes no longer than two or three steps."""
        t, before = self._together, len(self.rows)
        assert t is not None
        places = [place for place, row in enumerate(self.rows) if row is None][: len(rows)]
        more = len(rows) - len(places)
        places += range(before, before + more)
        self.rows += [None] * more
        self._drawing += [self._drawing[0]] * more
        joining = {place: row.cache for place, row in zip(places, rows, strict=True) if row.cache is not None}
        t.cache.arrange([*range(before), *[None] * more], joining)
        order = [min(place, before - 1) for place in range(before + more)]
        states, tokens = [(t.state, place) for place in order], [t.tokens]
        for place, row in zip(places, rows, strict=True):
            assert row.state is not None and row.ahead is not None
            order[place] = before + len(tokens) - 1
            tokens.append(row.ahead.tokens)
            states[place] = row.state, 0
            self.rows[place], self._drawing[place] = row, (row.request.params, row.seed)
            self._seat(row, place)
        t.tokens = mx.take(mx.concatenate(tokens), mx.array(order))
        t.state, t.sampler = SamplerState.gather(states), None

    def _seat(self, row: Row, place: int) -> None:
        row.place, row.cache, row.state, row.ahead = place, None, None, None
