"""Kernels that are wrong, and what is heard of them."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import mlx.core as mx

from qwen3_mlx.kernels import Kernels

from . import emulator


def swapping(kernel: str, written: str, broken: str) -> Any:
    """A ``metal_kernel`` that gets one kernel's source wrong."""

    def make(**given: Any) -> Any:
        if given["name"] == f"qwen3_{kernel}":
            assert written in given["source"] + given.get("header", "")
            given = {**given, **{k: given[k].replace(written, broken) for k in ("source", "header")}}
        return emulator.metal_kernel(**given)

    return make


class Runs(Protocol):
    """Something to compute with kernels."""

    def run(self, kernels: Kernels) -> mx.array: ...


def told(kernels: Kernels, given: Runs, times: int = 3) -> tuple[mx.array, list[str], list[str]]:
    """The result, the warnings, and the launches of the last time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            with emulator.recording() as reports:
                out = given.run(kernels)
    return out, [str(w.message) for w in caught], [report.kernel for report in reports]
