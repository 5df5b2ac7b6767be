"""Batched sampling: one lazy graph turns the logits of every row into its next token.

A ``Sampler`` is built for a fixed list of rows (their ``SamplingParams`` and seeds) and holds no mutable state.
Everything that depends on tokens lives in an immutable ``SamplerState`` that is passed in and handed back, so running
one step ahead costs nothing to undo: whoever discards a step keeps the state from before it. Nothing here evaluates.

The stages are those of ``SamplingParams``, in fp32: logit_bias, repetition (over prompt and generated tokens, as in
transformers), presence and frequency (over generated tokens), temperature, top_k, top_p, min_p. Only the stages that
some row needs are built. Exact meanings:

- Tokens are ordered by score, the lowest id first among equals. Greedy takes the first, top_k exactly the first k.
- top_p keeps the smallest prefix of that order whose share of what top_k left reaches p: the token that crosses stays.
- min_p keeps tokens at least ``min_p`` times as probable as the most probable one.
- The draw inverts the cumulative distribution at a uniform number that depends on (seed, index of the token in its
  row) alone. So a row's text does not depend on which rows share its batch, nor on how often a step was redone.

The vocabulary is never sorted for top_k: the k best tokens lie in the k blocks with the best maxima, so one maximum
per block and two short sorts find them exactly. Only top_p *without* top_k orders the whole vocabulary.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from .masks import masked
from .types import SamplingParams, TokenLogprob
from .values import frozen

_LANES = 32  # rows that go through exp() are multiples of this: vector lanes then fall alike in every batch
_BLOCK = 128  # cumulative sums over a vocabulary go block by block, so that rounding does not swallow the tail
_SHORT = 4096  # so few scores are sorted faster than searched in blocks; the result is the same
_TINY = 1.2e-38  # the smallest normal float32: a temperature below it is greedy
# A parallel cumulative sum may rise by a rounding even where nothing is added. Staying this much below the whole keeps
# a draw off the weightless tokens at the end of an ordered list.
_BELOW_ONE = 1 - 2.0**-20


def fresh_seed() -> int:
    """A seed from the system's entropy, for a request that names none (53 bits: JSON readers keep it exact)."""
    return int.from_bytes(os.urandom(7)) >> 3


@frozen
class SamplerState:
    """What the tokens so far mean for the next draw. Immutable; its arrays are lazy.

    ``positions``: tokens generated so far, per row. ``counts`` [rows, vocab] float32: how often each was generated
    (``None`` when no row has a penalty); ``prompt`` [rows, vocab] bool: tokens of the prompt (``None`` when no row has
    a repetition penalty).
    """

    positions: tuple[int, ...]
    counts: mx.array | None = None
    prompt: mx.array | None = None

    @staticmethod
    def gather(picks: Sequence[tuple[SamplerState, int]]) -> SamplerState:
        """A state made of rows of other states: rows join, leave, or return to an earlier step, the rest go on."""

        def rows(name: str) -> mx.array | None:
            found = [(getattr(state, name), row) for state, row in picks]
            like = next((a for a, _ in found if a is not None), None)
            if like is None:
                return None
            blank = mx.zeros((1, like.shape[1]), dtype=like.dtype)
            return mx.concatenate([blank if a is None else a[row : row + 1] for a, row in found])

        return SamplerState(tuple(state.positions[row] for state, row in picks), rows("counts"), rows("prompt"))


@frozen
class Logprobs:
    """Natural log-probabilities under the raw logits, for the rows that asked (``rows``), as lazy arrays.

    ``drawn`` [R]; ``top_ids`` and ``top`` [R, n]: the n most likely tokens, the drawn one among them when it is one.
    """

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    drawn: mx.array
    top_ids: mx.array | None
    top: mx.array | None


