"""How the kernels of the MoE block are tried on a machine: see :mod:`qwen3_mlx.kernels.verify`.

Both sides of the expert kernels' trials start from the same packed weights.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from . import experts as few
from . import grouped_experts as grouped
from . import reference, router
from . import unsort_sum as unsorting
from .reference import Packed
from .tolerance import rounding, worst
from .verify import Trial

STACK = 5
# By how many rows an expert is rolled against the one before: no two are alike, nor blocks of 4 or 8 rows of theirs.
_ROLL = 37
# The steepest slope of silu.
_SLOPE = 1.1


def _rows(width: int, few: bool) -> int:
    """Rows of ``width`` values that make as many values as MLX passes in ``constant`` space, or more, and then at least
    three: two cannot tell a row's number from its last bit."""
    return 7 // width if few else max(3, -(-8 // width))


def _router_error(dtype: mx.Dtype, experts: int, top_k: int, normalise: bool, few: bool) -> mx.array:
    """The last of several rows holds an infinity and a NaN: its weights must be NaN, its experts valid."""
    rows = _rows(experts, few)
    whole = max(rows - 1, 1)
    logits = (3 * mx.random.normal((rows, experts), key=mx.random.key(0))).astype(dtype)
    logits[whole:, 0], logits[whole:, -1] = -mx.inf, mx.nan
    chosen, weights = router.route(logits, top_k, normalise)
    others, expected = reference.route(logits[:whole], top_k, normalise)
    # Equal logits may be chosen either way: compare what was chosen by its logits.
    ours, theirs = (
        mx.sort(mx.take_along_axis(logits[:whole], mx.minimum(at, experts - 1), axis=1), axis=1)
        for at in (chosen[:whole], others)
    )
    order = mx.sort(chosen, axis=1)
    valid = mx.all(order < experts) & mx.all(order[:, 1:] > order[:, :-1])
    right = valid & mx.all(ours == theirs) & mx.all(mx.isnan(weights[whole:]))
    expected = mx.sort(expected, axis=1)[:, ::-1]  # the kernel's come best first
    return mx.where(right, worst(weights[:whole], expected, expected * 2.0**-14 + 1e-30), mx.inf)


