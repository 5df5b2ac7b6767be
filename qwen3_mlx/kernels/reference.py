"""Every kernel written out in plain MLX operations: what the others are tested against, and what a CPU runs.

On a CPU device ``mx.fast.*`` has no kernels of its own and unfolds into dozens of small operations; these are the same
formulas in fewer. One decode step (length 1) takes the short way wherever it has one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from .views import DenseView, Entry, Lengths, Packing, View, entry, filled, unpacked

# Pairs of a token and an expert from which sorting them by expert pays: each expert's weights are then read once.
SORT_FROM = 64
# Queries that attend together in a prefill.
BLOCK = 64


class Frequencies(NamedTuple):
    """Rotary frequencies (radians per position) of a head's coordinates, float32.

    ``periods [head_dim / 2]``: their reciprocals, as ``mx.fast.rope`` wants them; ``signed [head_dim]``: the negated
    frequencies, then the frequencies; ``turns [head_dim / 2]``: the frequencies in 2^-64 of a turn (uint64), for
    :mod:`qwen3_mlx.kernels.norm_rope`.
    """

    periods: mx.array
    signed: mx.array
    turns: mx.array


class Norms(NamedTuple):
    """RMSNorm of query and key heads: weights ``[head_dim]``; ``heads [q_heads + kv_heads, 1, head_dim]``, the weight
    of each head; and what is added to the mean square. ``q_heads``: how many heads are queries'."""

    queries: mx.array
    keys: mx.array
    heads: mx.array
    eps: float
    q_heads: int


def norms(queries: mx.array, keys: mx.array, eps: float, q_heads: int, kv_heads: int) -> Norms:
    """The norms of so many heads with these weights ``[head_dim]``; once a model."""
    (head_dim,) = queries.shape
    heads = [mx.broadcast_to(w, (n, 1, head_dim)) for w, n in ((queries, q_heads), (keys, kv_heads))]
    return Norms(queries, keys, mx.concatenate(heads), eps, q_heads)


Activation = Callable[[mx.array, mx.array], mx.array]
UnsortSum = Callable[[mx.array, mx.array, mx.array], mx.array]


class Packed(NamedTuple):
    """A stack of affine-packed linear layers as ``mx.quantize`` returns it: ``weight [experts, out, in * bits / 32]``
    (uint32), ``scales`` and ``biases [experts, out, in / group_size]``."""

    weight: mx.array
    scales: mx.array
    biases: mx.array
    bits: int
    group_size: int


class Experts(Protocol):
    """A stack of linear layers: ``x [..., rows, in]`` -> ``[..., rows, out]`` through the expert chosen for each
    leading position; ``ordered`` promises ascending expert numbers."""

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array: ...

    @property
    def packed(self) -> Packed | None:
        """The stack's arrays, if it is one stack and affine-packed."""


@functools.cache
def _constant(value: float, dtype: mx.Dtype = mx.float32) -> mx.array:
    """A scalar made once: turning a Python number into an array costs as much as an operation."""
    return mx.array(value, dtype=dtype)


@functools.cache
def _second() -> Any:
    return mx.new_thread_local_stream(mx.cpu)


