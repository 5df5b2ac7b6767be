"""Which benchmarks there are: the files of this folder that can be run, told from their text, so that nothing is
imported to list them."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

from qwen3_mlx.errors import QwenError

FOLDER = Path(__file__).parent
#: Those that measure two sides in turns and can save what they measured, in the order in which ``all`` runs them.
SIDE_BY_SIDE = (
    "import_time",
    "cold_start",
    "load",
    "text",
    "prefill",
    "decode",
    "batch",
    "turns",
    "server",
    "convert",
    "prefix_lookup",
    "host_graph",
)
#: What works on all of them, or on what they have saved.
COMMANDS = ("all", "report")


class UnknownBenchmark(QwenError):
    """A name that is no benchmark's."""


def runnable() -> dict[str, str]:
    """What each does, a line, by name."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").splitlines()[0].replace("``", "")
    return found


def check(name: str) -> str:
    """``name``, if it is one; raises UnknownBenchmark with those that are nearly called so."""
    names = runnable()
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or [one for one in names if name and name in one]
    did = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UnknownBenchmark(f"there is no benchmark called {name!r}.{did} `python -m benchmarks` lists them all")


def listing() -> str:
    """All of them with what each does, side by side ones first."""
    names = runnable()
    others = [name for name in names if name not in (*SIDE_BY_SIDE, *COMMANDS)]
    width = max(map(len, names))
    lines = ["usage: python -m benchmarks NAME [options]        (NAME --help tells the options)"]
    for title, group in (
        ("Side by side, saved with --save", SIDE_BY_SIDE),
        ("Counts, bytes, errors and endurance", others),
        ("Of all of them", COMMANDS),
    ):
        lines += ["", f"{title}:", *(f"  {name:{width}}  {names[name]}" for name in group)]
    return "\n".join(lines)
