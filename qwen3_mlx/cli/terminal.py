"""What the commands know about the terminal: colours, encodings, and text that must not steer it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

DIM = "\x1b[2m"
RESET = "\x1b[0m"
# A model can write any byte. On a terminal, control characters are shown (^[) and not obeyed.
_VISIBLE = {code: f"^{chr(code + 64)}" for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {127: "^?"} | {code: f"\\x{code:02x}" for code in range(128, 160)}


def prepare_streams() -> None:
    """Make the standard streams safe for any text: UTF-8 in pipes and files, a replacement mark where a terminal's
    own encoding lacks a character; a closed one becomes a sink."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def has_colours(stream: TextIO) -> bool:
    """ANSI is for terminals only, and never where https://no-color.org asks for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """The text with control characters spelled out; newlines and tabs stay."""
    return text.translate(_VISIBLE)


def dim(text: str, stream: TextIO) -> str:
    """Every piece carries its own reset: however a program ends, the terminal is left as it was."""
    return f"{DIM}{text}{RESET}" if text and has_colours(stream) else text


def columns(rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """The lines of a table: so many columns of words, to the left, and then numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def notice(text: str) -> None:
    """One line about the program itself, on stderr."""
    print(dim(text, sys.stderr), file=sys.stderr, flush=True)
