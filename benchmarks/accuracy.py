"""What an embedded checkpoint gets right, played through the runtime itself.

    python -m benchmarks.accuracy --model demo                    # every set under tools/demo_model/eval
    python -m benchmarks.accuracy --model demo --sets count add --size 100
    python -m benchmarks.accuracy --model demo --budgets          # accuracy against the thinking budget
    python -m benchmarks.accuracy --model demo --convert 4 --sets count add tool_made

Greedy by default; ``--sampled`` takes the checkpoint's own sampling defaults with a fixed seed. ``--convert N`` first
converts the checkpoint to N bits with ``qwen3_mlx.convert`` and measures the result. Sets and what counts as right are
described in ``tools/demo_model/README.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwen3_mlx import Completion, Qwen3, SamplingParams

EVAL = Path(__file__).parent.parent / "tools" / "demo_model" / "eval"
SHARES = (0, 0.25, 0.5, 0.75, 1)
LIMIT = 400


def read(name: str, size: int | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EVAL / f"{name}.jsonl").read_text().splitlines()][:size]


def right(completion: Completion, expect: dict[str, Any]) -> bool:
    kind, value = expect["kind"], expect["value"]
    answer = completion.content or ""
    if kind == "calls":
        try:
            calls = [{"name": c.name, "arguments": json.loads(c.arguments)} for c in completion.tool_calls]
        except ValueError:
            return False
        return calls == value
    if completion.tool_calls:
        return False
    if kind == "number":
        return re.findall(r"\d+", answer) == [str(value)]
    if kind == "contains":
        return all(v in answer for v in value)
    return answer == value


def obeyed(completion: Completion, expect: dict[str, Any]) -> bool:
    """Thought when asked to, and only then."""
    return (completion.reasoning_content is not None) == (expect["thought"] == "on")


def ask(q: Qwen3, row: dict[str, Any], params: SamplingParams, budget: int | None = None) -> Completion:
    return q.generate(
        row["messages"], thinking=row["thinking"], thinking_budget=budget, tools=row["tools"], params=params
    )


def percent(flags: list[bool]) -> float:
    return round(100 * sum(flags) / max(1, len(flags)), 1)


def accuracy(q: Qwen3, name: str, rows: list[dict[str, Any]], params: SamplingParams) -> float:
    begun = time.perf_counter()
    flags, thought = [], 0
    for row in rows:
        completion = ask(q, row, params)
        thought += completion.usage.reasoning_tokens
        flags.append(right(completion, row["expect"]) and obeyed(completion, row["expect"]))
    seconds = time.perf_counter() - begun
    mean = thought / len(rows)
    print(f"  {name:11} {percent(flags):5.1f} %  of {len(rows):3}   mean thought {mean:4.0f} tokens   {seconds:.0f} s")
    sys.stdout.flush()
    return percent(flags)


def budgets(q: Qwen3, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Accuracy when the budget is a share of the thought that the checkpoint takes by itself on that question."""
    params = SamplingParams(temperature=0, max_tokens=LIMIT)
    # The last token of a whole thought is its close: a budget of all the others changes nothing.
    needed = [ask(q, row, params).usage.reasoning_tokens for row in rows]
    curve = {}
    for share in SHARES:
        flags = [
            right(ask(q, row, params, round(share * tokens)), row["expect"])
            for row, tokens in zip(rows, needed, strict=True)
        ]
        curve[str(share)] = percent(flags)
        print(f"  budget {share:4.0%} of the needed length: {curve[str(share)]:5.1f} %", flush=True)
    return curve


@contextlib.contextmanager
def converted(model: str, bits: int | None) -> Iterator[str]:
    if bits is None:
        yield model
        return
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / f"{Path(model).name}-{bits}bit")
        command = [sys.executable, "-m", "qwen3_mlx.convert", "--model", model, "--output", output]
        subprocess.run([*command, "--bits", str(bits)], check=True, stdout=subprocess.DEVNULL)
        yield output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--convert", type=int, metavar="BITS")
    parser.add_argument("--sets", nargs="*", default=sorted(p.stem for p in EVAL.glob("*.jsonl")))
    parser.add_argument("--size", type=int, help="only the first rows of every set")
    parser.add_argument("--sampled", action="store_true")
    parser.add_argument("--budgets", action="store_true")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()

    params = (
        SamplingParams(max_tokens=LIMIT, seed=1) if args.sampled else SamplingParams(temperature=0, max_tokens=LIMIT)
    )
    report: dict[str, Any] = {"model": args.model, "bits": args.convert, "sampled": args.sampled}
    with converted(args.model, args.convert) as model, Qwen3.load(model) as q:
        if args.budgets:
            report["budgets"] = budgets(q, read("count", args.size))
        else:
            how = f", converted to {args.convert} bits" if args.convert else ""
            print(f"{args.model}{how}, {'sampled' if args.sampled else 'greedy'}")
            report["sets"] = {name: accuracy(q, name, read(name, args.size), params) for name in args.sets}
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
