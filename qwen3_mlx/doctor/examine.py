"""The whole examination in steps that can be shown and stopped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from ..checkpoint import Checkpoint
from ..chips import Limit
from ..config import ModelConfig, QuantSpec
from ..errors import CheckpointError, ModelNotFound
from ..hub import EMBEDDED, local
from ..kernels.verify import Verifier
from ..released import RELEASED
from . import cases, catalogue, sweep, timing
from .catalogue import ALONE, KV_BITS, Use
from .check import Checked, check, spelled
from .sweep import Sweep
from .timing import Timing

#: As the official MLX checkpoints are packed.
FOUR_BITS = QuantSpec(4, 64)


@dataclass
class Findings:
    """What has been found so far. ``timed``: by kernel and parameters. ``problems``: what could not be timed, and
    why."""

    checked: list[Checked] = field(default_factory=list)
    timed: dict[tuple[str, tuple[str, ...]], Timing] = field(default_factory=dict)
    sweeps: list[Sweep] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def bad(self) -> list[Checked]:
        return [each for each in self.checked if not each.good]

    @property
    def good(self) -> bool:
        return not self.bad and not any(each.disagreeing for each in self.sweeps)


class Step(NamedTuple):
    """One piece of work; ``run`` adds to the findings."""

    what: str
    run: Callable[[Findings], None]


def uses(models: Sequence[str], *, everything: bool) -> list[Use]:
    """The instantiations of these models; of all released ones if none is named, with weights of 4 bits as the official
    checkpoints have them, or in all that conversion offers and in batches too if ``everything``.

    Raises :class:`ModelNotFound` for a model that is not on this machine.
    """
    if everything and not models:
        return catalogue.released()
    passes = catalogue.ALONE + catalogue.TOGETHER if everything else ALONE
    described = [(name, *describe(name)) for name in models or (*RELEASED, *EMBEDDED)]
    return catalogue.merged(
        use
        for name, config, dtype in described
        for kv_bits, deterministic in (*((bits, False) for bits in KV_BITS), (None, True))
        for use in catalogue.uses(name, config, FOUR_BITS, kv_bits, passes, dtype, deterministic)
    )


def describe(name: str) -> tuple[ModelConfig, mx.Dtype]:
    """The config of a model that can be named without a download, and what its activations are in."""
    if name.lower() in RELEASED:
        return RELEASED[name.lower()], catalogue.DTYPE
    folder = local(name)
    if folder is None:
        raise ModelNotFound(
            f"{name} is not on this machine, and doctor downloads nothing: name its size ({', '.join(RELEASED)}) or a"
            " folder"
        )
    return ModelConfig.from_folder(folder), _stored(folder)


def _stored(folder: Path) -> mx.Dtype:
    """float16 for a checkpoint that is stored in it; a folder that holds no weights is taken for a usual one."""
    try:
        norm = Checkpoint(folder).get("model.norm.weight")
    except CheckpointError:
        return catalogue.DTYPE
    return mx.float16 if norm is not None and norm.dtype == "F16" else catalogue.DTYPE


def steps(found: Sequence[Use], verifier: Verifier, limit: Limit | None, *, timed: bool) -> Iterator[Step]:
    """Checks first, each of the instantiations; then, if ``timed``, what they take and the sizes of blocks."""
    for use in found:
        yield Step(f"checking {label(use)}", functools.partial(_check, use, verifier))
    for use in found if timed else ():
        yield Step(f"timing {label(use)}", functools.partial(_time, use, limit))
    for use in sweep.swept(found) if timed else ():
        for tokens in sweep.TOKENS:
            yield Step(f"block sizes of {label(use)}", functools.partial(_sweep, use, tokens))


def label(use: Use) -> str:
    return " ".join((use.trial.kernel, *spelled(use.parameters)))


def _check(use: Use, verifier: Verifier, findings: Findings) -> None:
    findings.checked.append(check(use, verifier))


def _time(use: Use, limit: Limit | None, findings: Findings) -> None:
    if _is_bad(findings, use):
        return
    with _Noting(findings, f"{label(use)} was not timed"):
        case = cases.case(use)
        if case is None:
            findings.problems.append(f"{label(use)} was not timed: there is nothing to compare it with yet")
        else:
            findings.timed[use.trial.kernel, spelled(use.parameters)] = timing.measure(case, limit)


def _sweep(use: Use, tokens: int, findings: Findings) -> None:
    if _is_bad(findings, use):
        return
    with _Noting(findings, f"the block sizes of {label(use)} at {tokens} tokens were not timed"):
        findings.sweeps.append(sweep.sweep(use, tokens))


def _is_bad(findings: Findings, use: Use) -> bool:
    """Whether the check went wrong: such a kernel is not launched again."""
    return any((each.kernel, each.parameters) == (use.trial.kernel, spelled(use.parameters)) for each in findings.bad)


class _Noting:
    """What MLX refuses, such as memory, is a problem among the findings and not the end of them."""

    def __init__(self, findings: Findings, what: str) -> None:
        self._findings, self._what = findings, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> bool:
        mx.clear_cache()
        if not isinstance(error, RuntimeError | MemoryError | ValueError):
            return False
        self._findings.problems.append(f"{self._what}: {' '.join(str(error).split()) or type(error).__name__}")
        return True
