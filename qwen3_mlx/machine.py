"""What a process finds on this machine: how much memory it may still take, and where it may keep things."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cache_folder(name: str) -> Path | None:
    """``qwen3-mlx/<name>`` in the user's cache folder, ``XDG_CACHE_HOME`` or ``~/.cache``; ``None`` if that is not an
    absolute path, as when the user has no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "qwen3-mlx" / name if os.path.isabs(home) else None


def free_memory() -> int:
    """Bytes that can be allocated without swapping or being killed, as far as the system tells.

    On Linux what is available now, within the limits of the control group; elsewhere the machine's memory (a Mac makes
    room by itself, and Metal's own limit comes first).
    """
    if sys.platform == "linux":
        return min([_available(), *_control_group()])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available(meminfo: Path = Path("/proc/meminfo")) -> int:
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_group(root: Path = _CGROUP) -> list[int]:
    """What the limits of a container leave, by cgroup version 2 and 1; nothing where there is no limit."""
    left = []
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((root / limit).read_text())
            taken = int((root / used).read_text())
            stat = ((root / limit).parent / "memory.stat").read_text()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        # Pages of files that nobody has touched lately are given up before anything is refused.
        pages = dict(line.split() for line in stat.splitlines() if len(line.split()) == 2)
        left.append(max(0, most - taken + int(pages.get(cache, 0))))
    return left
