"""The command line `qwen3-mlx`. A command's module is imported when that command runs."""

from __future__ import annotations


def main() -> int:
    """Entry point of `qwen3-mlx` and `python -m qwen3_mlx.cli`; returns the exit status."""
    try:
        from .errors import run
        from .group import group

        return run(group, "qwen3-mlx")
    except KeyboardInterrupt:
        return 130