def _draw(out: int, dims: int, bits: int, group_size: int, dtype: mx.Dtype) -> tuple[Packed, mx.array]:
    """A packed stack ``[STACK, out, dims]`` of random codes, and the first expert ``[out, dims]`` in float32. Expert e
    is the first one with its rows rolled by ``e * _ROLL``: so the reference unpacks and multiplies no more than one."""
    codes, sizes = mx.random.split(mx.random.key(1))
    weight = mx.random.randint(0, 256, (out, dims * bits // 8), dtype=mx.uint8, key=codes).view(mx.uint32)
    scales = mx.random.uniform(0.5, 1.5, (out, dims // group_size), key=sizes) * 0.3 / 2**bits
    scales, biases = scales.astype(dtype), (-(2 ** (bits - 1)) * scales).astype(dtype)
    wide = mx.dequantize(
        weight, scales.astype(mx.float32), biases.astype(mx.float32), group_size, bits, dtype=mx.float32
    )
    weight, scales, biases = (
        mx.stack([mx.roll(part, expert * _ROLL, 0) for expert in range(STACK)]) for part in (weight, scales, biases)
    )
    return Packed(weight, scales, biases, bits, group_size), wide


def _choose(rows: int, top_k: int) -> list[list[int]]:
    """Experts ``[rows, top_k]``, others in each row."""
    return [[(slot + 2 * row) % STACK for slot in range(top_k)] for row in range(rows)]


def _crowded(top_k: int) -> list[list[int]]:
    """Experts ``[rows, top_k]`` in no order, chosen by one pair, two, three, and many."""
    rows = max(3, -(-15 // top_k))
    last = [3 + pair % 2 for pair in range(rows * top_k - 6)]
    flat = [*last, 2, 1, 2, 0, 1, 2]
    return [flat[row * top_k : (row + 1) * top_k] for row in range(rows)]


def _products(weight: mx.array, x: mx.array, experts: list[list[int]]) -> mx.array:
    """``expert @ x[n]`` for each of the chosen experts: ``[n, out]``. Row by row, because matrix products of several
    rows are rounded to 19 bits on some chips, and products with a vector are not."""
    flat = [expert for row in experts for expert in row]
    return mx.stack([mx.roll(mx.matmul(weight, x[n]), expert * _ROLL) for n, expert in enumerate(flat)])


def _gate_up_error(
    dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int, few_pairs: bool
) -> mx.array:
    def launch(x: mx.array, experts: mx.array, packed: Packed) -> mx.array:
        return few.gate_up_swiglu(x, experts, packed)

    chosen = _choose(_rows(top_k, few_pairs), top_k)
    return _error_of_gate_up(launch, chosen, dtype, hidden, inner, bits, group_size)


def _grouped_gate_up_error(
    dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int
) -> mx.array:
    def launch(x: mx.array, experts: mx.array, packed: Packed) -> mx.array:
        return grouped.gate_up_swiglu(x, grouped.group(experts, STACK), top_k, packed)

    return _error_of_gate_up(launch, _crowded(top_k), dtype, hidden, inner, bits, group_size)


def _error_of_gate_up(
    launch: Callable[..., mx.array],
    chosen: list[list[int]],
    dtype: mx.Dtype,
    hidden: int,
    inner: int,
    bits: int,
    group_size: int,
) -> mx.array:
    rows, top_k = len(chosen), len(chosen[0])
    packed, weight = _draw(2 * inner, hidden, bits, group_size, dtype)
    x = mx.random.normal((rows, hidden), key=mx.random.key(2)).astype(dtype)
    got = mx.flatten(launch(x, mx.array(chosen, mx.uint32), packed), 0, 1)

    spread = mx.repeat(x.astype(mx.float32), top_k, axis=0)
    gate, up = mx.split(_products(weight, spread, chosen), 2, axis=-1)
    gate_terms, up_terms = mx.split(_products(mx.abs(weight), mx.abs(spread), chosen), 2, axis=-1)
    want, silu = reference.swiglu(gate, up), mx.multiply(gate, mx.sigmoid(gate))
    terms = _SLOPE * mx.abs(up) * gate_terms + mx.abs(silu) * up_terms
    return worst(got, want, rounding(want, terms, dtype))


def _down_error(
    dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int, few_pairs: bool
) -> mx.array:
    chosen = _choose(_rows(top_k, few_pairs), top_k)
    return _error_of_down(few.down_sum, chosen, dtype, hidden, inner, bits, group_size)


def _grouped_down_error(dtype: mx.Dtype, hidden: int, inner: int, top_k: int, bits: int, group_size: int) -> mx.array:
    def launch(x: mx.array, experts: mx.array, weights: mx.array, packed: Packed) -> mx.array:
        return grouped.down_sum(x, grouped.group(experts, STACK), weights, packed)

    return _error_of_down(launch, _crowded(top_k), dtype, hidden, inner, bits, group_size)


def _error_of_down(
    launch: Callable[..., mx.array],
    chosen: list[list[int]],
    dtype: mx.Dtype,
    hidden: int,
    inner: int,
    bits: int,
    group_size: int,
) -> mx.array:
    rows, top_k = len(chosen), len(chosen[0])
    packed, weight = _draw(hidden, inner, bits, group_size, dtype)
    values, shares = mx.random.split(mx.random.key(3))
    x = mx.random.normal((rows, top_k, inner), key=values).astype(dtype)
    weights = mx.random.uniform(0.0, 1.0, (rows, top_k), key=shares)
    got = launch(x, mx.array(chosen, mx.uint32), weights, packed)

    def summed(weight: mx.array, x: mx.array) -> mx.array:
        each = mx.unflatten(_products(weight, mx.flatten(x, 0, 1), chosen), 0, (rows, top_k))
        return mx.sum(weights[..., None] * each, axis=1)

    wide = x.astype(mx.float32)
    want, terms = summed(weight, wide), summed(mx.abs(weight), mx.abs(wide))
    return worst(got, want, rounding(want, terms, dtype))


def _unsort_sum_error(dtype: mx.Dtype, hidden: int, top_k: int) -> mx.array:
    rows = max(3, -(-8 // top_k))
    values, shares, places = (mx.random.key(n) for n in (4, 5, 6))
    y = mx.random.normal((rows * top_k, hidden), key=values).astype(dtype)
    weights = mx.random.uniform(0.0, 1.0, (rows, top_k), key=shares)
    order = mx.random.permutation(rows * top_k, key=places).astype(mx.uint32)
    got = unsorting.unsort_sum(y, order, weights)

    def summed(y: mx.array) -> mx.array:
        each = mx.unflatten(mx.take(y, mx.argsort(order), axis=0), 0, (rows, top_k))
        return mx.sum(weights[..., None] * each, axis=1)

    wide = y.astype(mx.float32)
    want = summed(wide)
    return worst(got, want, rounding(want, summed(mx.abs(wide)), dtype))


ROUTER = Trial("router", ("router",), (router.__file__,), _router_error)
GATE_UP = Trial("moe_gate_up", ("affine", "moe_gate_up"), (few.__file__,), _gate_up_error)
DOWN = Trial("moe_down", ("affine", "moe_down"), (few.__file__,), _down_error)
_GROUPED = ("moe_groups", "affine", "affine_tokens")
GROUPED_GATE_UP = Trial(
    "moe_gate_up_grouped",
    (*_GROUPED, "moe_gate_up_grouped"),
    (grouped.__file__, few.__file__),
    _grouped_gate_up_error,
)
GROUPED_DOWN = Trial(
    "moe_down_grouped",
    (*_GROUPED, "moe_down_grouped", "moe_sum"),
    (grouped.__file__, few.__file__),
    _grouped_down_error,
)
UNSORT_SUM = Trial("moe_unsort_sum", ("affine", "moe_unsort_sum"), (unsorting.__file__,), _unsort_sum_error)
