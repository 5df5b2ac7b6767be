"""The forward pass of a decode step: one token of each row.

Building the graph of 28 to 94 layers in Python takes as long as a fast Mac needs to run it. So where kernels allow it,
the graph is traced once for groups of so many rows up to so many tokens, by ``mx.compile``, and replayed from then on:
what changes from step to step, tokens, lengths and the cache's buffers, are its inputs.

A CPU device has no use for that, but two threads: there a step of many rows is two graphs, of some of the groups each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..cache.groups import GroupedCache
from ..cache.kv import KVCache
from ..costs import active_parameters
from ..kernels import Bounded, second_thread
from ..model.qwen3 import Qwen3 as Model

# Graphs that are kept, the last used ones: about half a megabyte each.
KEPT = 32
# Positions that a graph looks at come in steps of so many, or of up to an eighth of them: a masked one costs little and
# a trace as much as a few steps.
POSITIONS = 256
# Multiplications from which two graphs are worth building: some five milliseconds of them.
BESIDE = 14_000_000

Graph = Callable[..., Sequence[mx.array]]
Shape = tuple[int, int, int]
"""Of a group: rows, positions that are looked at, and those that there is memory for."""


class DecodeStep:
    """``step(tokens [batch], cache) -> logits [batch, vocab]``; the cache then holds the tokens. For one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._weights = active_parameters(model.config)
        self._graphs: OrderedDict[tuple[tuple[Shape, ...], int | None], Graph] = OrderedDict()

    def __call__(self, tokens: mx.array, cache: GroupedCache) -> mx.array:
        if not self._model.kernels.compiled:
            return self._built(tokens[:, None], cache)[:, -1]
        lengths, shapes, buffers = [], [], []
        for group in cache.groups:
            its, own = group.lengths, group.arrays
            if its.most >= own[0].shape[2]:
                group.make_room()
                own = group.arrays
            lengths.append(its)
            shapes.append((len(its.each), looked_at(its.most + 1), own[0].shape[2]))
            buffers += own
        graph = self._graph(tuple(shapes), cache.groups[0].kv_bits)
        logits, *buffers = graph(tokens, *[mx.array(its.each, mx.int32) for its in lengths], *buffers)
        cache.hold(buffers, [its.plus(1) for its in lengths])
        return logits

    def beside(self, rows: int) -> bool:
        """Whether so many rows should lie in groups that can be computed beside each other."""
        return self._model.kernels.beside and rows > 1 and rows * self._weights >= BESIDE

    def _built(self, tokens: mx.array, cache: GroupedCache) -> mx.array:
        if len(cache.groups) == 1 or not self.beside(cache.places):
            return self._model(tokens, cache)
        first, second = cache.parts()
        begins, rest = mx.split(tokens, [first.places])
        with second_thread():
            others = self._model(rest, second)
        return mx.concatenate([self._model(begins, first), others])

    def _graph(self, shapes: tuple[Shape, ...], kv_bits: int | None) -> Graph:
        key = shapes, kv_bits
        if key not in self._graphs:
            self._graphs[key] = self._traced(shapes, kv_bits)
            if len(self._graphs) > KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _traced(self, shapes: Sequence[Shape], kv_bits: int | None) -> Graph:
        model, count = self._model, len(shapes)

        def graph(tokens: mx.array, *given: mx.array) -> tuple[mx.array, ...]:
            groups = [KVCache(model.config, batch, kv_bits=kv_bits, kernels=model.kernels) for batch, _, _ in shapes]
            cache = GroupedCache(groups)
            bounds = [min(looked, capacity) for _, looked, capacity in shapes]
            lengths = [Bounded(its, bound - 1) for its, bound in zip(given[:count], bounds, strict=True)]
            cache.hold(given[count:], lengths)
            logits = model(tokens[:, None], cache)[:, -1]
            return logits, *cache.arrays

        return mx.compile(graph)


def looked_at(length: int) -> int:
    """So many positions are looked at of rows of up to ``length`` tokens."""
    step = max(POSITIONS, 1 << max(length.bit_length() - 4, 0))
    return -(-length // step) * step
