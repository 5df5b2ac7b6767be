"""The trials of the MoE block's kernels notice what is wrong with them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.kernels.moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from qwen3_mlx.kernels.verify import Trial

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from ..wrong import swapping

BF16, FP16 = mx.bfloat16, mx.float16
EXPERTS: list[tuple[Any, ...]] = [
    (BF16, 128, 128, 2, 4, 64, False),
    (BF16, 128, 128, 2, 8, 64, True),
    (FP16, 128, 256, 1, 4, 32, False),
    (FP16, 256, 128, 4, 8, 128, True),
    (BF16, 128, 256, 8, 4, 64, False),
]
ROUTERS: list[tuple[Any, ...]] = [
    (BF16, 128, 8, True, False),
    (FP16, 40, 40, False, False),
    (mx.float32, 3, 2, True, True),
    (mx.float32, 1, 1, False, True),
    (mx.float32, 5, 5, False, True),  # a single row
]
GROUPED: list[tuple[Any, ...]] = [(BF16, 128, 128, 2, 4, 64), (FP16, 256, 128, 8, 8, 128), (BF16, 128, 256, 1, 8, 32)]
UNSORTED: list[tuple[Any, ...]] = [(BF16, 128, 2), (FP16, 256, 8), (BF16, 128, 1)]
GOOD = [
    *((trial, given) for trial in (GATE_UP, DOWN) for given in EXPERTS),
    *((trial, given) for trial in (GROUPED_GATE_UP, GROUPED_DOWN) for given in GROUPED),
    *((UNSORT_SUM, given) for given in UNSORTED),
    *((ROUTER, given) for given in ROUTERS),
]
PAIR = ("experts[pair]", "(experts[pair] & 1)")
ROW = ("uint pair = token * TOP_K", "uint pair = (token & 1) * TOP_K")
ROW_OF_X = ("uint token = pair / TOP_K", "uint token = (pair / TOP_K) & 1")
NO_NAN = ("nan_seen ? NAN : shares[k] / total", "shares[k] / total")
NAN_OF_A_LANE = ("nan_seen = simd_any(nan_seen)", "nan_seen = nan_seen")
EXPERT = ("ulong start = ulong(expert)", "ulong start = ulong(expert & 1)")
A_SUM = ("fma(scale, dots[n]", "fma(scale, dots[0]")
A_TOKEN = ("at[n] = pairs[n]", "at[n] = pairs[0]")
WRONG = [
    *((GATE_UP, given, *PAIR) for given in EXPERTS),
    *((GATE_UP, given, *ROW_OF_X) for given in (EXPERTS[0], EXPERTS[4])),
    *((DOWN, given, *PAIR) for given in EXPERTS),
    *((DOWN, given, *ROW) for given in (EXPERTS[0], EXPERTS[4])),
    *((trial, GROUPED[1], *EXPERT) for trial in (GROUPED_GATE_UP, GROUPED_DOWN)),
    *((trial, GROUPED[0], *A_SUM) for trial in (GROUPED_GATE_UP, GROUPED_DOWN)),
    *((trial, GROUPED[2], *A_TOKEN) for trial in (GROUPED_GATE_UP, GROUPED_DOWN)),
    (GROUPED_DOWN, GROUPED[1], "share * sum", "sum"),
    *((UNSORT_SUM, given, "ulong(places[pair])", "ulong(pair)") for given in UNSORTED),
    (UNSORT_SUM, UNSORTED[0], "weights[pair]", "weights[row]"),
    (GROUPED_GATE_UP, GROUPED[0], "sums[(n * 2 + 1) * rows_at_once + r]", "sums[n * 2 * rows_at_once + r]"),
    *((ROUTER, given, *NO_NAN) for given in ROUTERS[:3]),
    (ROUTER, ROUTERS[0], *NAN_OF_A_LANE),
]


def name(part: object) -> str | None:
    return part.kernel if isinstance(part, Trial) else None


@pytest.mark.parametrize(("trial", "given"), GOOD, ids=name)
def test_a_kernel_as_it_is_passes(monkeypatch: pytest.MonkeyPatch, trial: Trial, given: tuple[Any, ...]) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    with emulator.using(instrumented=True):
        error = float(trial.error(*given).item())  # type: ignore[arg-type]
    assert error <= 1


@pytest.mark.parametrize(("trial", "given", "written", "broken"), WRONG, ids=name)
def test_a_broken_kernel_does_not(
    monkeypatch: pytest.MonkeyPatch, trial: Trial, given: tuple[Any, ...], written: str, broken: str
) -> None:
    """Not because the emulator stops it: these read and write what they may."""
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(trial.kernel, written, broken))
    assert trial.error(*given).item() > 1
