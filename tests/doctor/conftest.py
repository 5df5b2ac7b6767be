"""Small sets of instantiations, and the emulator to run them in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen3_mlx.config import QuantSpec
from qwen3_mlx.doctor import cases, catalogue
from qwen3_mlx.doctor.catalogue import Pass, Use
from qwen3_mlx.kernels.metal_source import standing_in
from tests.metal import emulator

PASSES = (Pass(1, 5, 0), Pass(1, 1, 4), Pass(1, 1, 300), Pass(8, 1, 2))


@pytest.fixture(scope="session")
def small() -> list[Use]:
    """What the demos ask for: every kernel that can be timed, those of experts in both spaces of their inputs."""
    moe, dense = (catalogue.shape_of(name) for name in ("demo-moe", "demo"))
    found = [catalogue.uses("demo-moe", moe, QuantSpec(4, 64), kv_bits, PASSES) for kv_bits in (None, 8)]
    found.append(catalogue.uses("demo-moe", moe, QuantSpec(4, 64), None, PASSES[:3], deterministic=True))
    found.append(catalogue.uses("demo", dense, None, None, PASSES[1:2], deterministic=True))
    return [use for use in catalogue.merged(use for uses in found for use in uses) if use.trial.kernel in cases.KERNELS]


@pytest.fixture
def emulated() -> Iterator[None]:
    with standing_in(emulator.metal_kernel):
        yield
