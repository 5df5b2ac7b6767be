"""Trials that end as they are told, and what is heard of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from qwen3_mlx.kernels.verify import Trial


class Tried:
    """A trial that counts, with the result or the exception it is told to end with."""

    def __init__(self, outcome: float | Exception, kernel: str = "router") -> None:
        self.outcome = outcome
        self.parameters: list[tuple[Any, ...]] = []
        self.trial = Trial(kernel, ("router",), (__file__,), self.error)

    def error(self, *parameters: Any) -> mx.array:
        self.parameters.append(parameters)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return mx.array(self.outcome)


def told(action: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    assert all(warning.category is RuntimeWarning for warning in caught)
    return [str(warning.message) for warning in caught]
