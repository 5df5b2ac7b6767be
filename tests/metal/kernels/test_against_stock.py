"""No kernel's largest error is above that of what MLX does on the same input, random or hard.

MLX's products and attention are its own Metal kernels, run in the emulator (``stock_kernels``). Its norm and rotation
ship as a compiled library and cannot be run: what stands in for them is exact but for the roundings to 16 bits that lie
between its operations, so no worse than they are.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from . import stock_kernels as stock
from . import test_experts as moe
from . import test_norm_rope as rope
from . import test_router as router
from .attention_cases import Histories, all_expected, case, run
from .histories import Layout
from .packing import wide


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def hold(what: str, want: np.ndarray, ours: mx.array, theirs: dict[str, mx.array], slack: float = 1.0) -> None:
    """Our largest error is not above any of theirs, nor is the root mean square; none is absurd, so all are right."""

    def error(got: mx.array) -> tuple[float, float]:
        off = np.abs(wide(got) - want)
        return float(off.max()), float(np.sqrt((off**2).mean()))

    assert np.isfinite(wide(ours)).all()
    most, usual = error(ours)
    for name, result in theirs.items():
        their_most, their_usual = error(result)
        print(f"{what}: largest error {most:.3g}, {name} {their_most:.3g} ({their_most / most:.2f}x); ", end="")
        print(f"root mean square {usual:.3g}, {their_usual:.3g}")
        assert most <= slack * their_most and usual <= slack * their_usual
        assert their_most <= 0.1 * np.abs(want).max()


HARD: dict[str, Callable[[mx.array], mx.array]] = {
    "random": lambda x: x,
    "large": lambda x: x * 64,
    "small": lambda x: x * 2.0**-10,
    "positive": lambda x: mx.abs(x) + 4,  # scale * sum(q x) and bias * sum(x) cancel
    "outlier": lambda x: mx.where(mx.arange(x.shape[-1]) == 7, 300.0, x).astype(x.dtype),
}
SIZES = {
    "4-bit": moe.Sizes(2, 512, 512, 3, 4),
    "8-bit": moe.Sizes(1, 512, 768, 3, 4, 8),  # MLX takes another kernel for 768 values
    "float16": moe.Sizes(1, 512, 512, 3, 4, 4, 32, mx.float16),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("sizes", SIZES)
def test_gate_up_and_down(sizes: str, hard: str) -> None:
    c = moe.case(SIZES[sizes])
    if SIZES[sizes].dtype == mx.float16 and hard == "large":
        c = c._replace(x=c.x / 8)  # 65504 is the end of float16
    # The weights are numbers of 16 bits, so that theirs need no rounding.
    c = c._replace(x=HARD[hard](c.x), inner=HARD[hard](c.inner), weights=c.weights.astype(c.x.dtype).astype(mx.float32))
    want, _ = moe.expected_swiglu(c)
    theirs = stock.gate_up_swiglu(c.x, c.experts, c.gate_up)
    hold(f"gate and up, {hard}", want, moe.run_gate_up(c), {"MLX's": theirs})
    want, _ = moe.expected_down(c)
    theirs = stock.down_sum(c.inner, c.experts, c.weights, c.down)
    hold(f"down, {hard}", want, moe.run_down(c), {"MLX's": theirs})


def as_is(queries: mx.array, histories: Histories, layout: Layout) -> tuple[mx.array, Histories]:
    return queries, histories


def sharp(queries: mx.array, histories: Histories, layout: Layout) -> tuple[mx.array, Histories]:
    """A few tokens have nearly all the weight."""
    return queries * 8, histories


def cancelling(queries: mx.array, histories: Histories, layout: Layout) -> tuple[mx.array, Histories]:
    """Values around 8 and -8 in turns."""
    changed = []
    for history in histories:
        parts = history.copy().reshape(*history.shape[:2], 2, layout.words)
        pairs = parts[:, :, 1, layout.codes :]
        biases = mx.array((pairs >> 16).astype(np.uint16)).view(layout.dtype)
        sign = np.where(np.arange(history.shape[1]) % 2, -8.0, 8.0)[None, :, None]
        moved = (biases.astype(mx.float32) + mx.array(sign.astype(np.float32))).astype(layout.dtype)
        parts[:, :, 1, layout.codes :] = pairs & 0xFFFF | np.array(moved.view(mx.uint16)).astype(np.uint32) << 16
        changed.append(parts.reshape(history.shape))
    return queries, changed


@pytest.mark.parametrize("hard", [as_is, sharp, cancelling])
@pytest.mark.parametrize("layout", [Layout(8), Layout(4, 64, 4, 32), Layout(2, 128, 4, 64, mx.float16)])
@pytest.mark.parametrize("tokens", [100, 700])
def test_attention(tokens: int, layout: Layout, hard: Callable[..., tuple[mx.array, Histories]]) -> None:
    queries, histories = hard(*case(layout, [tokens]), layout)
    want = all_expected(queries, histories, layout).want[0]
    theirs = {
        "composed": stock.composed_attention(queries[0], histories[0], layout),
        "fused": stock.fused_attention(queries[0], histories[0], layout),
    }
    hold(f"attention, {hard.__name__}", want, run(queries, histories, layout)[0], theirs)


def norm_rope_at_best(c: rope.Case) -> tuple[mx.array, mx.array]:
    """Queries and keys ``[batch, heads, length, head_dim]``: the norm without its weight, the weight, and the rotation
    are exact; each is rounded to 16 bits."""
    s = c.sizes

    def rounded(values: np.ndarray) -> np.ndarray:
        return wide(mx.array(values.astype(np.float32)).astype(s.dtype))

    x = wide(c.x).reshape(*c.x.shape[:2], -1, s.head_dim).swapaxes(1, 2)[:, : s.q_heads + s.kv_heads]
    normed = rounded(rounded(x / np.sqrt((x**2).mean(-1, keepdims=True) + rope.EPS)) * wide(c.norms.heads))
    half = s.head_dim // 2
    inverse = np.array(rope.frequencies(s.rope, s.head_dim).signed, np.float64)[half:]
    positions = np.array(c.offsets, np.int64)[:, None] + np.arange(c.x.shape[1])
    angles = np.tile(positions[..., None] * inverse, 2)[:, None]
    sign = np.where(np.arange(s.head_dim) < half, -1, 1)
    turned = normed * np.cos(angles) + np.roll(normed, half, axis=-1) * np.sin(angles) * sign
    queries, keys = mx.split(mx.array(turned.astype(np.float32)).astype(s.dtype), [s.q_heads], axis=1)
    return queries, keys


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
@pytest.mark.parametrize("bits", [None, 8, 4])
def test_norm_and_rotation(bits: int | None, dtype: mx.Dtype, hard: str) -> None:
    c = rope.case(rope.Sizes(8, 2, 128, bits, 64, dtype, offsets=(77, 40_000), length=17))
    c = c._replace(x=HARD[hard](c.x))
    with emulator.using(instrumented=True):  # without, a float16 result can look like the poison of a fresh output
        ours = rope.run(c)
    want, (queries, keys) = rope.expected(c), norm_rope_at_best(c)
    hold(f"queries, {hard}", want.queries, ours.queries, {"MLX's": queries})
    if ours.rows is None:
        assert ours.keys is not None
        hold(f"keys, {hard}", want.keys, ours.keys, {"MLX's": keys})
    else:
        assert bits is not None
        packed = mx.array(rope.halves(ours.rows, c.sizes)[0].plain.astype(np.float32))
        codes, *ends = mx.quantize(keys, group_size=64, bits=bits)
        plain = mx.dequantize(codes, *(end.astype(mx.float32) for end in ends), group_size=64, bits=bits)
        # mx.quantize moves a scale by up to one part in 2^bits to give zero a code: its steps of 4 bits can be finer.
        slack = 1.0 if bits == 8 else 1.08
        hold(f"keys of {bits} bits, {hard}", want.keys, packed, {"MLX's": plain}, slack)


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_router(dtype: mx.Dtype, hard: str) -> None:
    """MLX's operations as mlx-lm composes them: a softmax rounded to 16 bits, a sum and a division of 16 bits."""
    logits = HARD[hard](router.logits_of(8, 128, dtype))
    _, want = router.expected(logits, 8, True)
    _, ours = router.run(logits, 8, True)
    shares = mx.sort(mx.softmax(logits, axis=-1, precise=True), axis=-1)[:, -1:-9:-1]
    hold(f"router, {hard}", want, mx.array(ours), {"MLX's": shares / mx.sum(shares, axis=-1, keepdims=True)})