@frozen
class SampleOut:
    """One step's draw, lazy. ``tokens`` [rows] uint32; ``peak`` [rows]: each row's largest raw logit.

    A ``peak`` that is not finite (NaN propagates) means that the model's output for that row is unusable; its token
    is then some valid id without meaning.
    """

    tokens: mx.array
    peak: mx.array
    logprobs: Logprobs | None = None

    def arrays(self) -> list[mx.array]:
        """What to hand to ``mx.async_eval``."""
        if self.logprobs is None:
            return [self.tokens, self.peak]
        extra = (self.logprobs.drawn, self.logprobs.top_ids, self.logprobs.top)
        return [self.tokens, self.peak, *(a for a in extra if a is not None)]

    def token_logprobs(self) -> list[TokenLogprob | None]:
        """Per row, ``None`` where it was not asked for. Waits for the arrays."""
        out: list[TokenLogprob | None] = [None] * self.tokens.shape[0]
        found = self.logprobs
        if found is None:
            return out
        tokens, drawn = _listed(self.tokens), _listed(found.drawn)
        ids = _listed(found.top_ids) if found.top_ids is not None else [[] for _ in found.rows]
        values = _listed(found.top) if found.top is not None else [[] for _ in found.rows]
        for i, (row, width) in enumerate(zip(found.rows, found.widths, strict=True)):
            top = tuple(zip(ids[i][:width], values[i][:width], strict=True))
            out[row] = TokenLogprob(tokens[row], drawn[i], top)
        return out


class Sampler:
    """Draws the next token of every row.

    ``params``: one per row, resolved (no ``None`` but in seed, max_tokens, logit_bias, logprobs) and valid; ``seeds``:
    one per row, any integers; ``vocab_size``: the width of the logits.
    """

    def __init__(self, params: Sequence[SamplingParams], seeds: Sequence[int], vocab_size: int) -> None:
        assert params and len(params) == len(seeds), "one seed per row"
        self.vocab_size = vocab_size
        self._streams = [_stream_key(seed) for seed in seeds]
        self._rows = mx.arange(len(params))
        self._bias = _bias_table(params, vocab_size)
        self._repetition = _column(params, "repetition_penalty", neutral=1.0)
        self._presence = _column(params, "presence_penalty", neutral=0.0)
        self._frequency = _column(params, "frequency_penalty", neutral=0.0)
        self._counting = any(a is not None for a in (self._repetition, self._presence, self._frequency))

        kinds: dict[str, list[int]] = {}
        for row, p in enumerate(params):
            kinds.setdefault(_kind(p, vocab_size), []).append(row)
        self._groups = [_Group(kind, rows, params, vocab_size) for kind, rows in kinds.items()]
        order = [row for rows in kinds.values() for row in rows]
        self._unpermute = mx.argsort(mx.array(order)) if len(kinds) > 1 else None

        asked = [row for row, p in enumerate(params) if p.logprobs is not None]
        self._asked = tuple(asked)
        self._widths = tuple(min(params[row].logprobs or 0, vocab_size) for row in asked)
        self._asked_rows = mx.array(asked) if 0 < len(asked) < len(params) else None
        # Arrays made here must not stay lazy: another thread could not evaluate them.
        mx.eval([v for v in vars(self).values() if isinstance(v, mx.array)])

    def start(self, prompts: Sequence[Sequence[int]]) -> SamplerState:
        """The state before the first token. ``prompts``: each row's token ids (used by repetition penalties only)."""
        rows = len(self._streams)
        assert len(prompts) == rows, "one prompt per row"
        counts = mx.zeros((rows, self.vocab_size)) if self._counting else None
        seen = None
        if self._repetition is not None:
            at = [row * self.vocab_size + token for row, prompt in enumerate(prompts) for token in set(prompt)]
            seen = mx.zeros((rows * self.vocab_size,), dtype=mx.bool_)
            seen[mx.array(at, dtype=mx.int64)] = True
            seen = seen.reshape(rows, self.vocab_size)
        mx.eval([a for a in (counts, seen) if a is not None])
        return SamplerState((0,) * rows, counts, seen)

    def force(self, state: SamplerState, row: int, tokens: Sequence[int]) -> SamplerState:
        """The state after ``tokens`` were put into a row without being drawn: they count like drawn ones."""
        positions = list(state.positions)
        positions[row] += len(tokens)
        counts = state.counts
        if counts is not None and tokens:
            counts = counts.at[mx.array([row] * len(tokens)), mx.array(list(tokens))].add(1.0)
        return replace(state, positions=tuple(positions), counts=counts)

    def __call__(
        self, logits: mx.array, state: SamplerState, masks: Sequence[bytes | None] = ()
    ) -> tuple[SampleOut, SamplerState]:
        """Draw one token per row from ``logits`` [rows, vocab]; returns the draw and the state that counts it.

        ``masks``: for each row the tokens it may draw (a bit each, the first in the lowest bit of the first byte, in
        whole words of 32), ``None`` for any; log-probabilities are those without it.
        """
        assert logits.shape == (len(self._streams), self.vocab_size)
        scores = self._penalised(logits, state) if self._counting or self._bias is not None else logits
        if any(masks):
            scores = masked(scores, masks)
        if self._unpermute is None:
            tokens = self._groups[0].draw(scores, self._uniforms(self._groups[0], state))
        else:
            drawn = [g.draw(scores[g.index], self._uniforms(g, state)) for g in self._groups]
            tokens = mx.concatenate(drawn)[self._unpermute]
        counts = state.counts.at[self._rows, tokens].add(1.0) if state.counts is not None else None
        after = SamplerState(tuple([p + 1 for p in state.positions]), counts, state.prompt)
        logprobs = self._logprobs(logits, tokens) if self._asked else None
        return SampleOut(tokens, mx.max(logits, axis=-1), logprobs), after

    def _penalised(self, logits: mx.array, state: SamplerState) -> mx.array:
        scores = logits.astype(mx.float32)
        if self._bias is not None:
            scores = scores + self._bias
        if not self._counting:
            return scores
        counts = state.counts
        assert counts is not None, "the state was started by a sampler without penalties"
        drawn = counts > 0
        if self._repetition is not None:
            assert state.prompt is not None
            by = self._repetition
            scores = mx.where(state.prompt | drawn, mx.where(scores < 0, scores * by, scores / by), scores)
        if self._presence is not None:
            scores = scores - self._presence * drawn
        if self._frequency is not None:
            scores = scores - self._frequency * counts
        return scores

    def _uniforms(self, group: _Group, state: SamplerState) -> list[tuple[float, float]]:
        if group.kind == "greedy":
            return []
        return [_uniform(self._streams[row], state.positions[row]) for row in group.rows]

    def _logprobs(self, logits: mx.array, tokens: mx.array) -> Logprobs:
        if self._asked_rows is not None:
            logits, tokens = logits[self._asked_rows], tokens[self._asked_rows]
        return Logprobs(self._asked, self._widths, *raw_logprobs(logits, tokens, max(self._widths)))


