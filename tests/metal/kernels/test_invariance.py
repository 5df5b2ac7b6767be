"""A row's result is the same to the bit in any order of threads, any batch and any position in it: every kernel.

Other files hold the sizes of one model each to this; here are the other kinds of each kernel, and kernels that break
this rule and no other. The inputs cancel: what float32 rounds differently then shows in 16 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from .. import emulator
from ..sources import compile_ahead
from ..test_emulator import _compiler  # noqa: F401
from ..wrong import swapping
from . import test_experts as moe
from . import test_norm_rope as rope
from . import test_router as router
from .attention_cases import block_size, case, run
from .histories import Layout
from .test_against_stock import cancelling

SEEDS = range(1, 21)
ATTENTION = [
    Layout(1, 64, 8, 32, mx.float16),
    Layout(2, 128, 4, 64, kv_heads=2),
    Layout(4, 64, 4, 32),
    Layout(5, 128, 4, 64, mx.float16),
    Layout(8, 64, 8, 64, kv_heads=2),
    Layout(16, 128, 8, 64),
]
by_heads = pytest.mark.parametrize("layout", ATTENTION, ids=lambda layout: f"{layout.q_per_kv} heads")


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def in_any_order(launch: Callable[[], Any]) -> None:
    """20 random orders of threads, simdgroups and threadgroups."""
    first = flat(launch())
    for seed in SEEDS:
        with emulator.using(seed=seed):
            assert flat(launch()) == first


def flat(result: Any) -> list[bytes]:
    parts = result if isinstance(result, tuple) else (result,)
    arrays = [part for part in parts if part is not None]
    sixteen = (mx.bfloat16, mx.float16)
    arrays = [a.view(mx.uint16) if isinstance(a, mx.array) and a.dtype in sixteen else a for a in arrays]
    return [np.array(a).tobytes() for a in arrays]


def attention_in_any_batch(layout: Layout) -> None:
    """Alone, with others before and after it, and with others that need more blocks or fewer."""
    block = block_size(layout.q_per_kv, layout.bits)
    lengths = [7, block + 5, 0, block, 33]
    queries, histories = cancelling(*case(layout, lengths), layout)
    together = flat(tuple(run(queries, histories, layout)))
    for rows in ([0], [1], [2], [3], [4], [4, 0], [3, 2, 1], [4, 1, 0, 0, 3], [2, 0, 4]):
        some = run(queries[mx.array(rows)], [histories[row] for row in rows], layout)
        assert flat(tuple(some)) == [together[row] for row in rows]


@by_heads
def test_attention(layout: Layout) -> None:
    with emulator.using(instrumented=True, check_source=False):
        small, large = ([5, 0, 70], [9, 0, block_size(layout.q_per_kv, layout.bits) + 3])
        cases = [cancelling(*case(layout, lengths), layout) for lengths in (small, large)]
        launches = [functools.partial(run, *given, layout) for given in cases]
        compile_ahead(launches)
        attention_in_any_batch(layout)
        for launch in launches:
            in_any_order(launch)


def test_a_merge_of_more_blocks_than_a_threadgroup_has_simdgroups() -> None:
    layout = Layout(2, 64)
    in_any_order(functools.partial(run, *cancelling(*case(layout, [9 * 256 + 1, 300]), layout), layout))


def cancelling_experts(sizes: moe.Sizes) -> moe.Case:
    c = moe.case(sizes)
    return c._replace(x=mx.abs(c.x) + 4, inner=mx.abs(c.inner) + 4)


@pytest.mark.parametrize("name", moe.BOTH)
@pytest.mark.parametrize(
    "sizes",
    [
        moe.Sizes(3, 128, 128, 18, 20, 8),  # experts in turns
        moe.Sizes(8, 512, 128, 2, 4, 4, 128, mx.float16),
        moe.Sizes(3, 256, 128, 8, 8, 8, 32),
    ],
)
def test_experts(name: str, sizes: moe.Sizes) -> None:
    launch, _ = moe.BOTH[name]
    c = cancelling_experts(sizes)
    with emulator.using(instrumented=True, check_source=False):
        together = flat(tuple(launch(c)))
        for rows in (*([row] for row in range(sizes.rows)), [1, 0], [2, 2, 0]):
            assert flat(tuple(launch(moe.a_row(c, rows)))) == [together[row] for row in rows]
        in_any_order(lambda: launch(c))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("experts", "top_k", "dtype"), [(128, 40, mx.float32), (1000, 8, mx.float16), (5, 2, mx.bfloat16)]
)
def test_router(experts: int, top_k: int, dtype: mx.Dtype, normalise: bool) -> None:
    logits = router.logits_of(6, experts, dtype)

    def launch(rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return router.run(logits[mx.array(rows)], top_k, normalise)

    chosen, weights = launch([*range(6)])
    for rows in ([0], [5], [3, 1], [2, 2, 4, 0]):
        some = launch(rows)
        assert flat(some) == flat((chosen[rows], weights[rows]))
    in_any_order(lambda: launch([4, 1, 3]))


@pytest.mark.parametrize(
    "sizes",
    [
        rope.Sizes(4, 2, 64, 4, 32, mx.float16, offsets=(5, 100_000), length=3),
        rope.Sizes(2, 1, 128, 4, 64, offsets=(0, 77, 9), length=2),
        rope.Sizes(3, 1, 64, 8, 64, offsets=(1, 2), length=4),
        rope.Sizes(5, 1, 64, None, dtype=mx.float16, offsets=(3, 4000), length=3),
    ],
)
def test_norm_and_rotation(sizes: rope.Sizes) -> None:
    c = rope.case(sizes)
    with emulator.using(instrumented=True, check_source=False):
        together = rope.run(c)
        for row, first, last in ((0, 0, 2), (1, 1, 2), (1, 0, 2), (0, 1, 2)):
            part = rope.Result(*(a if a is None else a[row : row + 1, :, first:last] for a in together))
            assert rope.run(rope.rows_of(c, row, first, last)).same(part)
        in_any_order(lambda: rope.run(c))


_ANY = "uint k = (token & 1 ? lane / 2 + lane % 2 * 16 : lane) * V;"
DEPENDS = [  # each within the error bound
    ("decode_attention", "float highest = lowest;", "float highest = 0.7f * (slot % 7);"),
    ("moe_gate_up", "uint k = lane * V;", _ANY),
    ("moe_down", "uint k = lane * V;", _ANY),
]


@pytest.mark.parametrize(("kernel", "written", "broken"), DEPENDS)
def test_a_kernel_that_depends_on_the_batch_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, written: str, broken: str
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    with emulator.using(instrumented=True, check_source=False):
        if kernel == "decode_attention":
            with pytest.raises(AssertionError):
                attention_in_any_batch(ATTENTION[3])
            return
        launch, expected = moe.BOTH[kernel.removeprefix("moe_")]
        c = cancelling_experts(moe.Sizes(4, 512, 256, 4, 6, dtype=mx.float16))
        together = launch(c)
        assert moe.precision(together, *expected(c)).c <= 1  # the error bound alone would not tell
        assert not all(moe.one(launch(moe.a_row(c, [row]))[0], together[row]) for row in range(4))


ORDERS = [
    ("moe_down", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("decode_attention_merge", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
    ("decode_attention", "  threadgroup_barrier(mem_flags::mem_threadgroup);\n}", "}"),
]


@pytest.mark.parametrize(("kernel", "written", "broken"), ORDERS)
def test_a_kernel_that_depends_on_the_order_is_noticed(
    monkeypatch: pytest.MonkeyPatch, kernel: str, written: str, broken: str
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    c, layout = moe.case(moe.Sizes(2, 512, 256, 4, 6)), Layout(4, 64)
    launch: Callable[[], Any] = functools.partial(moe.run_down, c)
    if kernel != "moe_down":
        launch = functools.partial(run, *case(layout, [700, 40]), layout)
    # Without the checks of memory, which find the race itself.
    with emulator.using(check_source=False), pytest.raises(AssertionError):
        in_any_order(launch)