def second_thread() -> contextlib.AbstractContextManager[object]:
    """For what is built in this block: another queue of a CPU device, each of which has one thread, as has its BLAS."""
    if mx.default_device().type != mx.DeviceType.cpu:
        return contextlib.nullcontext()
    return mx.stream(_second())


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, computed in float32 (Zhang and Sennrich 2019).

    ``x [..., rows, dims]``; ``weight`` broadcasts against it.
    """
    *_, rows, dims = x.shape
    if rows > 1:
        return mx.multiply(mx.fast.rms_norm(x, None, eps), weight)
    wide = x.astype(mx.float32)
    # One row: mean(x^2) + eps is one matrix product.
    mean = mx.addmm(_constant(eps), wide, mx.swapaxes(wide, -1, -2), alpha=1 / dims)
    return mx.multiply(mx.multiply(wide, mx.rsqrt(mean)).astype(x.dtype), weight)


class Rotation(NamedTuple):
    """Rotary embedding at the positions of one forward pass: ``cos``, ``sin [length, head_dim]``, or ``[batch, 1,
    length, head_dim]`` where rows differ, the first half of ``sin`` negated; ``swap [head_dim]`` exchanges the halves
    of a head."""

    cos: mx.array
    sin: mx.array
    swap: mx.array


@functools.cache
def _swap(width: int) -> mx.array:
    half = width // 2
    return mx.array([*range(half, width), *range(half)])


def rotation(frequencies: Frequencies, offsets: Lengths, length: int) -> Rotation:
    """The rotation at the ``length`` positions of each row from its offset on, made once for all layers."""
    offset = offsets.most
    if not offsets.equal:
        positions = mx.add(offsets.array[:, None, None, None], mx.arange(length)[:, None])
        angles = mx.multiply(positions.astype(mx.float32), frequencies.signed)
    elif length == 1:
        angles = mx.multiply(frequencies.signed, float(offset))
    else:
        angles = mx.multiply(mx.arange(offset, offset + length, dtype=mx.float32)[:, None], frequencies.signed)
    return Rotation(mx.cos(angles), mx.sin(angles), _swap(frequencies.signed.shape[0]))


def _turn(heads: mx.array, norms: Norms, rotation: Rotation) -> mx.array:
    """``heads [batch, q_heads + kv_heads, length, head_dim]``: coordinate i of a normed head is rotated with coordinate
    i + head_dim / 2 (Su et al. 2021)."""
    cos, sin, swap = rotation
    normed = rms_norm(heads, norms.heads, norms.eps)
    swapped = mx.take(normed, swap, axis=-1)
    return mx.add(mx.multiply(normed, cos), mx.multiply(swapped, sin)).astype(heads.dtype)


def norm_rope(
    qkv: mx.array,
    norms: Norms,
    rotation: Any,
    packing: Packing | None,
    turn: Callable[[mx.array, Norms, Any], mx.array] = _turn,
) -> tuple[mx.array, Entry]:
    """``qkv [batch, length, (q_heads + 2 * kv_heads) * head_dim]``, the heads of queries, keys and values side by side
    -> queries ``[batch, q_heads, length, head_dim]`` and what the cache stores of keys and values.

    Per-head RMSNorm, then rotary embedding, of queries and keys; ``turn`` does both. Keys are packed as they come out
    of float32: rounding them to 16 bits before would be up to half a step of 8 bits by itself.
    """
    batch, length, width = qkv.shape
    turning, _, head_dim = norms.heads.shape
    if length == 1:
        heads = mx.reshape(qkv, (batch, width // head_dim, 1, head_dim))
    else:
        heads = mx.swapaxes(mx.reshape(qkv, (batch, length, width // head_dim, head_dim)), 1, 2)
    queries_keys, values = mx.split(heads, [turning], axis=1)
    wide = queries_keys if packing is None else queries_keys.astype(mx.float32)
    queries, keys = mx.split(turn(wide, norms, rotation), [norms.q_heads], axis=1)
    if packing is None:
        return queries, (keys, values)
    return queries.astype(qkv.dtype), entry(keys, values, packing)


def attend(queries: mx.array, view: View, scale: float) -> mx.array:
    """Causal attention of the last ``length`` positions over everything in ``view``.

    ``queries [batch, q_heads, length, head_dim]`` -> the same shape; ``q_heads`` is a multiple of the view's heads.
    """
    dense = view if isinstance(view, DenseView) else unpacked(view, queries.shape[-1], queries.dtype)
    most, equal = dense.lengths.most, dense.lengths.equal
    keys, values = filled(dense.keys, most), filled(dense.values, most)
    queries = mx.multiply(queries, _constant(scale, queries.dtype))
    length = queries.shape[2]
    if length == 1:
        mask = None if equal else dense.lengths.mask.astype(queries.dtype)
        return _attend_block(queries, mx.swapaxes(keys, 2, 3), values, mask)
    assert equal, "several tokens of rows that differ in length"
    # In blocks of queries, each against the keys it may see: half the work; two at a time, never all scores at once.
    columns, past = mx.contiguous(mx.swapaxes(keys, 2, 3)), most - length
    blocks: list[mx.array] = []
    for first in range(0, length, BLOCK):
        last = min(first + BLOCK, length)
        seen = past + last
        mask = mx.where(mx.tri(last - first, seen, past + first, mx.bool_), 0.0, -mx.inf).astype(queries.dtype)
        given = [queries[:, :, first:last], columns[:, :, :, :seen], values[:, :, :seen], mask]
        with second_thread() if len(blocks) % 2 else contextlib.nullcontext():
            blocks.append(_attend_block(*mx.depends(given, blocks[-2:-1])))
    return mx.concatenate(blocks, axis=2)


def _attend_block(queries: mx.array, columns: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """Scaled queries against ``columns [batch, kv_heads, head_dim, keys]``; ``mask [length, keys]``, or ``[batch, 1,
    length, keys]``, is added."""
    batch, heads, length, width = queries.shape
    kv_heads = values.shape[1]
    # The query heads that share a key head are rows of one matrix: nothing is broadcast.
    scores = mx.matmul(mx.reshape(queries, (batch, kv_heads, -1, width)), columns)
    if mask is not None:
        if length > 1:
            scores = mx.reshape(scores, (batch, kv_heads, -1, *mask.shape))
        scores = mx.reshape(mx.add(scores, mask), (batch, kv_heads, -1, mask.shape[-1]))
    weights = mx.softmax(scores, axis=-1, precise=True)
    return mx.reshape(mx.matmul(weights, values), (batch, heads, length, width))


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """``silu(gate) * up`` (Shazeer 2020)."""
    return mx.multiply(mx.multiply(gate, mx.sigmoid(gate)), up)


def route(logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
    """``logits [rows, experts]`` -> the ``top_k`` experts of each row and their float32 weights, ``[rows, top_k]``.

    Weights are the softmax over all experts, renormalised over the chosen ones if ``normalise``.
    """
    logits = logits.astype(mx.float32)
    least = logits.shape[-1] - top_k
    if normalise:
        # renormalising a softmax over all is the softmax over the chosen
        experts = _top(logits, least)
        return experts, mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1)
    weights = mx.softmax(logits, axis=-1)
    experts = _top(weights, least)
    return experts, mx.take_along_axis(weights, experts, axis=-1)


def _top(scores: mx.array, least: int) -> mx.array:
    if least == 0:
        return mx.argsort(scores, axis=-1)
    return mx.split(mx.argpartition(scores, kth=least, axis=-1), [least], axis=-1)[1]


def unsort_sum(y: mx.array, order: mx.array, weights: mx.array) -> mx.array:
    """``y [rows * top_k, dims]``, whose n-th row belongs to pair ``order[n]`` of ``weights [rows, top_k]`` -> the
    weighted sum of each row's pairs, ``[rows, dims]``."""
    out = mx.take(y, mx.argsort(order), axis=0)
    return _weighted_sum(mx.reshape(out, (*weights.shape, -1)), weights)


