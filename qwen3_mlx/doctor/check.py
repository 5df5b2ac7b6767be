"""Whether an instantiation of a kernel compiles here, and agrees with the reference."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass

from ..kernels.verdicts import Kind, Store
from ..kernels.verify import Verifier, subject
from .catalogue import Use, trials


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on one instantiation, and the ``names`` of its parameters.

    ``detail`` holds the compiler's whole message if there is one; ``error``: the largest error in units of what is
    tolerated, ``None`` if there is no finite one; ``source``: a hash of the kernel, its launchers and its trial.
    """

    kernel: str
    parameters: tuple[str, ...]
    names: tuple[str, ...]
    models: tuple[str, ...]
    source: str
    verdict: Kind
    detail: str
    error: float | None

    @property
    def good(self) -> bool:
        return self.verdict == "good"


@dataclass(frozen=True, slots=True)
class Held:
    """A verdict of an earlier run on this machine. ``current``: the kernel, MLX and the system are still the same."""

    kernel: str
    parameters: tuple[str, ...]
    verdict: Kind
    detail: str
    current: bool

    @property
    def bad(self) -> bool:
        return self.current and self.verdict != "good"


def check(use: Use, verifier: Verifier) -> Checked:
    """Tries an instantiation, whatever was found out about it before."""
    verdict = verifier.retry(use.trial, *use.parameters)
    measured = verdict.error is not None and math.isfinite(verdict.error)
    return Checked(
        kernel=use.trial.kernel,
        parameters=spelled(use.parameters),
        names=tuple(inspect.signature(use.trial.error).parameters),
        models=use.models,
        source=subject(use.trial, ())["source"],
        verdict=verdict.kind,
        detail=verdict.detail,
        error=verdict.error if measured else None,
    )


def spelled(parameters: tuple[object, ...]) -> tuple[str, ...]:
    """Parameters as a verdict's subject spells them, without the module of a dtype."""
    return tuple(str(parameter).removeprefix("mlx.core.") for parameter in parameters)


def held(store: Store) -> list[Held]:
    """What earlier runs have found out."""
    now = {kernel: subject(trial, ()) for kernel, trial in trials().items()}
    found = []
    for about, verdict in store.held():
        kernel, parameters = str(about.get("kernel")), about.get("parameters")
        current = {**now.get(kernel, {}), "parameters": parameters} == about
        given = tuple(parameters) if isinstance(parameters, list) else ()
        found.append(Held(kernel, spelled(given), verdict.kind, verdict.detail, current))
    return sorted(found, key=lambda each: (each.kernel, each.parameters))
