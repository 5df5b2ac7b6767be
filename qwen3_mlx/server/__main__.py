"""`python -m qwen3_mlx.server`: the command `qwen3-mlx serve`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command on ``sys.argv``; returns the exit status."""
    try:
        from ..cli.errors import run
        from ..cli.serve import command

        return run(command, "python -m qwen3_mlx.server")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
