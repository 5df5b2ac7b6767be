"""Counts that may not grow unnoticed, each against its budget in ``budgets.json``. Counts, not timings.

    python -m benchmarks.gate [--update]

``tests/test_gate.py`` holds them in CI. A count above its budget fails, and so does one that has fallen well below it,
for a loose budget holds nothing: either is accepted with ``--update``, which writes what was counted, to be committed
with the reason. Nothing here depends on the machine; on the version of Python, as far as ``SLACK`` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx

from qwen3_mlx import Qwen3, SamplingParams, hub
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.control.collect import collect
from qwen3_mlx.engine.warmup import Warmup
from qwen3_mlx.kernels.dispatch import on_metal, on_stock

from . import calls, kernel_bytes
from .dispatches import POSITION, launches, traceable
from .host_graph import MODELS, ours
from .nodes import one_node
from .turns import WORDS

BUDGETS = Path(__file__).with_name("budgets.json")
#: The share by which a count of calls may exceed its budget, which was counted with Python 3.11: others have other
#: calls inside their libraries.
SLACK = 0.02 if sys.version_info[:2] == (3, 11) else 0.1
LOOSE = 0.05  # the share by which a count that holds nothing any more is below its budget

Counts = Iterator[tuple[str, float]]


def steps() -> Counts:
    """Launches of a decoded token on a GPU with our kernels, and nodes of its graph, views included."""
    kernels = on_metal(on_stock("metal"), lambda *_: True)
    for name in ("30B-A3B", "8B"):
        for bits in (None, 8):
            config, cache = ModelConfig.from_dict(MODELS[name]), "bf16" if bits is None else f"{bits}-bit"
            step = ours(config, kernels, True, POSITION, bits, mx.bfloat16)
            yield f"launches a token: {name}, {cache} cache", launches(step.graph, step.token).total()
            yield f"graph nodes a token: {name}, {cache} cache", nodes(step.graph, step.token)


def nodes(function: Callable[..., tuple[mx.array, ...]], *inputs: mx.array) -> int:
    """All nodes of a function's graph."""
    found = 0

    def visit(info: dict[str, Any]) -> None:
        nonlocal found
        found += info["type"] == "primitive"

    with one_node(), traceable():
        mx.export_function(visit, function, *inputs)
    return found


def attention_bytes() -> Counts:
    """What our decode attention asks for over 1,024 tokens of an 8-bit cache, counted in emulation."""
    row = kernel_bytes.ours(1024, 8)
    yield "bytes that 8-bit decode attention reads of the cache", row.read
    yield "other bytes of 8-bit decode attention", row.other


def prefilled() -> Counts:
    """Tokens that each turn of a thinking chat computes, when what could be was computed while the user was reading."""
    idle, done = threading.Event(), Warmup._done

    def told(self: Warmup) -> None:
        done(self)
        idle.set()

    messages: list[dict[str, Any]] = []
    with mock.patch.object(Warmup, "_done", told), Qwen3.load("demo") as q:
        for turn in range(5):
            messages.append({"role": "user", "content": f"How many r are in {WORDS[turn]}?"})
            idle.clear()
            answer = collect(list(q.stream(messages, params=SamplingParams(temperature=0, max_tokens=400))))
            if turn:
                yield f"tokens prefilled: turn {turn + 1}", answer.usage.prompt_tokens - answer.usage.cached_tokens
            messages.append(answer.to_message())
            if not idle.wait(60):
                raise SystemExit("the next turn's beginning is not computed while there is nothing else to do")


def imported() -> Counts:
    """Modules of ours, and packages of others, that are loaded by an import and on the way to a first token."""
    first = "from qwen3_mlx.engine.row import Row; Row.send = lambda *_: show()"
    generate = (
        "import sys; sys.argv = ['generate', 'Hi', '--model', 'demo']; from qwen3_mlx.generate import main; main()"
    )
    for what, code in (("import", "import qwen3_mlx; show()"), ("first token", f"{first}; {generate}")):
        done = subprocess.run([sys.executable, "-c", _SHOW + code], capture_output=True, text=True, timeout=120)
        lines = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
        if not lines:
            raise SystemExit(f"modules could not be counted:\n{done.stderr}")
        modules = set(lines[0].split()[1:])
        own = {name for name in modules if name.partition(".")[0] == "qwen3_mlx"}
        others = {name.partition(".")[0] for name in modules - own}
        yield f"modules of ours: {what}", len(own)
        yield f"packages of others: {what}", len(others)


_SHOW = """
import os, sys
before = set(sys.modules)
def show():
    loaded = {n for n in set(sys.modules) - before if n.partition(".")[0] not in sys.stdlib_module_names}
    print("\\nloaded:", *sorted(n for n in loaded if n.partition(".")[0].isidentifier()), flush=True)
    os._exit(0)
"""


def called() -> Counts:
    """Calls of Python functions for a decoded token, with the steps traced that a GPU has (:mod:`benchmarks.calls`)."""
    folder = hub.resolve("demo")
    for streams in (1, 16):
        count, _ = calls.counted("gpu", folder, streams)
        yield f"Python calls a token: {streams} stream{'s' * (streams > 1)}", round(count.python, 1)


KINDS: tuple[Callable[[], Counts], ...] = (steps, attention_bytes, prefilled, imported, called)


def counts() -> dict[str, float]:
    return {name: count for kind in KINDS for name, count in kind()}


def complaints(budgets: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """A sentence for each count that is not what its budget says."""
    out = []
    for name in sorted({*budgets, *found}):
        budget, got = budgets.get(name), found.get(name)
        slack = SLACK if name.startswith("Python calls") else 0.0
        if budget is None or got is None:
            out.append(f"{name}: " + ("has no budget" if budget is None else "has a budget and is not counted"))
        elif got > budget * (1 + slack):
            out.append(f"{name}: {got:g} counted, above its budget of {budget:g}")
        elif got < budget * (1 - max(LOOSE, slack)):
            out.append(f"{name}: {got:g} counted, well below its budget of {budget:g}, which holds nothing any more")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="accept what is counted now")
    args = parser.parse_args()
    found = counts()
    if args.update:
        BUDGETS.write_text(json.dumps(found, indent=2) + "\n")
    budgets = json.loads(BUDGETS.read_text())
    for name, got in found.items():
        print(f"{got:10g} of {budgets.get(name, float('nan')):10g}   {name}")
    if wrong := complaints(budgets, found):
        print(*wrong, "If that is meant: python -m benchmarks.gate --update, and commit it with the reason.", sep="\n")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
