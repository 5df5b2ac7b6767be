"""Two sides measured in turns, A B A B, so that what the machine does besides falls on both."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from importlib.metadata import version


def interleave(sides: dict[str, Callable[[], float]], runs: int, warmup: int = 1) -> dict[str, list[float]]:
    """Call every side in turn, ``warmup + runs`` rounds; returns each side's measurements without the warm-up."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(warmup + runs):
        for name, measure in sides.items():
            value = measure()
            if round_ >= warmup:
                seen[name].append(value)
    return seen


def report(title: str, unit: str, seen: dict[str, list[float]], ours: str, peer: str, *, more_is_better: bool) -> None:
    """A table of medians and spread, the ratio, and what it ran on."""
    print(f"{title} ({unit}; {len(seen[ours])} interleaved runs)")
    for name, values in seen.items():
        values = sorted(values)
        print(f"  {name:12} median {statistics.median(values):10.4g}   min {values[0]:10.4g}   max {values[-1]:10.4g}")
    ratio = statistics.median(seen[ours]) / statistics.median(seen[peer])
    verdict = "more is better" if more_is_better else "less is better"
    print(f"  ratio {ours} / {peer}: {ratio:.3f} ({verdict})")
    print(f"  {machine()}")


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {packages}"
