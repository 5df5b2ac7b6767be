"""What the machine is, as far as results on it depend on that."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import mlx.core as mx

from ..chips import Limit, limit
from ..errors import QwenError
from ..kernels import ENVIRONMENT, resolve

#: Packages whose versions a result depends on, or without which a first token fails.
PACKAGES = ("qwen3-mlx", "mlx", "tokenizers", "jinja2", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """``gpu_cores``, ``bandwidth``: ``None`` where they are not known. ``working_set``: bytes that Metal recommends to
    take at most. ``packages``: versions by name, ``None`` for one that cannot be imported."""

    chip: str
    gpu_cores: int | None
    metal: bool
    memory: int
    working_set: int | None
    system: str
    python: str
    packages: dict[str, str | None]
    bandwidth: Limit | None


def machine() -> Machine:
    """This one. On a Mac it asks the system for the number of GPU cores, which takes about a second."""
    metal, info = has_metal(), mx.device_info()
    chip = str(info.get("device_name", "unknown"))
    cores = _gpu_cores() if metal else None
    return Machine(
        chip=chip,
        gpu_cores=cores,
        metal=metal,
        memory=_memory(),
        working_set=int(info.get("max_recommended_working_set_size", 0)) or None,
        system=_system(),
        python=f"{platform.python_version()} ({platform.machine()})",
        packages={name: _version(name) for name in PACKAGES},
        bandwidth=limit(chip, cores) if metal else None,
    )


def has_metal() -> bool:
    """Whether kernels can run, and be timed, on a GPU."""
    return mx.metal.is_available()


def mode() -> tuple[str, str]:
    """Which kernels ``auto`` takes here, and why. Raises :class:`InvalidRequest`, :class:`Unavailable` as it would."""
    chosen = resolve("auto").mode
    if said := os.environ.get(ENVIRONMENT):
        return chosen, f"{ENVIRONMENT}={said} says so"
    if chosen == "metal":
        return chosen, "MLX has an Apple GPU, and each kernel is checked here before its first use"
    if has_metal():
        return chosen, "MLX's default device is not the GPU"
    return chosen, "MLX finds no Apple GPU, so everything runs on its own operations"


def deterministic() -> str:
    """What ``deterministic=True`` means here: which of MLX's own operations it avoids, or why it is refused."""
    try:
        avoided = resolve("auto", deterministic=True).avoided
    except QwenError as refused:
        return f"refused: {refused}"
    if not avoided:
        return "avoids nothing: MLX's CPU backend adds up row by row"
    return f"avoids MLX's own {', '.join(line.partition(':')[0] for line in avoided)}"


def _gpu_cores() -> int | None:
    try:
        asked = ["system_profiler", "SPDisplaysDataType", "-json"]
        ran = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        return gpu_cores(json.loads(ran.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def gpu_cores(displays: Any) -> int | None:
    """The number of cores out of ``system_profiler``'s answer."""
    for gpu in displays.get("SPDisplaysDataType", []) if isinstance(displays, dict) else []:
        if isinstance(gpu, dict) and (found := re.fullmatch(r"\d+", str(gpu.get("sppci_cores", "")))):
            return int(found[0])
    return None


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _system() -> str:
    version = platform.mac_ver()[0]
    return f"macOS {version}" if version else f"{platform.system()} {platform.release()}"


def _version(name: str) -> str | None:
    """The version of an installed package that really can be imported."""
    try:
        __import__(name.replace("-", "_"))
        return metadata.version(name)
    except (ImportError, OSError):  # of a library that is not there, or not for this machine
        return None
