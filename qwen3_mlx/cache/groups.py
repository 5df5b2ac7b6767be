"""The cache of a batch: rows in groups, each a :class:`KVCache` whose rows have one capacity.

So a short row beside a long one takes memory for itself and not for the long one. The places of the batch are the rows
of the groups, one group after the other. Everything but attention sees them as one batch; with a single group, layers
are that group's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from ..costs import grown
from ..kernels import Entry, GroupedView, Lengths, Packing
from .kv import KVCache, Layer

Member = int | KVCache
"""Who shall be in a group: the row at a place, or the only row of a cache of the same kind, which is used up."""


class GroupedLayer:
    """A layer of several groups."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._cuts = list(itertools.accumulate(len(layer.lengths.each) for layer in layers))[:-1]

    @property
    def packing(self) -> Packing | None:
        return self._layers[0].packing

    def append(self, entry: Entry) -> GroupedView:
        """Add arrays ``[places, kv_heads, length, ...]``; the view holds all so far, group by group."""
        parts = zip(*(mx.split(part, self._cuts) for part in entry), strict=True)
        return GroupedView(tuple(layer.append(part) for layer, part in zip(self._layers, parts, strict=True)))


class GroupedCache:
    """Keys and values of all layers for the rows of ``groups``, caches of one kind."""

    def __init__(self, groups: Sequence[KVCache]) -> None:
        self.groups = list(groups)

    @property
    def layers(self) -> Sequence[Layer | GroupedLayer]:
        """What the model's layers append to."""
        if len(self.groups) == 1:
            return self.groups[0].layers
        return [GroupedLayer(layers) for layers in zip(*(group.layers for group in self.groups), strict=True)]

    @property
    def lengths(self) -> Lengths:
        """Tokens held by the row of each place."""
        first, *others = (group.lengths for group in self.groups)
        return first.beside(others) if others else first

    @property
    def places(self) -> int:
        return sum(group.batch for group in self.groups)

    @property
    def capacities(self) -> list[int]:
        """Positions there is memory for, of each place."""
        return [group.capacity for group in self.groups for _ in range(group.batch)]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, the spare capacity included."""
        return sum(group.nbytes for group in self.groups)

    @property
    def arrays(self) -> list[mx.array]:
        """All buffers, group by group."""
        return [buffer for group in self.groups for buffer in group.arrays]

    @property
    def full(self) -> list[int]:
        """The places that have no memory for another token."""
        places, first = [], 0
        for group in self.groups:
            lengths, capacity = group.layers[-1].lengths, group.layers[-1].capacity
            if lengths.most >= capacity:
                places += [first + row for row, length in enumerate(lengths.each) if length >= capacity]
            first += len(lengths.each)
        return places

    def parts(self) -> tuple[GroupedCache, GroupedCache]:
        """The groups, of which there are several, in two parts of about as many places: the same groups, not copies."""
        ends = list(itertools.accumulate(group.batch for group in self.groups))
        cut = min(range(1, len(ends)), key=lambda count: abs(2 * ends[count - 1] - ends[-1]))
        return GroupedCache(self.groups[:cut]), GroupedCache(self.groups[cut:])

    def hold(self, arrays: Sequence[mx.array], lengths: Sequence[Lengths]) -> None:
        """Hold these buffers, in the order of ``arrays``, in place of the own; ``lengths``: of each group."""
        share = len(arrays) // len(self.groups)
        for index, group in enumerate(self.groups):
            group.hold(arrays[index * share : (index + 1) * share], lengths[index])

    def at(self, place: int) -> tuple[KVCache, int]:
        """The group of a place, and which of its rows that is."""
        for group in self.groups:
            if place < group.batch:
                return group, place
            place -= group.batch
        raise IndexError("no such place")

    def row(self, place: int) -> KVCache:
        """A row as a cache of its own: a copy, or what holds nothing else. :meth:`clear` its place then."""
        group, index = self.at(place)
        if group.batch > 1:
            return group.row(index)
        self.groups[self.groups.index(group)] = group.fresh()
        return group

    def clear(self, places: Sequence[int]) -> None:
        """Empty these places. They are kept and grow with the others of their group; where there are no others, the
        memory is given back."""
        first = 0
        for group in self.groups:
            each = [0 if first + index in places else length for index, length in enumerate(group.lengths.each)]
            first += len(each)
            group.hold(group.arrays if any(each) else [], Lengths(tuple(each)))

    def arrange(
        self, wanted: Sequence[Sequence[Member]], room: Mapping[int, int] | None = None, pack: bool = False
    ) -> list[Member | None]:
        """Have groups of these rows, and no others; returns who is at each place then.

        Who stays in a group keeps its place there, unless a place is given up: one that a row has moved from always is,
        others for ``pack`` or when half of the group's are empty. ``room``: positions that the row at a place shall
        have. Goes layer by layer: at most one is held twice.
        """
        moves = [self._move(*change, room or {}) for change in self._changes(wanted, pack)]
        lengths = [Lengths(tuple(map(self._length, move.members))) for move in moves]
        gone = [group for group in self.groups if all(group is not move.group for move in moves)]
        if any(move.changes for move in moves):
            for index in range(len(self.groups[0].layers)):
                self._arrange_layer(index, moves, gone)
        self.groups = [move.group for move in moves]
        for group, its in zip(self.groups, lengths, strict=True):
            group.set_lengths(its)
        return [member for move in moves for member in move.members]

    def _changes(self, wanted: Sequence[Sequence[Member]], pack: bool) -> list[_Change]:
        """What each group is made of, and who is at its places. Those that are there first, in order."""
        out: list[_Change] = []
        left, staying, first = list(wanted), {member for members in wanted for member in members}, 0
        for group in self.groups:
            own = range(first, first + group.batch)
            first = own.stop
            heir = max(left, key=lambda members: len(staying.intersection(own, members)), default=())
            if not staying.intersection(own, heir):
                continue
            left.remove(heir)
            new = [member for member in heir if member not in own]
            members = [place if place in heir else new.pop(0) if new else None for place in own]
            moved = any(member is None and place in staying for place, member in zip(own, members, strict=True))
            if pack or moved or 2 * members.count(None) >= len(members):
                members = [member for member in members if member is not None]
            out.append(_Change(group, {place: index for index, place in enumerate(own)}, [*members, *new]))
        for heir in filter(None, left):
            begins = next((member for member in heir if isinstance(member, KVCache)), heir[0])
            group = begins if isinstance(begins, KVCache) else self.groups[0].fresh()
            out.append(_Change(group, {begins: 0}, list(heir)))
        return out

    def _move(
        self, group: KVCache, rows: Mapping[Member, int], members: list[Member | None], room: Mapping[int, int]
    ) -> _Move:
        needed = max(self._needed(member, room) for member in members)
        begins = next((member for member in rows if not group.capacity), None)
        own = (None if member is None else rows.get(member) for member in members)
        order = [row if row is not None else at if at < group.batch else 0 for at, row in enumerate(own)]
        stay = begins is None and order == list(range(group.batch))
        capacity = max(grown(0, needed), group.capacity if stay else 0)
        joining = {at: member for at, member in enumerate(members) if member is not None and member not in rows}
        changes = not stay or bool(joining) or capacity > group.capacity
        return _Move(group, members, changes, None if stay else mx.array(order), capacity, joining, begins)

    def _needed(self, member: Member | None, room: Mapping[int, int]) -> int:
        """Positions for what a member holds and its next token; who has no place for that now gets none unasked."""
        if member is None:
            return 0
        if isinstance(member, KVCache):
            return member.offset + 1
        group, row = self.at(member)
        return max(min(group.lengths.each[row] + 1, group.capacity), room.get(member, 0))

    def _arrange_layer(self, index: int, moves: Sequence[_Move], gone: Sequence[KVCache]) -> None:
        joining = [{at: self._entry(member, index) for at, member in move.joining.items()} for move in moves]
        for move in moves:
            if move.begins is not None:
                move.group.layers[index].buffers = list(self._entry(move.begins, index))
        for group in gone:
            group.layers[index].buffers = []
        # Buffer by buffer: rows that part hold the one that they come from until the last has left it.
        for part in range(max(len(move.group.layers[index].buffers) for move in moves)):
            for move, entries in zip(moves, joining, strict=True):
                if move.changes:
                    its = {at: entry[part] for at, entry in entries.items()}
                    move.group.layers[index].arrange(move.order, move.capacity, its)

    def _entry(self, member: Member, index: int) -> Entry:
        """A row's entries of one layer; a cache has them no more."""
        if isinstance(member, KVCache):
            return member.layers[index].taken()
        group, row = self.at(member)
        return group.layers[index].part(row, 0, group.lengths.each[row])

    def _length(self, member: Member | None) -> int:
        if member is None:
            return 0
        if isinstance(member, KVCache):
            return member.offset
        group, row = self.at(member)
        return group.lengths.each[row]


class _Change(NamedTuple):
    """A group, which of its rows is whose, and who shall be at each of its places."""

    group: KVCache
    rows: dict[Member, int]
    members: list[Member | None]


class _Move(NamedTuple):
    """``order``: the rows of ``group`` that its places begin as, ``None``: as they are; ``joining``: who comes from
    elsewhere to which of them; ``begins``: the row that an empty group begins with."""

    group: KVCache
    members: list[Member | None]
    changes: bool
    order: mx.array | None
    capacity: int
    joining: dict[int, Member]
    begins: Member | None
