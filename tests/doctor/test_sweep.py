"""Sizes of blocks: all of them are tried, and only those that agree are timed."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.doctor import sweep
from qwen3_mlx.doctor.catalogue import Use
from qwen3_mlx.kernels import decode_attention
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)

from .clock import Clock


@pytest.fixture
def use(small: list[Use]) -> Use:
    (found,) = sweep.swept(small)
    assert found.trial.kernel == "decode_attention" and found.parameters[-2:] == (True, True)
    return found


@pytest.mark.parametrize(
    ("sharing", "sizes"), [(2, [64, 128, 256, 512, 1024, 2048]), (5, [48, 120, 240, 504, 1008, 2040])]
)
def test_sizes_are_whole_steps(sharing: int, sizes: list[int]) -> None:
    assert sweep.blocks(sharing) == sizes
    assert all(size % decode_attention.step_size(sharing) == 0 for size in sizes)


@pytest.mark.usefixtures("emulated")
def test_the_fastest_size_is_found(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SIZES", (128, 256, 512))
    # Compiling, a long turn, the turns that do not count (256 is in use and comes first), and one round.
    found = sweep.sweep(use, 520, 1 << 14, Clock([1, 1, 1, 1, 1, 0.3, 0.1, 0.2]), rounds=1)
    assert list(found.ms) == [128, 256, 512] and found.block == 256 and found.best == 128
    assert found.tokens == 520 and not found.disagreeing


@pytest.mark.usefixtures("emulated")
def test_a_size_with_another_result_is_not_timed(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "SIZES", (128, 256))
    real = decode_attention.in_blocks

    def wrong(queries: mx.array, *given: Any) -> mx.array:
        out = real(queries, *given)
        return out * 1.1 if given[-1] == 128 else out

    monkeypatch.setattr(decode_attention, "in_blocks", wrong)
    found = sweep.sweep(use, 300, 1 << 14, Clock([1]), rounds=1)
    assert list(found.ms) == [256] and found.disagreeing == (128,)
