"""The key/value cache: contiguous rows that grow, in full precision or packed to 8 or 4 bits.

Rows that lie together share the buffers of a layer; each has a length of its own. (A whole batch may lie in several
such groups: :mod:`groups`.) A layer of the model only ever sees ``packing``, which says what to make of new keys and
values, and ``append(entry) -> view``: what entries and views hold is between this file and the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from ..config import ModelConfig
from ..costs import grown
from ..errors import InvalidRequest
from ..kernels import DenseView, Entry, Kernels, Lengths, PackedView, Packing, View, resolve


class KVCache:
    """Keys and values of all layers for ``batch`` rows; ``kv_bits``: what they are packed to."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int = 1,
        dtype: mx.Dtype | None = None,
        kv_bits: int | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """``dtype``: what keys and values that are not packed are stored in; by default that of the first ones
        appended. ``kv_bits``: 8 or 4 keeps them packed.

        Raises :class:`InvalidRequest` for another number of bits, or heads that do not divide into groups.
        """
        self.kv_bits = kv_bits
        packing = None if kv_bits is None else Packing(kv_bits, kv_group_size(config.head_dim, kv_bits))
        pace, empty = _Pace(kernels or resolve()), Lengths((0,) * batch)
        self.layers = [Layer(empty, dtype, packing, pace) for _ in range(config.num_hidden_layers)]

    @property
    def lengths(self) -> Lengths:
        """Tokens held by each row, the position of its next one."""
        return self.layers[-1].lengths

    @property
    def batch(self) -> int:
        return len(self.lengths.each)

    @property
    def offset(self) -> int:
        """Tokens held by each of rows of equal length."""
        assert self.lengths.equal, f"rows of different lengths: {self.lengths.each}"
        return self.lengths.most

    @property
    def capacity(self) -> int:
        """Positions there is memory for; appending beyond grows it."""
        return self.layers[-1].capacity

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, the spare capacity included."""
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.buffers)

    @property
    def arrays(self) -> list[mx.array]:
        """All buffers, for ``mx.eval``."""
        return [buffer for layer in self.layers for buffer in layer.buffers]

    def trim(self, count: int) -> None:
        """Forget the last ``count`` tokens of every row; their memory is kept for the next ones."""
        assert 0 <= count <= min(self.lengths.each), f"cannot trim {count} of {self.lengths.each} tokens"
        self.set_lengths(self.lengths.plus(-count))

    def row(self, index: int) -> KVCache:
        """A copy of one row, a cache of its own."""
        one, last = self.fresh(), self.lengths.each[index]
        one.load([[layer.part(index, 0, last)] for layer in self.layers])
        return one

    def load(self, pieces: Sequence[Sequence[Entry]]) -> None:
        """Hold these entries of one row, one after the other, for each layer, and nothing else. Copies layer by
        layer."""
        for layer, entries in zip(self.layers, pieces, strict=True):
            layer.load(entries)
        self.set_lengths(self.lengths)

    def copy(self, row: int, first: int, last: int) -> list[Entry]:
        """A row's entries at the positions from ``first`` to before ``last``, for each layer."""
        out: list[Entry] = []
        for layer in self.layers:
            out.append(tuple(copied(part) for part in layer.part(row, first, last)))
            mx.eval(out[-1])
        return out

    def row_nbytes(self, tokens: int) -> int:
        """Bytes of so many tokens of a row, of all layers."""
        return sum(
            tokens * buffer.nbytes // (buffer.shape[0] * buffer.shape[2])
            for layer in self.layers
            for buffer in layer.buffers
        )

    def reserve(self, positions: int) -> None:
        """Grow next to just so many positions, if that is enough: who asks knows what will be needed."""
        for layer in self.layers:
            layer.room = positions

    def make_room(self) -> None:
        """Grow now if the next token of each row needs it."""
        needed = self.lengths.most + 1
        for layer in self.layers:
            if needed > layer.capacity:
                layer.grow(needed, layer.buffers)

    def hold(self, arrays: Sequence[mx.array], lengths: Lengths) -> None:
        """Hold these buffers, in the order of ``arrays``, in place of the own."""
        share = len(arrays) // len(self.layers)
        for index, layer in enumerate(self.layers):
            layer.buffers, layer.lengths = list(arrays[index * share : (index + 1) * share]), lengths

    def fresh(self) -> KVCache:
        """An empty one of a row of the same kind."""
        one = object.__new__(KVCache)
        one.kv_bits = self.kv_bits
        one.layers = [layer.fresh() for layer in self.layers]
        return one

    def set_lengths(self, lengths: Lengths) -> None:
        """Have so many tokens of each row."""
        for layer in self.layers:
            layer.lengths = lengths


def copied(part: mx.array, capacity: int = 0) -> mx.array:
    """The same values ``[batch, heads, length, width]``, with zeros up to ``capacity`` positions, in memory of their
    own: what ``mx.contiguous`` gives may be a view that keeps a buffer alive."""
    batch, heads, length, width = part.shape
    fresh = mx.zeros((batch, heads, max(capacity, length), width), part.dtype)
    return mx.slice_update(fresh, part, mx.array([0]), (0,))


def _filled(buffer: mx.array, place: int, part: mx.array) -> mx.array:
    """With ``part [1, heads, length, width]`` as a row, and zeros behind it: a masked position weighs nothing, but
    nothing times what is not a number is not a number."""
    _, heads, length, width = part.shape
    buffer = mx.slice_update(buffer, part, mx.array([place, 0]), (0, 2))
    if rest := buffer.shape[2] - length:
        nothing = mx.broadcast_to(mx.zeros((1,), buffer.dtype), (1, heads, rest, width))
        buffer = mx.slice_update(buffer, nothing, mx.array([place, length]), (0, 2))
    return buffer


