"""The key/value cache: contiguous rows that grow, in full precision or packed to 8 or 4 bits.

A batch of rows shares the buffers of a layer and one length; a single sequence is a batch of one. A layer of the model
only ever sees ``packing``, which says what to make of new keys and values, and ``append(entry) -> view``: what entries
and views hold is between this file and the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..config import ModelConfig
from ..errors import InvalidRequest
from ..kernels import DenseView, Entry, Kernels, PackedView, Packing, View, resolve

STEP = 256  # positions: capacities are multiples of it


def grown(capacity: int, needed: int) -> int:
    """The capacity to grow to so that ``needed`` positions fit: at least half as much again, so that the copying of
    a whole generation stays proportional to its length."""
    target = max(needed, capacity + capacity // 2)
    return -(-target // STEP) * STEP


class KVCache:
    """Keys and values of all layers for ``batch`` rows of equal length."""

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
        kernels = kernels or resolve()
        start = _SharedStart(kernels)
        shape = (batch, config.num_key_value_heads)
        packing = None if kv_bits is None else Packing(kv_bits, kv_group_size(config.head_dim, kv_bits))
        self.layers = [Layer(shape, dtype, packing, kernels, start) for _ in range(config.num_hidden_layers)]
        self.batch = batch

    @property
    def offset(self) -> int:
        """Tokens held, the position of the next one."""
        return self.layers[-1].offset

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
        """Forget the last ``count`` tokens; their memory is kept for the next ones."""
        assert 0 <= count <= self.offset, f"cannot trim {count} of {self.offset} tokens"
        for layer in self.layers:
            layer.offset -= count


class Uncached:
    """Stands in for a layer's cache when nothing is to be remembered."""

    packing = None

    def append(self, entry: Entry) -> View:
        """The view holds this and nothing before."""
        return _view(entry, entry[0].shape[2], self.packing)


def kv_group_size(head_dim: int, kv_bits: int) -> int:
    """Values that share a scale in a packed cache: 64, or 32 where heads are smaller. Raises InvalidRequest."""
    if kv_bits not in (4, 8):
        raise InvalidRequest(f"kv_bits must be 8, 4 or None, not {kv_bits!r}", param="kv_bits")
    for group in (64, 32):
        if head_dim % group == 0:
            return group
    raise InvalidRequest(f"the cache of a model with heads of {head_dim} values cannot be packed", param="kv_bits")


class _SharedStart:
    """The position to write at, in the kernels' form: the same for every layer of a step, so made once."""

    def __init__(self, kernels: Kernels) -> None:
        self.make = kernels.start
        self.offset = -1
        self.value: Any = None

    def at(self, offset: int) -> Any:
        if offset != self.offset:
            self.offset, self.value = offset, self.make(offset)
        return self.value


class Layer:
    """One layer's keys and values, as ``norm_rope`` makes them for its packing."""

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: mx.Dtype | None,
        packing: Packing | None,
        kernels: Kernels,
        start: _SharedStart,
    ) -> None:
        self.shape, self.dtype, self.packing = shape, dtype, packing
        self.write, self.start = kernels.write, start
        self.buffers: list[mx.array] = []
        self.offset = 0
        self.capacity = 0

    def append(self, entry: Entry) -> View:
        """Add arrays ``[batch, kv_heads, length, ...]``; the view holds all so far."""
        offset = self.offset
        end = offset + entry[0].shape[2]
        if end > self.capacity:
            self._grow(end, entry)
        start, write = self.start.at(offset), self.write
        self.buffers = [write(buffer, part, start) for buffer, part in zip(self.buffers, entry, strict=True)]
        self.offset = end
        return _view(self.buffers, end, self.packing)

    def _grow(self, needed: int, like: Entry) -> None:
        """Make room for ``needed`` positions in buffers shaped like ``like`` but for their length."""
        capacity = grown(self.capacity, needed)
        buffers = []
        for index, part in enumerate(like):
            batch, heads, _, width = part.shape
            assert (batch, heads) == self.shape, f"rows for {self.shape} (batch, heads), not {(batch, heads)}"
            kind = part.dtype if self.dtype is None or self.packing is not None else self.dtype
            fresh = mx.zeros((batch, heads, capacity - self.offset, width), kind)
            if self.offset:
                held = mx.split(self.buffers[index], [self.offset], axis=2)[0]
                fresh = mx.concatenate([held, fresh], axis=2)
            buffers.append(fresh)
        self.buffers, self.capacity = buffers, capacity


def _view(buffers: Sequence[mx.array], length: int, packing: Packing | None) -> View:
    if packing is None:
        return DenseView(buffers[0], buffers[1], length)
    return PackedView(buffers[0], length, packing)
