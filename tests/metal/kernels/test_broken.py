"""Kernels with one mistake each, beyond those that each kernel's own file breaks: all are noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from ..wrong import swapping
from . import test_experts as moe
from . import test_norm_rope as rope
from . import test_router as router
from .attention_cases import all_expected, case, measured, run
from .histories import Layout, segments
from .packing import precision


def _router() -> None:
    """Many picks, ties, a NaN; the rule of ``test_matches_float64``."""
    logits = router.logits_of(3, 40, mx.float32)
    logits[1, 3:38] = 7.0  # among them experts that one lane holds
    for top_k, normalise in ((33, True), (2, False)):
        chosen, weights = router.run(logits, top_k, normalise)
        want_chosen, want = router.expected(logits, top_k, normalise)
        np.testing.assert_array_equal(chosen, want_chosen)
        np.testing.assert_allclose(weights, want, rtol=5e-7)
    logits[2, 1], logits[2, 33] = float("nan"), 9.0  # a lane holds both
    chosen, weights = router.run(logits, 33, True)
    want_chosen, _ = router.expected(mx.where(mx.isnan(logits), -mx.inf, logits), 33, True)
    np.testing.assert_array_equal(chosen, want_chosen)
    assert np.isnan(weights[2]).all() and not np.isnan(weights[:2]).any()


def _gate_up() -> None:
    c = moe.case(moe.Sizes(2, 512, 128, 3, 4))
    assert precision(moe.run_gate_up(c), *moe.expected_swiglu(c)).c <= 1


def _down() -> None:
    c = moe.case(moe.Sizes(2, 128, 128, 18, 19))  # more experts than simdgroups
    assert precision(moe.run_down(c), *moe.expected_down(c)).c <= 1


def _packed() -> None:
    c = rope.case(rope.CASES["8 bits of 32"])
    rope.hold_to_the_rule(c, rope.run(c))


def _plain() -> None:
    c = rope.case(rope.CASES["plain"])
    rope.hold_to_the_rule(c, rope.run(c))


def _attention() -> None:
    """Rows of several segments with one block, several, none and exactly two."""
    layout = Layout(4, 64)
    for lengths, cuts in (([300, 0, 512], [[90, 0, 1], [200, 0, 400]]), ([0, 256], [[0, 3], [0, 255]])):
        queries, histories = case(layout, lengths)
        got = run(queries, histories, layout, segments(histories, cuts, spare=4))
        assert measured(got, all_expected(queries, histories, layout), histories).c <= 32


HOLDS: dict[str, Callable[[], None]] = {
    "router": _router,
    "moe_gate_up": _gate_up,
    "moe_down": _down,
    "norm_rope_table": _plain,
    "norm_rope": _plain,
    "norm_rope_pack": _packed,
    "decode_attention": _attention,
    "decode_attention_merge": _attention,
}
BROKEN = [
    ("router", "expert > last_index", "expert >= last_index"),  # an expert again and again
    ("router", "values[i] > best", "values[i] >= best"),  # the highest index wins a tie
    ("router", "simd_min(best == last_value ? at : none)", "simd_min(at)"),
    ("router", "nan_seen = simd_any(nan_seen);", ""),
    ("router", "value = -INFINITY;\n      nan_seen", "nan_seen"),
    ("router", "if (expert < uint(EXPERTS))", "if (true)"),
    ("router", "highest = simd_max(highest);", ""),
    ("router", "shares[k] / total", "shares[k]"),
    ("router", "if (NORMALISE) {\n      total", "if (lane == 0) {\n      total"),
    ("router", "if (slot < uint(TOP_K))", "if (true)"),
    ("router", "uint(TOP_K) - k * 32", "uint(TOP_K)"),
    ("router", "precise::exp(last_value - highest)", "precise::exp(float(half(last_value - highest)))"),
    ("moe_gate_up", "if (lane == r)", "if (lane >= r)"),
    ("moe_gate_up", "(threadgroup_position_in_grid.x * 2 +", "(threadgroup_position_in_grid.x +"),
    ("moe_gate_up", "ulong(experts[pair])", "ulong(experts[pair] + 1)"),
    ("moe_gate_up", "uint token = pair / TOP_K;", "uint token = pair;"),
    ("moe_gate_up", "uint group = k / GROUP;", "uint group = k / (2 * GROUP);"),
    ("moe_gate_up", "1.0f / 256.0f", "1.0f / 255.0f"),
    ("moe_gate_up", "+ k * BITS / 8, v)", "+ k * BITS / 8 + 1, v)"),
    ("moe_down", "slot += SLOTS", "slot += TOP_K"),
    ("moe_down", "weights[pair]", "weights[slot]"),
    ("moe_down", "partial[TOP_K * rows_at_once]", "partial[SLOTS * rows_at_once]"),
    ("moe_down", "simdgroup == 0 && lane < rows_at_once", "simdgroup == 0"),
    ("norm_rope", "(key ? 0 : KV_HEADS)", "0"),
    ("norm_rope", "head < Q_HEADS ? q_weight : k_weight", "q_weight"),
    ("norm_rope", "rotation + token * dims", "rotation + position * dims"),
    ("norm_rope", "1.0f / (32 * D)", "1.0f / (31 * D)"),
    ("norm_rope_pack", "lane % lanes == 0", "lane % lanes <= 1"),
    ("norm_rope_pack", "(lane & 15) * D", "lane * D"),
    ("norm_rope_pack", "other < lanes; other *= 2", "other < lanes / 2; other *= 2"),
    ("norm_rope_pack", "clamp(rint((v[i] - bias) / scale), 0.0f, most)", "clamp((v[i] - bias) / scale, 0.0f, most)"),
    ("norm_rope_table", "rotation[at + PAIRS]", "rotation[at + PAIRS - 1]"),
    ("norm_rope_table", "quarters << 62", "quarters << 61"),
    ("norm_rope_table", "cosine = -sine;", "cosine = sine;"),
    ("decode_attention", "block -= blocks;", ""),
    ("decode_attention", "(block + 1) * BLOCK)", "(block + 1) * BLOCK + 1)"),
    ("decode_attention", "totals[head] == 0.0f ? 0.0f : ", ""),
    ("decode_attention", "token.word + words, lane, value", "token.word, lane, value"),
    ("decode_attention", "scale * 1.44269504089f", "scale * 1.4426f"),
    ("decode_attention", "later ? segments.second : 0", "0"),
    ("decode_attention", "rows[word + V * BITS + lane", "rows[V * BITS + lane"),
    ("decode_attention_merge", "(length + BLOCK - 1) / BLOCK", "length / BLOCK + 1"),
    ("decode_attention_merge", "weights == 0.0f ? 0.0f : ", ""),
    ("decode_attention_merge", "dim < uint(HEAD_DIM)", "dim < 32u"),
    ("decode_attention_merge", "r <= row", "r < row"),
    ("decode_attention_merge", "b * width + d * 32 + lane", "b * width + d + lane * dims"),
]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


@pytest.mark.parametrize("kernel", HOLDS)
def test_the_kernel_itself_passes(kernel: str) -> None:
    with emulator.using(instrumented=True, check_source=False):
        HOLDS[kernel]()


@pytest.mark.parametrize(("kernel", "written", "broken"), BROKEN)
def test_a_mistake_is_noticed(monkeypatch: pytest.MonkeyPatch, kernel: str, written: str, broken: str) -> None:
    swap, made = swapping(kernel, written, broken), []

    def make(**given: Any) -> Any:
        kernel = swap(**given)
        made.append(given["name"])
        return kernel

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    noticed = pytest.raises((AssertionError, emulator.KernelError))
    with emulator.using(instrumented=True, check_source=False), noticed as how:
        HOLDS[kernel]()
    assert f"qwen3_{kernel}" in made
    print(type(how.value).__name__)
