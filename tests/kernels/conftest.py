"""Machines as far as the verifier of kernels looks."""

from __future__ import annotations

import mlx.core as mx
import pytest


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Metal, as far as the verifier looks."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **_: None)
