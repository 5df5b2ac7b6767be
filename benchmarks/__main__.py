"""``python -m benchmarks NAME [options]``; without a name, what there is."""

from __future__ import annotations

import importlib
import sys

from qwen3_mlx.errors import QwenError

from . import catalogue


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark with its options; returns the exit status. ``argv``: the name and what follows it, by default
    those of this process."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(catalogue.listing())
        return 0
    try:
        name = catalogue.check(argv[0])
    except QwenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    module = importlib.import_module(f"{__package__}.{name}")
    before, sys.argv = sys.argv, [f"python -m benchmarks {name}", *argv[1:]]
    try:
        return module.main() or 0
    except SystemExit as stop:  # of argparse, or with what went wrong
        if isinstance(stop.code, str):
            print(f"error: {stop.code}", file=sys.stderr)
            return 1
        return stop.code or 0
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main())
