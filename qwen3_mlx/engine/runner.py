"""One forward pass and one draw for a row. Builds graphs and starts them; when to read is the engine's decision."""

from __future__ import annotations

import math

import mlx.core as mx

from ..cache.kv import KVCache
from ..config import ModelConfig
from ..errors import EngineError
from ..model.qwen3 import Qwen3 as Model
from ..sampling import Sampler, fresh_seed
from ..types import TokenLogprob
from .row import Draw, Row


class Runner:
    """Runs rows on a model. ``kv_bits`` (8 or 4) keeps their caches packed.

    Rows are run on the engine's one thread: MLX streams are thread-local.
    """

    def __init__(self, model: Model, config: ModelConfig, kv_bits: int | None = None) -> None:
        self.model = model
        self.config = config
        self.kv_bits = kv_bits

    def start(self, row: Row) -> None:
        """Give the row its cache and its sampler."""
        params = row.request.params
        seed = fresh_seed() if params.seed is None else params.seed
        row.cache = KVCache(self.config, kv_bits=self.kv_bits, kernels=self.model.kernels)
        row.sampler = Sampler([params], [seed], self.config.vocab_size)
        row.state = row.sampler.start([row.request.prompt])

    def prefill(self, row: Row, count: int) -> None:
        """Feed the next ``count`` pending tokens; when they are the last, draw the token that follows."""
        tokens, row.feed = row.feed[:count], row.feed[count:]
        hidden = self.model.hidden(mx.array([tokens]), row.cache)
        if row.feed:
            # Nothing is drawn from this chunk, but its keys and values must exist before the next one is queued.
            mx.eval(hidden)
        else:
            self._draw(row, self.model.head(hidden[:, -1:])[:, -1])

    def decode(self, row: Row) -> None:
        """Feed the token drawn last, still unread on the device, and start drawing the next."""
        assert row.ahead is not None
        self._draw(row, self.model(row.ahead.out.tokens[:, None], row.cache)[:, -1])

    def read(self, draw: Draw) -> tuple[int, TokenLogprob | None]:
        """Wait for a drawn token. Raises EngineError when the logits it was drawn from are NaN or infinite."""
        token, peak = draw.out.tokens.item(), draw.out.peak.item()
        assert isinstance(token, int) and isinstance(peak, float)
        if not math.isfinite(peak):
            raise EngineError(
                "the model's output is not a number (NaN or infinite logits): the weights are damaged, or overflow in"
                " their precision; check the checkpoint, or load it with other weights"
            )
        return token, draw.out.token_logprobs()[0] if draw.out.logprobs is not None else None

    def force(self, row: Row, tokens: tuple[int, ...]) -> None:
        """Throw away the token drawn ahead and put forced tokens in its place."""
        assert row.sampler is not None and row.state is not None
        if row.ahead is not None:
            row.state = row.ahead.before
        row.ahead = None
        row.feed.extend(tokens)
        row.state = row.sampler.force(row.state, 0, tokens)

    def _draw(self, row: Row, logits: mx.array) -> None:
        assert row.sampler is not None and row.state is not None
        out, after = row.sampler(logits, row.state)
        mx.async_eval(out.arrays())
        row.ahead = Draw(out, row.state)
        row.state = after
