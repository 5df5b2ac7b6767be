"""The forward pass of a decode step: one token of each row.

Building the graph of 28 to 94 layers in Python takes as long as a fast Mac needs to run it. So where kernels allow it,
the graph is traced once for a batch of so many rows up to so many tokens, by ``mx.compile``, and replayed from then on:
what changes from step to step, tokens, lengths and the cache's buffers, are its inputs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..cache.kv import KVCache
from ..kernels import Bounded
from ..model.qwen3 import Qwen3 as Model

# Graphs that are kept, the last used ones: about half a megabyte each.
KEPT = 32
# Positions that a graph looks at come in steps of so many, or of up to an eighth of them: a masked one costs little and
# a trace as much as a few steps.
POSITIONS = 256

Graph = Callable[..., Sequence[mx.array]]


class DecodeStep:
    """``step(tokens [batch], cache) -> logits [batch, vocab]``; the cache then holds the tokens. For one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._graphs: OrderedDict[tuple[int | None, ...], Graph] = OrderedDict()

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        if not self._model.kernels.compiled:
            return self._model(tokens[:, None], cache)[:, -1]
        cache.make_room()
        logits, *buffers = self._graph(cache)(tokens, cache.lengths.array, *cache.arrays)
        cache.hold(buffers, cache.lengths.plus(1))
        return logits

    def _graph(self, cache: KVCache) -> Graph:
        bound = min(looked_at(cache.lengths.most + 1), cache.capacity)
        key = (cache.batch, bound, cache.capacity, cache.kv_bits)
        if key not in self._graphs:
            self._graphs[key] = self._traced(cache.batch, bound, cache.kv_bits)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _traced(self, batch: int, bound: int, kv_bits: int | None) -> Graph:
        model = self._model

        def graph(tokens: mx.array, lengths: mx.array, *buffers: mx.array) -> tuple[mx.array, ...]:
            cache = KVCache(model.config, batch, kv_bits=kv_bits, kernels=model.kernels)
            cache.hold(buffers, Bounded(lengths, bound - 1))
            logits = model(tokens[:, None], cache)[:, -1]
            return logits, *cache.arrays

        return mx.compile(graph)


def looked_at(length: int) -> int:
    """So many positions are looked at of rows of up to ``length`` tokens."""
    step = max(POSITIONS, 1 << max(length.bit_length() - 4, 0))
    return -(-length // step) * step
