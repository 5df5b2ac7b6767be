"""Which GPUs MLX has kernels on neural accelerators for."""

from __future__ import annotations

import mlx.core as mx
import pytest

from qwen3_mlx.kernels import neural


@pytest.mark.parametrize(
    ("architecture", "macos", "has"),
    [
        ("applegpu_g17s", "26.2", True),
        ("applegpu_g17g", "27.0.1", True),
        ("applegpu_g18p", "26.3", True),
        ("applegpu_g17p", "26.2", False),  # a phone's
        ("applegpu_g17s", "26.1", False),
        ("applegpu_g16s", "26.2", False),
        ("applegpu_g13g", "15.5", False),
        ("applegpu_g17s", "", False),
        ("", "26.2", False),
        ("another", "26.2", False),
    ],
)
def test_has_accelerators(architecture: str, macos: str, has: bool) -> None:
    assert neural.has_accelerators(architecture, macos) == has


@pytest.mark.parametrize("here", [True, False])
def test_it_takes_as_many_pairs_as_mlx_reads_an_experts_weights_for(
    here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neural, "_here", lambda: here)
    assert not neural.takes(511, 128)  # 30B-A3B up to 63 tokens
    assert neural.takes(512, 128) == here
    assert not neural.takes(63, 8)  # pairs that are not sorted
    assert neural.takes(64, 8) == here


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_there_are_none_without_metal() -> None:
    assert not neural.takes(1000, 1)
