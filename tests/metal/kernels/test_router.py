"""The router kernel against float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels import reference, router

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def run(logits: mx.array, top_k: int, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    experts, weights = router.route(logits, top_k, normalise)
    assert experts.dtype == mx.uint32 and weights.dtype == mx.float32
    return np.array(experts), np.array(weights)


def expected(logits: mx.array, top_k: int, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    wide = np.array(logits.astype(mx.float32), np.float64)
    order = np.argsort(-wide, axis=-1, kind="stable")[:, :top_k]
    weights = np.exp(wide - wide.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights = np.take_along_axis(weights, order, -1)
    return order, weights / weights.sum(-1, keepdims=True) if normalise else weights


def logits_of(rows: int, experts: int, dtype: mx.Dtype, seed: int = 0) -> mx.array:
    values = np.random.default_rng(seed).standard_normal((rows, experts)).astype(np.float32) * 3
    return mx.array(values).astype(dtype)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("rows", "experts", "top_k", "dtype"),
    [
        (3, 128, 8, mx.bfloat16),  # Qwen3; its logits tie often
        (1, 8, 2, mx.float16),  # the embedded demo
        (1, 5, 5, mx.float32),  # fewer than eight logits: MLX passes them as `constant`
        (2, 40, 33, mx.float32),  # more picks than lanes
        (1, 1, 1, mx.float32),
        (2, 1000, 10, mx.bfloat16),
    ],
)
def test_matches_float64(rows: int, experts: int, top_k: int, dtype: mx.Dtype, normalise: bool) -> None:
    assert router.supported(experts, top_k, dtype)
    logits = logits_of(rows, experts, dtype)
    with emulator.using(instrumented=True):
        chosen, weights = run(logits, top_k, normalise)
    want_chosen, want = expected(logits, top_k, normalise)
    np.testing.assert_array_equal(chosen, want_chosen)
    np.testing.assert_allclose(weights, want, rtol=5e-7)


def test_agrees_with_the_reference() -> None:
    logits = logits_of(4, 128, mx.float32)
    for normalise in (True, False):
        chosen, weights = run(logits, 8, normalise)
        other, others = (np.array(a) for a in reference.route(logits, 8, normalise))
        order = np.argsort(-others, axis=-1)
        np.testing.assert_array_equal(chosen, np.take_along_axis(other, order, -1))
        np.testing.assert_allclose(weights, np.take_along_axis(others, order, -1), rtol=2e-6)


def test_the_lowest_index_wins_a_tie() -> None:
    logits = np.zeros((3, 128), np.float32)
    logits[0, ::2] = -0.0  # the two zeros are equal
    logits[1, [127, 100, 3]] = 1
    logits[2, 5:70] = 2
    chosen, weights = run(mx.array(logits), 8, True)
    assert chosen.tolist() == [list(range(8)), [3, 100, 127, 0, 1, 2, 4, 5], list(range(5, 13))]
    np.testing.assert_allclose(weights[[0, 2]], 1 / 8, rtol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_indices_are_valid_whatever_the_logits_hold(normalise: bool) -> None:
    logits = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    logits[0] = np.nan
    logits[1, 7] = np.nan
    logits[2] = -np.inf
    logits[3] = np.inf
    logits[4, :37] = -np.inf
    logits[5] = -3e38
    logits[5, 20] = 3e38
    with emulator.using(instrumented=True):
        chosen, weights = run(mx.array(logits), 8, normalise)
    for row in chosen.tolist():
        assert len(set(row)) == 8 and max(row) < 40
    assert 7 not in chosen[1].tolist()
    assert np.isnan(weights[:4]).all()
    assert chosen[4].tolist()[3:] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(weights[4].sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(weights[5], [1, 0, 0, 0, 0, 0, 0, 0])


def test_a_row_is_the_same_in_any_batch_and_order() -> None:
    logits = logits_of(8, 128, mx.bfloat16)
    for normalise in (True, False):
        chosen, weights = run(logits, 8, normalise)
        for row in range(8):
            alone, shares = run(logits[row : row + 1], 8, normalise)
            assert (alone[0] == chosen[row]).all() and (shares[0] == weights[row]).all()
        for seed in range(1, 21):
            with emulator.using(seed=seed):
                again, shares = run(logits, 8, normalise)
            assert (again == chosen).all() and (shares == weights).all()


def test_one_launch_without_barriers() -> None:
    with emulator.using(instrumented=True), emulator.recording() as reports:
        run(logits_of(2, 128, mx.bfloat16), 8, True)
    (report,) = reports
    assert (report.dispatches, report.simdgroups, report.barriers) == (1, 2, 0)
    assert report.buffers["logits"].bytes == 2 * 128 * 2


def test_what_is_not_supported() -> None:
    assert not router.supported(8, 9, mx.float32)
    assert not router.supported(8, 0, mx.float32)
    assert not router.supported(2048, 8, mx.float32)
    assert not router.supported(128, 8, mx.int32)