def raw_logprobs(logits: mx.array, tokens: mx.array, width: int) -> tuple[mx.array, mx.array | None, mx.array | None]:
    """Log-probabilities of ``tokens`` [rows] under ``logits`` [rows, vocab], and the ids and log-probabilities of the
    ``width`` most likely ones, best first (``None`` for a width of 0)."""
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    drawn = (mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0]
    if not width:
        return drawn, None, None
    values, ids = _largest(logits, width)
    return drawn, ids, values - total


class _Group:
    """The rows of a batch that are drawn the same way, with their parameters as columns [rows, 1].

    ``kind``: ``greedy`` (argmax), ``candidates`` (top_k: a short ordered list), ``ordered`` (top_p over the whole
    vocabulary, or a top_k of a good part of it), ``plain`` (the whole vocabulary in any order).
    """

    def __init__(self, kind: str, rows: list[int], params: Sequence[SamplingParams], vocab_size: int) -> None:
        own = [params[row] for row in rows]
        self.kind = kind
        self.rows = rows
        self.index = mx.array(rows)
        limits = [_limit(p, vocab_size) for p in own]
        self.width = _ceil(vocab_size if kind == "ordered" else max(limits), _LANES)
        self.limit = limits[0] if len(set(limits)) == 1 else None
        self.last = mx.array([[k - 1] for k in limits])
        self.temperature = _column(own, "temperature", neutral=1.0)
        self.top_p = _column(own, "top_p", neutral=1.0)
        self.min_p = _column(own, "min_p", neutral=0.0)
        mx.eval([v for v in vars(self).values() if isinstance(v, mx.array)])

    def draw(self, scores: mx.array, uniforms: list[tuple[float, float]]) -> mx.array:
        """One token id per row, [rows] uint32, of ``scores`` [rows, vocab]."""
        if self.kind == "greedy":
            return mx.argmax(scores, axis=-1)
        scores = scores.astype(mx.float32)
        if self.kind == "plain":
            return self._draw_plain(scores, uniforms)
        values, ids = _largest(scores, self.width)
        weights = self._weights(values, values[:, :1])
        at = self._draw_prefix(weights, mx.array([[u * _BELOW_ONE] for u, _ in uniforms]))
        tokens = mx.take_along_axis(ids, at, axis=-1).squeeze(-1)
        # Padding can only be reached in a row of NaN; even then the id must be one the model can embed.
        return tokens if self.width <= scores.shape[-1] else mx.minimum(tokens, scores.shape[-1] - 1)

    def _weights(self, scores: mx.array, peak: mx.array) -> mx.array:
        """Unnormalised probabilities; the most likely token weighs 1, however extreme the temperature."""
        below = scores - peak
        return mx.exp(below if self.temperature is None else below / self.temperature)

    def _draw_prefix(self, weights: mx.array, u: mx.array) -> mx.array:
        """Index drawn, [rows, 1], in falling ``weights`` [rows, width]: every filter then keeps a prefix."""
        sums = _cumsum(weights)
        mass = sums[:, self.limit - 1 : self.limit] if self.limit else mx.take_along_axis(sums, self.last, axis=-1)
        kept = mass
        if self.top_p is not None:
            kept = mx.min(mx.where(sums >= mass * self.top_p, sums, mx.inf), axis=-1, keepdims=True)
        if self.min_p is not None:
            probable = mx.max(mx.where(weights >= self.min_p, sums, 0.0), axis=-1, keepdims=True)
            kept = mx.minimum(kept, probable)
        return mx.argmax(sums > u * kept, axis=-1, keepdims=True)

    def _draw_plain(self, scores: mx.array, uniforms: list[tuple[float, float]]) -> mx.array:
        """No order needed: first a block by its mass, then a token inside, each with a uniform of its own."""
        vocab_size = scores.shape[-1]
        scores = _padded(scores, _BLOCK, -mx.inf)
        weights = self._weights(scores, mx.max(scores, axis=-1, keepdims=True))
        if self.min_p is not None:
            weights = mx.where(weights >= self.min_p, weights, 0.0)
        blocks = weights.reshape(len(self.rows), -1, _BLOCK)
        u = mx.array(uniforms)
        block = _invert(mx.cumsum(blocks, axis=-1)[..., -1], u[:, :1])
        inside = mx.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
        return mx.minimum(block * _BLOCK + _invert(inside, u[:, 1:]), vocab_size - 1)


