"""``python -m qwen3_mlx.convert``: the converter's command, with the exit statuses of the other commands."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command on ``sys.argv``; returns the exit status. Ctrl-C counts from the first import on."""
    try:
        from ..cli.errors import run
        from .command import command

        return run(command, "python -m qwen3_mlx.convert")
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
