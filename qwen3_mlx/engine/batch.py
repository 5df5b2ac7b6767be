"""The rows that decode together, one token of each a step.

A row joins with a cache of its own, filled by its prefill, which is copied into a group of rows that come to about as
many tokens (:mod:`grouping`), or becomes a group itself: a row alone is never copied. A place that a row has left
stays in its group, computed for nothing, until the next row takes it or it is worth copying the others together.

A row that leaves to be fed takes its cache along, and there must be memory for that and for its place: else the rows of
its group are parted, which needs none. So nothing moves until all have been judged that took the step: many may leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..cache.groups import GroupedCache, Member
from ..model.qwen3 import Qwen3 as Model
from ..sampling import SampleOut, Sampler, SamplerState
from ..types import SamplingParams
from ..values import frozen
from .grouping import halved, partition
from .memory import Held, planned
from .row import Row
from .step import DecodeStep

# Bytes of keys and values that are copied without a thought when rows have left.
CHEAP = 64 << 20


@frozen
class Unread:
    """Tokens on the device, drawn for ``rows``, each with its place."""

    out: SampleOut
    rows: list[tuple[Row, int]]


@dataclass(eq=False, repr=False, slots=True)
class _Together:
    """What all places of the batch share. ``sampler``: ``None`` when others draw now than last; ``before``: its state
    from before the last step's tokens were drawn, for rows that leave it to be fed. ``logits``: of the last forward
    pass, while nothing has been drawn from them; ``tokens`` are then those it was fed, and ``before`` is ``state``."""

    cache: GroupedCache
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
        self._unread: Unread | None = None
        self._leaving: list[Row] = []

    @property
    def cache(self) -> GroupedCache | None:
        """Keys and values of all places; ``None`` when there are none."""
        return self._together.cache if self._together is not None else None

    @property
    def full(self) -> list[Row]:
        """The rows for which the next step has no room."""
        if (t := self._together) is None:
            return []
        return [row for place in t.cache.full if (row := self.rows[place]) is not None]

    def held(self, rows: Sequence[Row]) -> Held:
        """Positions planned for each of these rows that has a place, and for the empty places."""
        places = zip(self.rows, self.cache.capacities if self.cache is not None else (), strict=True)
        return [
            capacity if row is None else max(planned(row), capacity)
            for row, capacity in places
            if row in rows or (row is None and capacity)
        ]

    @property
    def leaving(self) -> Held:
        """Positions of the places of rows that leave to be fed."""
        if not self._leaving:
            return ()
        capacities = self.cache.capacities if self.cache is not None else []
        return [capacity for row, capacity in zip(self.rows, capacities, strict=True) if row in self._leaving]

    def join(self, rows: Sequence[Row]) -> None:
        """Take in rows whose prefill has drawn a token, which has been read."""
        if not rows:
            return
        if self._together is None:
            self._adopt(rows[0])
            rows = rows[1:]
        if rows:
            self._regroup({row: planned(row) for row in rows})

    def grow(self, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Have so many positions for these rows, where they are or elsewhere."""
        wanted = dict(zip(rows, positions, strict=True))
        room = {row.place: count for row, count in wanted.items() if row.place is not None}
        self._regroup({row: max(planned(row), count) for row, count in wanted.items()}, room)

    def step(self) -> Unread | None:
        """Feed the tokens drawn last and start drawing the next, unless a row follows a grammar: then :meth:`draw` does
        when its mask is known. Returns what is still unread of the last."""
        unread, self._unread = self._unread, None
        if None in self.rows:
            self._tidy()
        if (t := self._together) is not None:
            t.logits, t.before = self._decode(t.tokens, t.cache), t.state
            rows = [row for row in self.rows if row is not None]
            for row in rows:
                row.held += 1
            if any([row.controller.constrained for row in rows]):
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
        drawing = [None if row in self._leaving else row for row in self.rows] if self._leaving else self.rows
        out, after = t.sampler(t.logits, t.state, [row.mask if row is not None else None for row in drawing])
        mx.async_eval(out.arrays())
        t.tokens, t.before, t.state, t.logits = out.tokens, t.state, after, None
        self._unread = Unread(out, [(row, place) for place, row in enumerate(drawing) if row is not None])

    def withdraw(self, row: Row) -> None:
        """Draw no more for a row, which leaves to be fed: its unread token is forgotten, and it has the sampler's state
        from before that. Its cache stays in its place until :meth:`hand_out`, before the next step."""
        if row.place is None or self._together is None:
            return
        row.state = SamplerState.gather([(self._together.before, row.place)])
        self._forget(row)
        self._leaving.append(row)

    def hand_out(self, *, keep: bool) -> None:
        """Give the rows that leave to be fed their caches. ``keep``: copy them, and keep the places for who comes
        next. Else part the groups that they lie in, layer by layer: at most one is held twice."""
        if not self._leaving or self._together is None:
            return
        states = {row: row.state for row in self._leaving}
        if not keep:
            stay = [[row for row in group if row not in states] for group in self._groups()]
            self._arrange([*filter(None, stay), *([row] for row in states)])
        for row, state in states.items():
            assert row.place is not None
            cache = self._together.cache.row(row.place)
            self.leave(row)
            row.cache, row.state = cache, state
            cache.reserve(row.length + 1)

    def leave(self, row: Row) -> None:
        """Let a row go; its unread token is forgotten."""
        place, t = row.place, self._together
        if place is None or t is None:
            return
        row.place = self.rows[place] = None
        self._forget(row)
        self._leaving = [one for one in self._leaving if one is not row]
        if any(other is not None for other in self.rows):
            t.cache.clear(self._empty)
        else:
            self.rows, self._drawing, self._together = [], [], None

    def _forget(self, row: Row) -> None:
        """A row's unread token."""
        if self._unread is not None:
            self._unread = Unread(self._unread.out, [one for one in self._unread.rows if one[0] is not row])

    @property
    def _empty(self) -> list[int]:
        return [place for place, row in enumerate(self.rows) if row is None]

    def _adopt(self, row: Row) -> None:
        assert row.cache is not None and row.sampler is not None and row.state is not None and row.ahead is not None
        self._together = _Together(GroupedCache([row.cache]), row.sampler, row.state, row.state, row.ahead.tokens)
        self.rows, self._drawing = [row], [(row.request.params, row.seed)]
        self._seat(row, 0)

    def _tidy(self) -> None:
        """Copy the rows of a group together when half of its places are empty, or copying is cheap."""
        t = self._together
        assert t is not None
        share = 1 - len(self._empty) / len(self.rows)
        self._arrange(self._groups(), pack=t.cache.nbytes * share <= CHEAP)
        t.cache.clear(self._empty)  # what is computed for nothing is not kept

    def pack(self) -> bool:
        """Copy the rows together as they fit best, whatever it costs, because memory is short; whether that changed
        anything."""
        if self._together is None:
            return False
        before = self._groups(), len(self.rows)
        self._arrange(self._partition({row: planned(row) for row in self.rows if row is not None}), pack=True)
        return (self._groups(), len(self.rows)) != before

    def _regroup(self, sizes: Mapping[Row, int], room: Mapping[int, int] | None = None) -> None:
        """Have rows of these sizes, in positions, beside those that there are, which move only where that saves more
        than it did."""
        assert self._together is not None
        places = zip(self.rows, self._together.cache.capacities, strict=True)
        now = {row: max(planned(row), capacity) for row, capacity in places if row is not None}
        self._arrange(self._partition({**now, **sizes}), room)

    def _partition(self, sizes: Mapping[Row, int]) -> list[list[Row]]:
        groups = partition(sizes)
        if not self._decode.beside(len(sizes)):
            return groups
        where = {row: index for index, group in enumerate(self._groups()) for row in group}
        return [half for group in groups for half in halved(group, where)]

    def _groups(self) -> list[list[Row]]:
        """The rows as they lie together now."""
        assert self._together is not None
        rows = iter(self.rows)
        groups = [[next(rows) for _ in range(group.batch)] for group in self._together.cache.groups]
        return [[row for row in group if row is not None] for group in groups]

    def _arrange(self, groups: list[list[Row]], room: Mapping[int, int] | None = None, pack: bool = False) -> None:
        """Have these rows in these groups. Before a step, which is when ``before`` begins to count."""
        t, now = self._together, self.rows
        assert t is not None
        who = {_member(row): row for group in groups for row in group}
        places = t.cache.arrange([[_member(row) for row in group] for group in groups], room, pack)
        self.rows = [None if member is None else who[member] for member in places]
        if self.rows == now:
            return
        order, states, tokens, drawing = [], [], [t.tokens], []
        for row in self.rows:
            if row is None or row.place is not None:  # an empty place draws as the first one
                at = row.place if row is not None and row.place is not None else 0
                order.append(at)
                states.append((t.state, at))
                drawing.append(self._drawing[at])
                continue
            assert row.state is not None and row.ahead is not None
            order.append(len(now) + len(tokens) - 1)
            states.append((row.state, 0))
            tokens.append(row.ahead.tokens)
            drawing.append((row.request.params, row.seed))
        t.tokens = mx.take(mx.concatenate(tokens), mx.array(order))
        t.state, t.sampler, self._drawing = SamplerState.gather(states), None, drawing
        for place, row in enumerate(self.rows):
            if row is not None:
                self._seat(row, place)

    def _seat(self, row: Row, place: int) -> None:
        row.place, row.cache, row.state, row.ahead = place, None, None, None


def _member(row: Row) -> Member:
    """A row as the cache knows it: by its place, or by the cache that it comes with."""
    member = row.cache if row.place is None else row.place
    assert member is not None
    return member