def _largest(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Values and ids (uint32) [rows, count] of the largest scores, falling, the lowest id first among equals.

    Where ``count`` exceeds the vocabulary, the rest is minus infinity with ids beyond it.
    """
    rows, vocab_size = scores.shape
    block = 1 << max(0, round(math.log2(max(1.0, vocab_size / count)) / 2))
    if rows * vocab_size <= _SHORT or count * block * 2 > vocab_size:
        scores = _padded(scores, count, -mx.inf) if count > vocab_size else scores
        ids = mx.argsort(-scores, axis=-1)[:, :count]
        return mx.take_along_axis(scores, ids, axis=-1), ids
    blocks = _padded(scores, block, -mx.inf).reshape(rows, -1, block)
    best = mx.argsort(-mx.max(blocks, axis=-1), axis=-1)[:, :count]
    best = mx.sort(best, axis=-1)[..., None]  # back in order of ids, which is what makes ties come out right
    values = mx.take_along_axis(blocks, best, axis=1).reshape(rows, -1)
    ids = (best * block + mx.arange(block, dtype=mx.uint32)).reshape(rows, -1)
    order = mx.argsort(-values, axis=-1)[:, :count]
    return mx.take_along_axis(values, order, axis=-1), mx.take_along_axis(ids, order, axis=-1)


def _cumsum(weights: mx.array) -> mx.array:
    """Cumulative sums along the last axis; block by block when it is long, so that small terms are not lost."""
    rows, width = weights.shape
    if width <= _BLOCK:
        return mx.cumsum(weights, axis=-1)
    inside = mx.cumsum(_padded(weights, _BLOCK, 0.0).reshape(rows, -1, _BLOCK), axis=-1)
    before = mx.cumsum(inside[..., -1], axis=-1, inclusive=False)
    return (inside + before[..., None]).reshape(rows, -1)[:, :width]


def _invert(weights: mx.array, u: mx.array) -> mx.array:
    """Index [rows] at which the cumulative sum of ``weights`` [rows, width] passes ``u`` [rows, 1] of the whole."""
    sums = mx.cumsum(weights, axis=-1)
    # A parallel sum may wobble by a rounding on a plateau: what weighs nothing must not be drawn even so.
    return mx.argmax(mx.where(weights > 0, sums, 0.0) > u * sums[:, -1:], axis=-1)


def _listed(x: mx.array) -> list[Any]:
    return x.tolist()  # type: ignore[return-value]  # typed as if every array could be a scalar


def _padded(x: mx.array, multiple: int, value: float) -> mx.array:
    extra = -x.shape[-1] % multiple
    return mx.pad(x, [(0, 0), (0, extra)], constant_values=value) if extra else x


def _ceil(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _limit(p: SamplingParams, vocab_size: int) -> int:
    return p.top_k if p.top_k and p.top_k < vocab_size else vocab_size


def _kind(p: SamplingParams, vocab_size: int) -> str:
    assert p.temperature is not None and p.top_p is not None and p.top_k is not None, "resolve the defaults first"
    if p.temperature < _TINY or _limit(p, vocab_size) == 1:
        return "greedy"
    if _limit(p, vocab_size) <= vocab_size // 4:
        return "candidates"
    return "ordered" if p.top_p < 1 or _limit(p, vocab_size) < vocab_size else "plain"


def _column(params: Sequence[SamplingParams], name: str, neutral: float) -> mx.array | None:
    """A parameter of every row as float32 [rows, 1], or ``None`` where it changes nothing in any row."""
    values = [float(getattr(p, name)) for p in params]
    return None if all(v == neutral for v in values) else mx.array(values)[:, None]


def _bias_table(params: Sequence[SamplingParams], vocab_size: int) -> mx.array | None:
    entries = [(row, token, value) for row, p in enumerate(params) for token, value in (p.logit_bias or {}).items()]
    if not entries:
        return None
    rows, tokens, values = zip(*entries, strict=True)
    assert min(tokens) >= 0 and max(tokens) < vocab_size, "a biased token is outside the vocabulary"
    table = mx.zeros((len(params), vocab_size))
    table[mx.array(rows), mx.array(tokens)] = mx.array(values, dtype=mx.float32)
    return table


def _stream_key(seed: int) -> bytes:
    return hashlib.blake2b(str(seed).encode(), digest_size=32).digest()


def _uniform(key: bytes, position: int) -> tuple[float, float]:
    """Two numbers in [0, 1), each a multiple of 2**-24 and so exact in float32, for a row's token at ``position``.

    A hash on the host: a microsecond or two, the same on every backend, and no operation on the device.
    """
    digest = hashlib.blake2b(key + position.to_bytes(8, "little"), digest_size=6).digest()
    bits = int.from_bytes(digest, "little")
    return (bits >> 24) * 2.0**-24, (bits & 0xFFFFFF) * 2.0**-24
