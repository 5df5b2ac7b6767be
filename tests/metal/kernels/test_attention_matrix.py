"""Decode attention against float64: all heads, widths and packings, each with one block or with several.

Which of the two: so that any three of bits, group, dtype and blocks meet in every way for all heads and widths. All of
both, and more outputs, is a matter of minutes: ``python -m benchmarks.kernel_errors``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import mlx.core as mx
import pytest

from .. import emulator
from ..sources import compile_ahead
from ..test_emulator import _compiler  # noqa: F401
from .attention_cases import EVERY, case, lengths_of, random_errors, run
from .errors import together
from .histories import Layout

OUTPUTS = 2048


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    with emulator.using(instrumented=True, check_source=False):
        yield


def test_the_matrix_is_whole() -> None:
    assert len(set(EVERY)) == 6 * 2 * 2 * 2 * 2


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("q_per_kv", [1, 2, 4, 5, 8, 16])
def test_every_kind(q_per_kv: int, head_dim: int) -> None:
    layouts = [layout for layout in EVERY if (layout.q_per_kv, layout.head_dim) == (q_per_kv, head_dim)]
    launches = [(layout, _split(layout)) for layout in layouts]
    assert len(launches) == 8 and sum(split for _, split in launches) == 4
    compile_ahead(functools.partial(_launch, *launch) for launch in launches)
    found = {launch: random_errors(*launch, jitter_seeds=(1,), outputs=OUTPUTS) for launch in launches}
    for dtype in (mx.bfloat16, mx.float16):
        exact, jittered = (
            together(errors[i] for (layout, _), errors in found.items() if layout.dtype == dtype) for i in range(2)
        )
        print(f"{dtype}: C {exact.worst_c:.2f}, p99.9 {exact.p999:.4f} ulp")
        print(f"  jittered C {jittered.worst_c:.2f}, p99.9 {jittered.p999_kept:.4f} ulp, all {jittered.p999:.4f}")
        assert exact.worst_c <= 4 and exact.p999 <= 0.501
        # 4 ulp in each weight are up to 8 * 2^-24 of the terms: not little where float16 has cancelled (errors.py).
        assert jittered.worst_c <= 16 and jittered.kept > 0.6
        assert (jittered.p999_kept if dtype == mx.float16 else jittered.p999) <= 0.501


def _split(layout: Layout) -> bool:
    q_per_kv, head_dim, bits, group, dtype, _ = layout
    odd = [q_per_kv in (2, 5, 16), head_dim == 64, bits == 4, group == 32, dtype == mx.float16]
    return sum(odd) % 2 == 1


def _launch(layout: Layout, split: bool) -> mx.array:
    return run(*case(layout, lengths_of(layout, split, OUTPUTS)), layout)
