"""What a measurement ran on: the machine, and the versions of all that took part."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Whose versions a measurement depends on; a peer that is not installed is not listed.
PACKAGES = ("qwen3-mlx", "mlx", "mlx-lm", "transformers", "tokenizers", "llama-cpp-python")
#: What is measured, and what measures it: a commit that changes nothing of this leaves results comparable.
SOURCES = ("qwen3_mlx", "convert", ":(glob)benchmarks/*.py")


@dataclass(frozen=True, slots=True)
class Machine:
    """``memory``: bytes; ``device``: what MLX computes on by default."""

    processor: str
    cores: int
    memory: int
    system: str
    device: str

    def __str__(self) -> str:
        memory = f"{self.memory / 1e9:.0f} GB"
        return f"{self.processor}, {self.cores} cores, {memory}, {self.system}, MLX on {self.device}"


def here() -> Machine:
    import mlx.core as mx

    info = mx.device_info()
    name, kind = str(info.get("device_name", "unknown")), mx.default_device().type
    release = platform.mac_ver()[0]
    return Machine(
        processor=_processor() or name,
        cores=os.cpu_count() or 1,
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        system=f"macOS {release}" if release else f"{platform.system()} {platform.machine()}",
        device="the CPU" if kind == mx.DeviceType.cpu else f"{name} (GPU)",
    )


def on_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.cpu


def versions() -> dict[str, str]:
    """By name, Python and this checkout's commit among them; the commit says whether something was changed since."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if commit := _commit():
        found["commit"] = commit
    return found


def load_average() -> tuple[float, ...]:
    """Of the last minute, five and fifteen."""
    return tuple(round(value, 2) for value in os.getloadavg())


def _processor() -> str:
    """As the system calls it; empty where it does not tell (a Mac's chip is named by MLX)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The last commit that changed what is measured; empty outside a checkout."""
    commit = _git("log", "-1", "--format=%H", "--", *SOURCES)[:12]
    return f"{commit}, with changes" if commit and _git("status", "--porcelain", "--", *SOURCES) else commit


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