def _weighted_sum(out: mx.array, weights: mx.array) -> mx.array:
    return mx.squeeze(mx.matmul(mx.expand_dims(weights.astype(out.dtype), 1), out), 1)


def moe_swiglu(
    x: mx.array,
    experts: mx.array,
    weights: mx.array,
    gate_up: Experts,
    down: Experts,
    act: Activation = swiglu,
    unsort_sum: UnsortSum = unsort_sum,
) -> mx.array:
    """The weighted sum of SwiGLU experts: ``x [rows, dims]``, ``experts`` and ``weights [rows, top_k]`` -> ``[rows,
    dims]``. ``gate_up`` yields gate and up side by side."""
    rows, top_k = experts.shape
    if rows * top_k < SORT_FROM:
        spread = mx.reshape(x, (rows, 1, 1, -1))
        gate, up = mx.split(gate_up(spread, experts), 2, axis=-1)
        return _weighted_sum(mx.reshape(down(act(gate, up), experts), (rows, top_k, -1)), weights)
    flat = mx.flatten(experts)
    order = mx.argsort(flat)
    flat = mx.take(flat, order)
    spread = mx.expand_dims(mx.take(x, mx.floor_divide(order, top_k), axis=0), 1)
    gate, up = mx.split(gate_up(spread, flat, True), 2, axis=-1)
    out = mx.squeeze(down(act(gate, up), flat, True), 1)
    return unsort_sum(out, order, weights)


def start(offsets: Lengths) -> mx.array:
    """The position at which each row of a step is written to the cache, in the form ``write`` takes; one for all
    layers."""
    return mx.array([offsets.most]) if offsets.equal else offsets.array[:, None, None, None]


def write(buffer: mx.array, new: mx.array, start: mx.array) -> mx.array:
    """``buffer [batch, heads, capacity, width]`` with ``new [batch, heads, length, width]`` from the start position on
    (``length`` is 1 where rows have positions of their own); in place when nothing else holds the buffer."""
    if start.ndim == 1:
        return mx.slice_update(buffer, new, start, (2,))
    assert new.shape[2] == 1, "several tokens of rows that differ in length"
    return mx.put_along_axis(buffer, start, new, axis=2)
