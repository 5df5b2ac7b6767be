"""`python -m qwen3_mlx.generate`: the command `qwen3-mlx generate` without the others around it."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command on ``sys.argv``; returns the exit status. Ctrl-C counts from the first import on."""
    gc.disable()  # all that imports make stays; looking through it again and again is a twentieth of a cold start
    try:
        from .cli.errors import run
        from .cli.generate import command

        return run(command, "python -m qwen3_mlx.generate")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