class Uncached:
    """Stands in for a layer's cache when nothing is to be remembered."""

    packing = None

    def append(self, entry: Entry) -> View:
        """The view holds this and nothing before."""
        batch, _, length, _ = entry[0].shape
        return _view(entry, Lengths((length,) * batch), self.packing)


def kv_group_size(head_dim: int, kv_bits: int) -> int:
    """Values that share a scale in a packed cache: 64, or 32 where heads are smaller. Raises InvalidRequest."""
    if kv_bits not in (4, 8):
        raise InvalidRequest(f"kv_bits must be 8, 4 or None, not {kv_bits!r}", param="kv_bits")
    for group in (64, 32):
        if head_dim % group == 0:
            return group
    raise InvalidRequest(f"the cache of a model with heads of {head_dim} values cannot be packed", param="kv_bits")


class _Pace:
    """Where a step writes and how long rows are after it: the same for every layer, so made once."""

    def __init__(self, kernels: Kernels) -> None:
        self.write = kernels.write
        self._start = kernels.start
        self._before: Lengths | None = None
        self._count = 0
        self._made: tuple[Any, Lengths]

    def step(self, before: Lengths, count: int) -> tuple[Any, Lengths]:
        """Where ``count`` new tokens go, in the kernels' form, and the lengths with them."""
        if before is not self._before or count != self._count:
            self._before, self._count = before, count
            self._made = self._start(before), before.plus(count)
        return self._made


class Layer:
    """One layer's keys and values, as ``norm_rope`` makes them for its packing. ``room``: positions to grow to."""

    def __init__(self, lengths: Lengths, dtype: mx.Dtype | None, packing: Packing | None, pace: _Pace) -> None:
        self.lengths, self.dtype, self.packing, self.pace = lengths, dtype, packing, pace
        self.buffers: list[mx.array] = []
        self.room = 0

    @property
    def capacity(self) -> int:
        return self.buffers[0].shape[2] if self.buffers else 0

    def fresh(self) -> Layer:
        """An empty layer of one row of the same kind."""
        return Layer(Lengths((0,)), self.dtype, self.packing, self.pace)

    def append(self, entry: Entry) -> View:
        """Add arrays ``[batch, kv_heads, length, ...]``; the view holds all so far."""
        batch = len(self.lengths.each)
        assert entry[0].shape[0] == batch, f"{entry[0].shape[0]} rows for a cache of {batch}"
        start, after = self.pace.step(self.lengths, entry[0].shape[2])
        if after.most > self.capacity:
            self.grow(after.most, entry)
        write = self.pace.write
        self.buffers = [write(buffer, part, start) for buffer, part in zip(self.buffers, entry, strict=True)]
        self.lengths = after
        return _view(self.buffers, after, self.packing)

    def part(self, row: int, first: int, last: int) -> Entry:
        """A row's entries at the positions from ``first`` to before ``last``, as views."""
        return tuple(buffer[row : row + 1, :, first:last] for buffer in self.buffers)

    def taken(self) -> Entry:
        """The only row's entries; the layer is empty afterwards."""
        entry = self.part(0, 0, self.lengths.most)
        self.buffers = []
        return entry

    def arrange(self, order: mx.array | None, capacity: int, joining: Mapping[int, mx.array]) -> None:
        """Have these rows with so many positions in the first buffer, which goes behind the others: once for each of
        them. ``joining``: its arrays ``[1, kv_heads, length, ...]`` for the places that rows join. Waits until it is
        done."""
        buffer = self.buffers.pop(0)  # held by nobody else, it is written in place
        if order is not None:
            buffer = mx.take(buffer[:, :, :capacity], order, axis=0)
        if capacity > buffer.shape[2]:
            buffer = copied(buffer, capacity)
        for place, part in joining.items():
            buffer = _filled(buffer, place, part)
        mx.eval(buffer)
        self.buffers.append(buffer)

    def load(self, entries: Sequence[Entry]) -> None:
        """Hold ``entries [1, kv_heads, length, ...]``, one after the other, as the only row. Waits until it is done."""
        length = sum(entry[0].shape[2] for entry in entries)
        self.buffers = []
        for parts in zip(*entries, strict=True):
            _, heads, _, width = parts[0].shape
            spare = mx.zeros((1, heads, grown(0, length) - length, width), parts[0].dtype)
            self.buffers.append(mx.concatenate([*parts, spare], axis=2))
        self.lengths = Lengths((length,))
        mx.eval(self.buffers)

    def grow(self, needed: int, like: Sequence[mx.array]) -> None:
        """Make room for ``needed`` positions in buffers shaped like ``like`` but for rows and length."""
        filled, wide = self.lengths.most, self.room >= needed
        capacity = grown(0, self.room) if wide else grown(self.capacity, needed)
        if filled:
            self.buffers = [copied(mx.split(buffer, [filled], axis=2)[0], capacity) for buffer in self.buffers]
            return
        kind = self.dtype if self.packing is None else None
        batch = len(self.lengths.each)
        self.buffers = [mx.zeros((batch, p.shape[1], capacity, p.shape[3]), kind or p.dtype) for p in like]


def _view(buffers: Sequence[mx.array], lengths: Lengths, packing: Packing | None) -> View:
    if packing is None:
        return DenseView(buffers[0], buffers[1], lengths)
    return PackedView(buffers[0], lengths, packing)
