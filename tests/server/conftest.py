"""The demo, loaded once for all tests of the server, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qwen3_mlx import Qwen3

from .serving import Running, serving


@pytest.fixture(scope="package")
def demo() -> Iterator[Qwen3]:
    with Qwen3.load("demo", max_batch=8) as q:
        yield q


@pytest.fixture(scope="package")
def server(demo: Qwen3) -> Iterator[Running]:
    with serving(demo) as running:
        yield running
