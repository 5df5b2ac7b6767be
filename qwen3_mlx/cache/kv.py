"""The key/value cache: contiguous rows that grow, in full precision or packed to 8 or 4 bits.

A batch of rows shares one buffer per layer and one length; a single sequence is a batch of one. Layers only ever see
``append(keys, values) -> view``: what a view holds is between this file and ``kernels.attend``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..config import ModelConfig
from ..errors import InvalidRequest
from ..kernels import DenseView, Kernels, QuantizedView, View, resolve

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
        """``dtype``: what keys and values are stored in (for a packed cache: unpacked to); by default that of the first
        ones appended. ``kv_bits``: 8 or 4 keeps them packed.

        Raises :class:`InvalidRequest` for another number of bits, or heads that do not divide into groups.
        """
        kernels = kernels or resolve()
        start = _SharedStart(kernels)
        shape = (batch, config.num_key_value_heads, config.head_dim)
        self.layers: list[DenseLayer] | list[PackedLayer]
        if kv_bits is None:
            self.layers = [DenseLayer(shape, dtype, kernels, start) for _ in range(config.num_hidden_layers)]
        else:
            group = kv_group_size(config.head_dim, kv_bits)
            self.layers = [
                PackedLayer(shape, dtype, kernels, start, kv_bits, group) for _ in range(config.num_hidden_layers)
            ]
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

    def append(self, keys: mx.array, values: mx.array) -> View:
        """The view holds these and nothing before."""
        return DenseView(keys, values, keys.shape[2])


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


class DenseLayer:
    """One layer's keys and values as they are."""

    def __init__(
        self, shape: tuple[int, int, int], dtype: mx.Dtype | None, kernels: Kernels, start: _SharedStart
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.write, self.start = kernels.write, start
        self.buffers: list[mx.array] = []
        self.offset = 0
        self.capacity = 0

    def append(self, keys: mx.array, values: mx.array) -> View:
        """Add ``keys``, ``values [batch, kv_heads, length, head_dim]``; the view holds all so far."""
        offset = self.offset
        end = offset + keys.shape[2]
        if end > self.capacity:
            self._grow(end, (keys, values))
        start = self.start.at(offset)
        stored_keys, stored_values = self.buffers
        stored_keys = self.write(stored_keys, keys, start)
        stored_values = self.write(stored_values, values, start)
        self.buffers = [stored_keys, stored_values]
        self.offset = end
        return DenseView(stored_keys, stored_values, end)

    def _grow(self, needed: int, like: tuple[mx.array, ...]) -> None:
        """Make room for ``needed`` positions in buffers shaped like ``like`` but for their length."""
        capacity = grown(self.capacity, needed)
        dtype = self.dtype
        buffers = []
        for index, part in enumerate(like):
            batch, heads, _, width = part.shape
            assert (batch, heads) == self.shape[:2], f"rows for {self.shape[:2]} (batch, heads), not {(batch, heads)}"
            kind = part.dtype if dtype is None or part.dtype == mx.uint32 else dtype
            fresh = mx.zeros((batch, heads, capacity - self.offset, width), kind)
            if self.offset:
                held = mx.split(self.buffers[index], [self.offset], axis=2)[0]
                fresh = mx.concatenate([held, fresh], axis=2)
            buffers.append(fresh)
        self.buffers, self.capacity = buffers, capacity


class PackedLayer(DenseLayer):
    """One layer's keys and values in affine packing: a scale and a bias for each group along the head."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: mx.Dtype | None,
        kernels: Kernels,
        start: _SharedStart,
        bits: int,
        group_size: int,
    ) -> None:
        super().__init__(shape, dtype, kernels, start)
        self.bits, self.group_size = bits, group_size

    def append(self, keys: mx.array, values: mx.array) -> View:
        """As :meth:`DenseLayer.append`, packing what is added."""
        offset = self.offset
        end = offset + keys.shape[2]
        dtype = self.dtype or keys.dtype
        packed = (
            *mx.quantize(keys.astype(dtype), group_size=self.group_size, bits=self.bits),
            *mx.quantize(values.astype(dtype), group_size=self.group_size, bits=self.bits),
        )
        if end > self.capacity:
            self._grow(end, packed)
        start = self.start.at(offset)
        self.buffers = [self.write(b, new, start) for b, new in zip(self.buffers, packed, strict=True)]
        self.offset = end
        kw, ks, kb, vw, vs, vb = self.buffers
        return QuantizedView((kw, ks, kb), (vw, vs, vb), end, self.bits, self.group_size, dtype)
