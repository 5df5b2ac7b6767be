"""What a cache stores of a token and hands to ``attend``: keys and values, in full precision or packed. Only the
kernels look inside."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from . import packed_rows


class Packing(NamedTuple):
    """How a cache packs keys and values: codes of ``bits`` bits, ``group_size`` of which share a scale and a bias."""

    bits: int
    group_size: int


class Lengths:
    """How many positions of each row of a buffer are filled. What kernels make of it is kept for the other layers."""

    def __init__(self, each: tuple[int, ...]) -> None:
        self.each = each

    def __eq__(self, other: object) -> bool:
        return self.each == other.each if isinstance(other, Lengths) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.each)

    def __repr__(self) -> str:
        return f"Lengths({self.each})"

    @functools.cached_property
    def most(self) -> int:
        return max(self.each)

    @functools.cached_property
    def equal(self) -> bool:
        return min(self.each) == self.most

    @functools.cached_property
    def array(self) -> mx.array:
        """``[batch]`` int32."""
        return mx.array(self.each, mx.int32)

    @functools.cached_property
    def seen(self) -> mx.array:
        """Whether a position is filled, ``[batch, 1, 1, most]``."""
        return mx.arange(self.most) < self.array[:, None, None, None]

    @functools.cached_property
    def mask(self) -> mx.array:
        """What to add to scores: 0 where ``seen`` and minus infinity elsewhere, float32."""
        return mx.where(self.seen, 0.0, -mx.inf)

    def plus(self, count: int) -> Lengths:
        later = Lengths(tuple([length + count for length in self.each]))
        vars(later)["most"] = self.most + count  # so that nobody looks for it
        return later

    def beside(self, others: Sequence[Lengths]) -> Lengths:
        """Those of these rows, and then of others."""
        return Lengths((*self.each, *(length for one in others for length in one.each)))


class Bounded(Lengths):
    """Lengths that only the device knows, ``array [batch]`` int32, none above ``most``: what is built on them serves
    any."""

    def __init__(self, array: mx.array, most: int) -> None:
        super().__init__((most,) * array.shape[0])
        vars(self).update(array=array, equal=False)

    def plus(self, count: int) -> Lengths:
        return Bounded(mx.add(self.array, count), self.most + count)

    def beside(self, others: Sequence[Lengths]) -> Lengths:
        every = [self, *others]
        return Bounded(mx.concatenate([one.array for one in every]), max(one.most for one in every))


#: New tokens as a cache stores them: keys and values ``[batch, kv_heads, length, head_dim]``, or packed rows alone
#: (:mod:`packed_rows`) ``[batch, kv_heads, length, 2 * words]``.
Entry = tuple[mx.array, ...]


class DenseView(NamedTuple):
    """Buffers ``[batch, kv_heads, capacity, head_dim]`` of which the first ``lengths`` positions are filled."""

    keys: mx.array
    values: mx.array
    lengths: Lengths


class PackedView(NamedTuple):
    """A buffer of packed rows ``[batch, kv_heads, capacity, 2 * words]`` of which the first ``lengths`` positions are
    filled."""

    rows: mx.array
    lengths: Lengths
    packing: Packing


View = DenseView | PackedView


class GroupedView(NamedTuple):
    """What the rows see that lie in several groups of buffers, group by group."""

    views: tuple[View, ...]


Attend = Callable[[mx.array, View, float], mx.array]


def by_group(attend: Attend) -> Callable[[mx.array, View | GroupedView, float], mx.array]:
    """An ``attend`` for rows in groups too: their queries are parted, and what comes out is put together."""

    @functools.wraps(attend)
    def each(queries: mx.array, view: View | GroupedView, scale: float) -> mx.array:
        if not isinstance(view, GroupedView):
            return attend(queries, view, scale)
        cuts = list(itertools.accumulate(len(one.lengths.each) for one in view.views))[:-1]
        parts = zip(mx.split(queries, cuts), view.views, strict=True)
        return mx.concatenate([attend(part, one, scale) for part, one in parts])

    return each


def entry(keys: mx.array, values: mx.array, packing: Packing | None) -> Entry:
    """Keys and values in the form of a cache that packs in this way; ``values`` are of the activations' dtype."""
    if packing is None:
        return keys, values
    return (packed_rows.pack(keys, values, *packing, packed_rows.scale_dtype(values.dtype)),)


def filled(buffer: mx.array, length: int) -> mx.array:
    """The first ``length`` positions of a buffer, as a view of it (``split`` is the cheapest way to a static slice)."""
    return buffer if buffer.shape[2] == length else mx.split(buffer, [length], axis=2)[0]


def unpacked(view: PackedView, head_dim: int, dtype: mx.Dtype) -> DenseView:
    """The part that any row has filled, in full precision; ``dtype``: that of the activations."""
    rows = filled(view.rows, view.lengths.most)
    keys, values = packed_rows.unpack(rows, head_dim, *view.packing, packed_rows.scale_dtype(dtype))
    return DenseView(keys.astype(dtype), values.astype(dtype), view.lengths)
