"""The kernels beside the MLX operations they replace, at the sizes of a decode step.

"Stock" is the best that MLX itself has for the same inputs and the same storage, not what this project falls back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mlx.core as mx

from ..config import QuantSpec
from ..kernels import Norms, Packed, decode_attention, norm_rope, norms, packed_rows, reference, router
from ..kernels import experts as expert_kernels
from ..kernels import grouped_experts as grouped
from ..kernels import unsort_sum as unsorting
from ..kernels.attention_trials import ATTENTION, NORM_ROPE, PACK, TABLE
from ..kernels.decode_attention import Segment
from ..kernels.dispatch import on_stock
from ..kernels.linear_trials import LINEAR_PACKED, LINEAR_PLAIN, RMS_NORM
from ..kernels.moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from ..model.linear import QuantizedSwitchLinear
from ..model.rope import frequencies
from . import linear_cases
from .catalogue import Use
from .timing import OURS, STOCK, Case, rotating

#: Bytes of weights or rows that launches go through before they come back to the first: more than any cache holds.
ROOM = 256 << 20
#: Tokens of a long history.
TOKENS = 4096
#: Values that are read once and hardly count.
_FEW = 64
#: Tokens of a pass of grouped experts, and of a prompt.
_GROUPED, _PROMPT = 32, 128


def case(use: Use, room: int = ROOM, tokens: int = TOKENS) -> Case | None:
    """What to time for an instantiation, inputs evaluated; ``None`` for a kernel that nothing is known of."""
    make = _CASES.get(use.trial.kernel)
    return make(use, room, tokens) if make else None


def _normal(*shape: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def _rows(width: int, few: bool) -> int:
    """The fewest rows that make an input MLX passes in the space that the instantiation has it in."""
    return 1 if few else -(-8 // width)


# -- experts -----------------------------------------------------------------------------------------------------------


def _router(use: Use, room: int, tokens: int) -> Case:
    dtype, experts, top_k, normalise, few = use.parameters
    rows = _rows(experts, few)
    drawn = [_normal(rows, experts, dtype=dtype, seed=i) for i in range(_FEW)]
    mx.eval(drawn)
    sides = {
        OURS: rotating(drawn, lambda logits: router.route(logits, top_k, normalise)),
        STOCK: rotating(drawn, lambda logits: reference.route(logits, top_k, normalise)),
    }
    return Case(sides, drawn[0].nbytes + 8 * rows * top_k, f"{rows} of {experts} logits")


class _Stack(NamedTuple):
    """Packed experts of random codes, the choices that go through all of them, and bytes of one expert."""

    packed: Packed
    layer: QuantizedSwitchLinear
    chosen: list[mx.array]
    one: int


def _stack(out: int, dims: int, spec: QuantSpec, dtype: mx.Dtype, pick: int, room: int) -> _Stack:
    """``pick`` of them at a time, each chosen once before any is chosen again; as many as fill the room, whatever the
    number a model has: no kernel depends on it."""
    bits, group = spec.bits, spec.group_size
    one = out * dims * bits // 8 + out * dims // group * 2 * dtype.size
    count = max(2, room // one // pick) * pick
    first = mx.random.randint(0, 256, (out, dims * bits // 8), dtype=mx.uint8, key=mx.random.key(1)).view(mx.uint32)
    weight = mx.bitwise_xor(first, mx.arange(count, dtype=mx.uint32)[:, None, None] * 0x9E3779B1)
    scales = mx.random.uniform(0.5, 1.5, (count, out, dims // group), key=mx.random.key(2)) * 0.3 / 2**bits
    scales, biases = scales.astype(dtype), (-(2 ** (bits - 1)) * scales).astype(dtype)
    chosen = [mx.arange(at, at + pick, dtype=mx.uint32) for at in range(0, count, pick)]
    mx.eval(weight, scales, biases, chosen)
    layer = QuantizedSwitchLinear(weight, scales, biases, spec)
    return _Stack(Packed(weight, scales, biases, bits, group), layer, chosen, one)


def _gate_up(use: Use, room: int, tokens: int) -> Case:
    dtype, hidden, inner, top_k, bits, group, few = use.parameters
    rows, act = _rows(top_k, few), _swiglu()
    stack = _stack(2 * inner, hidden, QuantSpec(bits, group), dtype, rows * top_k, room)
    x = _normal(rows, hidden, dtype=dtype)
    spread = mx.reshape(x, (rows, 1, 1, hidden))
    chosen = [mx.reshape(each, (rows, top_k)) for each in stack.chosen]
    mx.eval(x, spread, chosen)
    sides = {
        OURS: rotating(chosen, lambda experts: expert_kernels.gate_up_swiglu(x, experts, stack.packed)),
        STOCK: rotating(chosen, lambda experts: act(*mx.split(stack.layer(spread, experts), 2, axis=-1))),
    }
    moved = rows * top_k * (stack.one + inner * dtype.size) + x.nbytes
    return Case(sides, moved, f"{rows} x {top_k} experts of {hidden} to 2 x {inner}")


def _swiglu() -> reference.Activation:
    """One kernel on a GPU, as every runtime on MLX has it."""
    return on_stock("metal" if mx.metal.is_available() else "emulate").swiglu


def _down(use: Use, room: int, tokens: int) -> Case:
    dtype, hidden, inner, top_k, bits, group, few = use.parameters
    rows = _rows(top_k, few)
    stack = _stack(hidden, inner, QuantSpec(bits, group), dtype, rows * top_k, room)
    x = _normal(rows, top_k, inner, dtype=dtype)
    wide = mx.reshape(x, (rows, top_k, 1, inner))
    shares = mx.softmax(_normal(rows, top_k), axis=-1)
    chosen = [mx.reshape(each, (rows, top_k)) for each in stack.chosen]
    mx.eval(x, wide, shares, chosen)

    def summed(experts: mx.array) -> mx.array:
        each = mx.reshape(stack.layer(wide, experts), (rows, top_k, -1))
        return mx.matmul(mx.expand_dims(shares.astype(dtype), 1), each)

    sides = {
        OURS: rotating(chosen, lambda experts: expert_kernels.down_sum(x, experts, shares, stack.packed)),
        STOCK: rotating(chosen, summed),
    }
    moved = rows * top_k * stack.one + x.nbytes + rows * hidden * dtype.size
    return Case(sides, moved, f"{rows} x {top_k} experts of {inner} to {hidden}")


def _some(stack: _Stack, top_k: int) -> tuple[list[mx.array], int]:
    """Choices ``[_GROUPED, top_k]`` of experts at random, and how many bytes of weights each names, once. They are in
    order already, so that both sides have their results in the same; each puts them in order all the same."""
    count = len(stack.packed.weight)
    drawn = [mx.random.randint(0, count, (_GROUPED * top_k,), key=mx.random.key(i)) for i in range(8)]
    chosen = [mx.reshape(mx.sort(each).astype(mx.uint32), (_GROUPED, top_k)) for each in drawn]
    mx.eval(chosen)
    distinct = {expert for row in chosen[0].tolist() for expert in row}  # type: ignore[union-attr]
    return chosen, len(distinct) * stack.one


def _grouped_gate_up(use: Use, room: int, tokens: int) -> Case:
    """Grouping or sorting included."""
    dtype, hidden, inner, top_k, bits, group = use.parameters
    stack, act = _stack(2 * inner, hidden, QuantSpec(bits, group), dtype, 1, room), _swiglu()
    x, (chosen, weights) = _normal(_GROUPED, hidden, dtype=dtype), _some(stack, top_k)
    mx.eval(x)

    def ours(experts: mx.array) -> mx.array:
        groups = grouped.group(experts, len(stack.packed.weight))
        return grouped.gate_up_swiglu(x, groups, top_k, stack.packed)

    def theirs(experts: mx.array) -> mx.array:
        order = mx.argsort(mx.flatten(experts))
        spread = mx.expand_dims(mx.take(x, mx.floor_divide(order, top_k), axis=0), 1)
        out = act(*mx.split(stack.layer(spread, mx.take(mx.flatten(experts), order), True), 2, axis=-1))
        return mx.reshape(out, (_GROUPED, top_k, inner))

    moved = weights + x.nbytes + _GROUPED * top_k * inner * dtype.size
    sides = {OURS: rotating(chosen, ours), STOCK: rotating(chosen, theirs)}
    return Case(sides, moved, f"{_GROUPED} x {top_k} experts of {hidden} to 2 x {inner}")


def _grouped_down(use: Use, room: int, tokens: int) -> Case:
    """From what is grouped, or sorted, to the sums."""
    dtype, hidden, inner, top_k, bits, group = use.parameters
    stack = _stack(hidden, inner, QuantSpec(bits, group), dtype, 1, room)
    x, shares = _normal(_GROUPED, top_k, inner, dtype=dtype), mx.softmax(_normal(_GROUPED, top_k), axis=-1)
    chosen, weights = _some(stack, top_k)
    sorted_ = mx.reshape(x, (-1, 1, inner))
    held = [(grouped.group(each, len(stack.packed.weight)), mx.argsort(mx.flatten(each)), each) for each in chosen]
    held = [(groups, order, mx.take(mx.flatten(each), order)) for groups, order, each in held]
    mx.eval(x, shares, sorted_, held)

    def theirs(given: tuple[grouped.Groups, mx.array, mx.array]) -> mx.array:
        _, order, experts = given
        return reference.unsort_sum(mx.squeeze(stack.layer(sorted_, experts, True), 1), order, shares)

    sides = {
        OURS: rotating(held, lambda given: grouped.down_sum(x, given[0], shares, stack.packed)),
        STOCK: rotating(held, theirs),
    }
    moved = weights + x.nbytes + _GROUPED * hidden * dtype.size
    return Case(sides, moved, f"{_GROUPED} x {top_k} experts of {inner} to {hidden}")


def _unsort_sum(use: Use, room: int, tokens: int) -> Case:
    dtype, hidden, top_k = use.parameters
    pairs = _PROMPT * top_k
    first = _normal(pairs, hidden, dtype=dtype)
    drawn = [mx.contiguous(mx.roll(first, i, 0)) for i in range(max(2, min(_FEW, room // first.nbytes)))]
    order = mx.random.permutation(pairs, key=mx.random.key(1)).astype(mx.uint32)
    shares = mx.softmax(_normal(_PROMPT, top_k), axis=-1)
    mx.eval(drawn, order, shares)
    sides = {
        OURS: rotating(drawn, lambda y: unsorting.unsort_sum(y, order, shares)),
        STOCK: rotating(drawn, lambda y: reference.unsort_sum(y, order, shares)),
    }
    moved = first.nbytes + order.nbytes + shares.nbytes + _PROMPT * hidden * dtype.size
    return Case(sides, moved, f"{_PROMPT} x {top_k} rows of {hidden}")


# -- attention ---------------------------------------------------------------------------------------------------------


def _table(use: Use, room: int, tokens: int) -> Case:
    """MLX has no such table: each of its rotations makes its own cosines."""
    pairs, few = use.parameters
    batch = _rows(1, few)
    offsets = [mx.array([tokens + i] * batch, mx.int32) for i in range(_FEW)]
    turns = frequencies(use.config.rope, 2 * pairs).turns
    mx.eval(offsets, turns)
    sides = {OURS: rotating(offsets, lambda at: norm_rope.rotation(turns, at, 1))}
    return Case(sides, batch * 2 * pairs * 4 + turns.nbytes, f"{batch} positions of {pairs} pairs")


def _norm_rope(use: Use, room: int, tokens: int) -> Case:
    """Beside a norm and a rotation each of queries and keys; where entries are packed, with ``mx.quantize``."""
    dtype, q_heads, kv_heads, head_dim, *packing = use.parameters
    drawn = [_normal(1, 1, (q_heads + 2 * kv_heads) * head_dim, dtype=dtype, seed=i) for i in range(_FEW)]
    given = _norms(dtype, q_heads, kv_heads, head_dim, use.config.rms_norm_eps)
    rope = frequencies(use.config.rope, head_dim)
    table = norm_rope.rotation(rope.turns, mx.array([tokens], mx.int32), 1)
    mx.eval(drawn, given.heads, table, rope.periods)

    def ours(qkv: mx.array) -> tuple[mx.array, ...]:
        if packing:
            return norm_rope.norm_rope_pack(qkv, given, table, *packing)
        return norm_rope.norm_rope(qkv, given, table)

    def turned(x: mx.array, weight: mx.array) -> mx.array:
        normed = mx.fast.rms_norm(x, weight, given.eps)
        return mx.fast.rope(
            normed, head_dim, traditional=False, base=None, scale=1.0, offset=tokens, freqs=rope.periods
        )

    def theirs(qkv: mx.array) -> tuple[mx.array, ...]:
        heads = mx.reshape(qkv, (1, q_heads + 2 * kv_heads, 1, head_dim))
        queries, keys, values = mx.split(heads, [q_heads, q_heads + kv_heads], axis=1)
        queries, entry = turned(queries, given.queries), (turned(keys, given.keys), values)
        return (queries, *(quantized(entry, *packing) if packing else entry))

    half = packed_rows.words(head_dim, *packing) * 4 if packing else head_dim * dtype.size
    moved = drawn[0].nbytes + table.nbytes + q_heads * head_dim * dtype.size + 2 * kv_heads * half
    return Case({OURS: rotating(drawn, ours), STOCK: rotating(drawn, theirs)}, moved, "one token")


def quantized(entry: Iterable[mx.array], bits: int, group: int) -> tuple[mx.array, ...]:
    """Keys and values as MLX packs them: codes, scales and biases of each."""
    return tuple(part for x in entry for part in mx.quantize(x, group_size=group, bits=bits))


def _norms(dtype: mx.Dtype, q_heads: int, kv_heads: int, head_dim: int, eps: float) -> Norms:
    weights = (1 + 0.3 * _normal(2, head_dim)).astype(dtype)
    return norms(weights[0], weights[1], eps, q_heads, kv_heads)


class History(NamedTuple):
    """Packed rows of ``tokens`` tokens each, as many buffers as fill the room, and the queries that read them."""

    rows: list[mx.array]
    keys: mx.array
    values: mx.array
    queries: mx.array
    lengths: mx.array
    tokens: list[int]
    scale: float

    def attend(self, rows: mx.array, bits: int, group: int, block: int | None = None) -> mx.array:
        """Our kernel over one of the buffers, in blocks of another size than its own if that is given."""
        segments, given = [Segment(rows, self.lengths)], (self.scale, self.tokens, bits, group)
        if block is None:
            return decode_attention.attend(self.queries, segments, *given)
        return decode_attention.in_blocks(self.queries, segments, *given, block)


def history(use: Use, batch: int, tokens: int, room: int) -> History:
    """Random histories for an instantiation of attention; evaluated."""
    dtype, sharing, head_dim, bits, group, *_ = use.parameters
    kv_heads = use.config.num_key_value_heads
    keys, values = (_normal(batch, kv_heads, tokens, head_dim, dtype=dtype, seed=i) for i in (1, 2))
    first = packed_rows.pack(keys, values, bits, group, dtype)
    rows = [_other(first, i) for i in range(max(2, room // first.nbytes))]
    queries = _normal(batch, kv_heads * sharing, head_dim, dtype=dtype)
    held = History(rows, keys, values, queries, mx.array([tokens] * batch, mx.int32), [tokens] * batch, head_dim**-0.5)
    mx.eval(rows, keys, values, queries, held.lengths)
    return held


def _attention(use: Use, room: int, tokens: int) -> Case:
    """Beside MLX's products with packed matrices over the same history, and its attention over one of 16 bits."""
    _, sharing, _, bits, group, split, few = use.parameters
    block, batch = decode_attention.block_size(sharing, bits), _rows(1, few)
    tokens = max(tokens, block + 1) if split else block
    if bits == decode_attention.DENSE:
        return _dense_attention(use, batch, tokens, room)
    held = history(use, batch, tokens, room)
    whole = (held.keys, held.values)
    packed = [quantized((_other(x, i) for x in whole), bits, group) for i in range(len(held.rows))]
    plain = [tuple(_other(x, i) for x in whole) for i in range(max(2, room // (2 * held.keys.nbytes)))]
    mx.eval(packed, plain)
    queries = held.queries[:, :, None]

    def fused(entry: tuple[mx.array, ...]) -> mx.array:
        return mx.fast.scaled_dot_product_attention(queries, *entry, scale=held.scale)

    sides = {
        OURS: rotating(held.rows, lambda rows: held.attend(rows, bits, group)),
        STOCK: rotating(packed, lambda entry: _products(held, entry, bits, group)),
        "16-bit cache": rotating(plain, fused),
    }
    moved = held.rows[0].nbytes + 2 * held.queries.nbytes
    return Case(sides, moved, f"{batch} x {tokens} tokens of {held.keys.shape[1]} key/value heads")


def _dense_attention(use: Use, batch: int, tokens: int, room: int) -> Case:
    """Over keys and values of 16 bits, beside MLX's attention over the same."""
    dtype, sharing, head_dim, *_ = use.parameters
    kv_heads, scale = use.config.num_key_value_heads, head_dim**-0.5
    first = [_normal(batch, kv_heads, tokens, head_dim, dtype=dtype, seed=i) for i in (1, 2)]
    held = [tuple(_other(x, i) for x in first) for i in range(max(2, room // (2 * first[0].nbytes)))]
    queries = _normal(batch, kv_heads * sharing, head_dim, dtype=dtype)
    one, lengths = queries[:, :, None], mx.array([tokens] * batch, mx.int32)
    mx.eval(held, queries, lengths)

    def ours(entry: tuple[mx.array, mx.array]) -> mx.array:
        return decode_attention.attend_dense(queries, *entry, lengths, scale, [tokens] * batch)

    def theirs(entry: tuple[mx.array, mx.array]) -> mx.array:
        return mx.fast.scaled_dot_product_attention(one, *entry, scale=scale)

    sides = {OURS: rotating(held, ours), STOCK: rotating(held, theirs)}
    moved = 2 * first[0].nbytes + 2 * queries.nbytes
    return Case(sides, moved, f"{batch} x {tokens} tokens of {kv_heads} key/value heads of 16 bits")


def _products(held: History, entry: tuple[mx.array, ...], bits: int, group: int) -> mx.array:
    """Attention as MLX computes it over keys and values that it has packed."""
    batch, kv_heads, _, head_dim = held.keys.shape
    k, k_scales, k_biases, v, v_scales, v_biases = (mx.expand_dims(part, 2) for part in entry)
    queries = mx.reshape(held.queries * held.scale, (batch, kv_heads, -1, 1, head_dim))
    scores = mx.quantized_matmul(queries, k, k_scales, k_biases, True, group, bits)
    weights = mx.softmax(scores, axis=-1, precise=True)
    return mx.quantized_matmul(weights, v, v_scales, v_biases, False, group, bits)


def _other(x: mx.array, index: int) -> mx.array:
    """The same history in another order of heads and tokens, in memory of its own."""
    return mx.contiguous(mx.roll(mx.roll(x, index, 1), 7 * index, 2))


_CASES: dict[str, Callable[[Any, int, int], Case]] = {
    ROUTER.kernel: _router,
    GATE_UP.kernel: _gate_up,
    DOWN.kernel: _down,
    GROUPED_GATE_UP.kernel: _grouped_gate_up,
    GROUPED_DOWN.kernel: _grouped_down,
    UNSORT_SUM.kernel: _unsort_sum,
    TABLE.kernel: _table,
    NORM_ROPE.kernel: _norm_rope,
    PACK.kernel: _norm_rope,
    ATTENTION.kernel: _attention,
    LINEAR_PACKED.kernel: linear_cases.linear_layer,
    LINEAR_PLAIN.kernel: linear_cases.linear_layer,
    RMS_NORM.kernel: linear_cases.rms_norm,
}
#: Those that can be timed.
KERNELS = frozenset(_CASES)
