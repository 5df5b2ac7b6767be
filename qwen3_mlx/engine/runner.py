"""The forward passes and draws of rows. Builds graphs and starts them; when to read is the engine's decision."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..cache.kv import KVCache
from ..cache.prefix import PrefixCache
from ..config import ModelConfig
from ..costs import CACHE_STEP, Footprint, derived_bytes, kv_bytes_per_token
from ..errors import EngineError
from ..kernels import Kernels
from ..kernels.stock import UNPACKED
from ..model.qwen3 import Qwen3 as Model
from ..sampling import SampleOut, Sampler, fresh_seed
from ..types import TokenLogprob
from .batch import Batch, Unread
from .memory import LEAST_CHUNK, Held, planned
from .row import Row
from .scoring import score

#: Tokens of a prompt from which it is kept as soon as it is computed, and not when its answer has ended: requests that
#: share a long prompt come together.
SOON = 512

Read = tuple[int, TokenLogprob | None]
_NOT_A_NUMBER = (
    "the model's output is not a number (NaN or infinite logits): the weights are damaged, or overflow in their"
    " precision; check the checkpoint, or load it with other weights"
)


class Runner:
    """Runs rows on a model. ``kv_bits`` (8 or 4) keeps their caches packed; ``prefixes`` keeps what was computed.

    A row is started, fed by :meth:`prefill` until it has drawn a token, and joins the batch, whose rows take a
    :meth:`step` together. Once forced tokens are put behind it by :meth:`force`, :meth:`hand_out` takes it out again to
    be fed; :meth:`leave` does for good. Rows are run on the engine's one thread: MLX streams are thread-local.
    """

    def __init__(self, model: Model, config: ModelConfig, prefixes: PrefixCache, kv_bits: int | None = None) -> None:
        self.model = model
        self.config = config
        self.prefixes = prefixes
        self.kv_bits = kv_bits
        self._batch = Batch(model)

    @property
    def footprint(self) -> Footprint:
        """What the model takes here."""
        arrays: Any = tree_flatten(self.model.parameters())
        weights, itemsize = sum(array.nbytes for _, array in arrays), self.model.model.norm.weight.dtype.size
        weights += derived_bytes(self.config, itemsize)
        return _footprint(self.config, self.model.kernels, self.kv_bits, weights, itemsize)

    def release(self) -> None:
        """Give the buffers back that MLX keeps for later."""
        mx.clear_cache()

    def held(self, running: Sequence[Row]) -> Held:
        """What is planned for these rows, and held for nobody."""
        apart = [row for row in running if row.place is None]
        grown = [row.cache.capacity if row.cache is not None else 0 for row in apart]
        return [*self._batch.held(running), *map(max, map(planned, apart), grown)]

    @property
    def full(self) -> list[Row]:
        """The rows that have to grow before they take a step."""
        return self._batch.full

    @property
    def leaving(self) -> Held:
        """Positions of the places that rows leave to be fed forced tokens: :meth:`hand_out` has to follow."""
        return self._batch.leaving

    def pack(self) -> bool:
        """Give up what rows can do without; False if there is nothing."""
        return self._batch.pack()

    def grow(self, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """Have so many positions for each of these rows of the batch."""
        self._batch.grow(rows, positions)

    def start(self, row: Row) -> None:
        """Give the row its sampler and its cache, which may hold a part of the prompt already."""
        params = row.request.params
        row.seed = fresh_seed() if params.seed is None else params.seed
        row.cache = KVCache(self.config, kv_bits=self.kv_bits, kernels=self.model.kernels)
        row.cache.reserve(len(row.tokens) + 1)
        # A prompt that is to be scored has to be computed.
        known = 0 if row.request.scored else self.prefixes.fetch(row.tokens[:-1], row.cache)
        row.cached = row.held = known
        del row.feed[: row.cached]
        row.sampler = Sampler([params], [row.seed], self.config.vocab_size)
        state, generated = row.sampler.start([row.request.prompt]), [token for token, _ in row.request.generated]
        row.state = row.sampler.force(state, 0, generated)

    def prefill(self, row: Row, count: int) -> None:
        """Feed the next ``count`` pending tokens; when they are the last, draw the token that follows."""
        tokens, row.feed = row.feed[:count], row.feed[count:]
        hidden = self.model.hidden(mx.array([tokens]), row.cache)
        if row.request.scored and row.held < len(row.request.prompt) - 1:
            targets = row.request.prompt[row.held + 1 : row.held + 1 + len(tokens)]
            row.scores += score(self.model.head, hidden[0, : len(targets)], targets, row.request.params.logprobs or 0)
        row.held += len(tokens)
        if row.feed:
            # Nothing is drawn from this chunk, but its keys and values must exist before the next one is queued.
            mx.eval(hidden)
        else:
            self._draw(row, self.model.head(hidden[:, -1:])[:, -1])
            if row.held - row.cached >= SOON:
                self._keep_row(row)

    def warm(self, tokens: Sequence[int], count: int, cache: KVCache | None) -> KVCache:
        """Feed the next ``count`` tokens of a prompt into ``cache``, or into one that begins with what is known of it;
        waits for them."""
        if cache is None:
            cache = KVCache(self.config, kv_bits=self.kv_bits, kernels=self.model.kernels)
            self.prefixes.fetch(tokens, cache)
        if piece := tokens[cache.offset : cache.offset + count]:
            mx.eval(self.model.hidden(mx.array([piece]), cache))
        return cache

    def join(self, rows: Sequence[Row]) -> None:
        """Let rows that have drawn a token take part in the steps."""
        self._batch.join(rows)

    def step(self) -> Unread | None:
        """Feed each row the token drawn last, still unread on the device, and start drawing the next, unless a row
        follows a grammar; returns what was unread."""
        return self._batch.step()

    def draw(self) -> None:
        """Start drawing what :meth:`step` has not: every row's ``mask`` is known now."""
        self._batch.draw()

    def first(self, row: Row) -> Read | EngineError:
        """Wait for the token that a row has drawn before it joins."""
        assert row.ahead is not None
        return _listed(row.ahead)[0]

    def read(self, unread: Unread | None) -> list[tuple[Row, Read | EngineError]]:
        """Wait for drawn tokens; an error for a row whose logits are NaN or infinite."""
        if unread is None or not unread.rows:
            return []
        drawn = _listed(unread.out)
        return [(row, drawn[place]) for row, place in unread.rows]

    def force(self, row: Row, tokens: tuple[int, ...]) -> None:
        """Put forced tokens behind those that were read, instead of what is drawn ahead: the row leaves the batch with
        :meth:`hand_out`, or does not join, to be fed."""
        if row.ahead is not None:
            row.feed.append(row.tokens[-1])  # read, but not in the cache yet
            row.ahead = None
        self._batch.withdraw(row)
        assert row.sampler is not None and row.state is not None
        row.feed.extend(tokens)
        row.tokens.extend(tokens)
        if row.cache is not None:
            row.cache.reserve(row.length + 1)
        row.state = row.sampler.force(row.state, 0, tokens)

    def hand_out(self, *, keep: bool) -> None:
        """Take the rows out of the batch that were forced, all at once. ``keep``: there is memory to keep their places
        for who comes next."""
        self._batch.hand_out(keep=keep)

    def leave(self, row: Row, *, keep: bool) -> None:
        """Let go of all that the row has on the device; ``keep``: keep what it has computed for others."""
        if keep and row.held:
            self._keep_row(row)
        self._batch.leave(row)
        row.cache = row.ahead = row.state = row.sampler = None

    def end(self) -> None:
        """The last act of the thread that ran rows: let go of its streams, and of what was traced on it. MLX does so
        when the thread is gone, which is too late where the interpreter ends as well: the process aborts."""
        with contextlib.suppress(Exception):  # of a pass that nobody waits for any more
            mx.synchronize()
        mx.clear_streams()

    def keeps(self, tokens: int) -> bool:
        """Whether so many can be kept at all."""
        itemsize = self.model.model.norm.weight.dtype.size
        return tokens * kv_bytes_per_token(self.config, self.kv_bits, itemsize) <= self.prefixes.budget

    def keep(self, tokens: Sequence[int], cache: KVCache, row: int = 0) -> None:
        """Keep a row of a cache for requests that begin alike. Whatever prevents it is nobody's error: they compute
        it."""
        with contextlib.suppress(Exception):
            self.prefixes.store(tokens, cache, row)

    def _keep_row(self, row: Row) -> None:
        batch = self._batch.cache
        if row.place is None or batch is None:
            cache, index = row.cache, 0
        else:
            cache, index = batch.at(row.place)
        if cache is not None:
            self.keep(row.tokens[: row.held], cache, index)

    def _draw(self, row: Row, logits: mx.array) -> None:
        assert row.sampler is not None and row.state is not None
        row.ahead, row.state = row.sampler(logits, row.state, [row.mask])
        mx.async_eval(row.ahead.arrays())


def working_bytes(config: ModelConfig, kv_bits: int | None, kernels: Kernels) -> int:
    """The least that a model needs besides its weights: the smallest cache and a small pass."""
    itemsize = kernels.dtype.size if kernels.dtype is not None else 2
    return _footprint(config, kernels, kv_bits, 0, itemsize).peak([(1, CACHE_STEP)], LEAST_CHUNK)


def _footprint(config: ModelConfig, kernels: Kernels, kv_bits: int | None, weights: int, itemsize: int) -> Footprint:
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    unpacked = UNPACKED if kernels.packed else None
    return Footprint(config, weights, itemsize, kv_bits, scores=on_cpu, unpacked=unpacked)


def _listed(out: SampleOut) -> list[Read | EngineError]:
    """What each place has drawn."""
    tokens: Any = out.tokens.tolist()
    peaks: Any = out.peak.tolist()
    logprobs = [None] * len(tokens) if out.logprobs is None else out.token_logprobs()
    return [
        read if math.isfinite(peak) else EngineError(_NOT_A_NUMBER)
        for read, peak in zip(zip(tokens, logprobs, strict=True), peaks, strict=True)
    ]
