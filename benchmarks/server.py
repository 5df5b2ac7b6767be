"""Clients that stream at a time: this server against ``mlx_lm.server``, and against the engine without HTTP.

    python -m benchmarks.server [--clients 1,4,16] [--tokens 200] [--runs 3] [--model demo] [--float32]

Both servers run on the same folder, with their defaults but for the batch, which takes all clients. Every round each
client asks a question of its own for an answer of exactly --tokens tokens (the end of an answer is forbidden), the two
servers in turns, and then the engine by itself in a process of its own, from the same prompts. A client is a socket
that looks for the first token and the end, and parses nothing between. --float32 stores the checkpoint in float32 for
all, so that neither side has the better type for a CPU.

Measured: tokens per second of all clients together, the time to the first token (median and 95th percentile of a
round's clients), and the processor time that a side takes for a token, client not counted: what HTTP costs of the
engine's own shows there even where the machine has others to serve as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from qwen3_mlx.errors import EngineError

from .folders import in_float32
from .frame import Bench, Numbers, benchmark
from .results import OURS, Measured, Quantity
from .serving import served

WORDS = ["strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "pear", "letters", "apple"]
PEER, ENGINE = "mlx-lm", "engine without HTTP"
RATE = Quantity("all clients together", "tokens/s", "clients", more_is_better=True)
MEDIAN = Quantity("time to first token, median", "ms", "clients")
LATE = Quantity("time to first token, 95th percentile", "ms", "clients")
WORK = Quantity("processor time", "ms a token", "clients")
FILLED = re.compile(rb'"(content|reasoning|reasoning_content)": ?"[^"]')  # a delta that has text


class Round(NamedTuple):
    """Tokens a second of all clients, each one's seconds to the first token, and the seconds of processor time that the
    side took for a token (client not counted)."""

    rate: float
    first: list[float]
    work: float


def question(round_: int, client: int) -> str:
    return f"How many {'abersp'[client % 6]} are in {WORDS[(client + round_) % 9]}? ({round_}, {client})"


async def ask(port: int, body: dict[str, Any]) -> float:
    """Seconds to the first token; returns when the answer has ended."""
    data = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    begun, first = time.perf_counter(), 0.0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    tail = b""
    while piece := await reader.read(65536):
        if not first and FILLED.search(tail + piece):
            first = time.perf_counter() - begun
        tail = (tail + piece)[-4096:]
    writer.close()
    if not first or b"[DONE]" not in tail or b'"length"' not in tail:
        raise EngineError(f"an answer that did not end as it has to: {tail[-300:]!r}")
    return first


async def one_round(port: int, process: int, bodies: Sequence[dict[str, Any]], tokens: int) -> Round:
    begun, worked = time.perf_counter(), processor(process)
    first = await asyncio.gather(*(ask(port, body) for body in bodies))
    count = len(bodies) * tokens
    return Round(count / (time.perf_counter() - begun), list(first), (processor(process) - worked) / count)


def processor(process: int) -> float:
    """Seconds of processor time that a process has taken; 0 where the system does not tell."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bodies(round_: int, clients: int, tokens: int, eos: Sequence[int]) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"stream": True, "max_tokens": tokens, "temperature": 0}
    shared["logit_bias"] = {str(token): -1e9 for token in eos}
    return [{"messages": [{"role": "user", "content": question(round_, i)}], **shared} for i in range(clients)]


#: The engine by itself: reads a round's bodies, a line each, and writes tokens a second.
ALONE = """
import json, sys, time
from qwen3_mlx import Finished, Qwen3, SamplingParams
with Qwen3.load(sys.argv[1], max_batch=int(sys.argv[2])) as q:
    for line in sys.stdin:
        bodies, begun, tokens, first = json.loads(line), time.perf_counter(), 0, []
        streams = []
        for body in bodies:
            bias = {int(token): value for token, value in body["logit_bias"].items()}
            params = SamplingParams(temperature=0, max_tokens=body["max_tokens"], logit_bias=bias)
            streams.append(q.stream(body["messages"], params=params))
        for stream in streams:
            for event in stream:
                if isinstance(event, Finished):
                    tokens += event.usage.completion_tokens
                    first.append(event.timings.ttft_s)
        print(json.dumps([tokens / (time.perf_counter() - begun), first]), flush=True)
"""


@contextmanager
def alone(folder: str, clients: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", ALONE, folder, str(clients)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def engine_round(process: subprocess.Popen[str], asked: Sequence[dict[str, Any]]) -> Round:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    worked = processor(process.pid)
    rate, first = json.loads(process.stdout.readline())
    return Round(rate, first, (processor(process.pid) - worked) / sum(body["max_tokens"] for body in asked))


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def rounds(folder: str, clients: int, tokens: int, runs: int) -> dict[str, list[Round]]:
    """By side, in turns; each side is started anew for a round, and warmed up."""
    held = json.loads((Path(folder) / "generation_config.json").read_text())["eos_token_id"]
    eos = held if isinstance(held, list) else [held]
    seen: dict[str, list[Round]] = {name: [] for name in (OURS, PEER, ENGINE)}
    concurrency = ("--decode-concurrency", str(clients), "--prompt-concurrency", str(clients))
    servers = {
        OURS: ("qwen3_mlx.server", ("--max-batch", str(clients))),
        PEER: ("mlx_lm.server", ("--log-level", "ERROR", *concurrency)),
    }
    warm = bodies(-1, clients, 8, eos)
    for round_ in range(runs):
        asked = bodies(round_, clients, tokens, eos)
        for name, (module, options) in servers.items():
            with served(module, folder, options) as (port, process):
                asyncio.run(one_round(port, process, warm, 8))
                seen[name].append(asyncio.run(one_round(port, process, asked, tokens)))
        with alone(folder, clients) as by_itself:
            engine_round(by_itself, warm)
            seen[ENGINE].append(engine_round(by_itself, asked))
    return seen


@benchmark(runs=3)
@click.option("--clients", type=Numbers(1), default="1,4,16", show_default=True, help="Clients at a time.")
@click.option("--tokens", type=click.IntRange(2), default=200, show_default=True, help="Of every answer.")
@click.option("--float32", is_flag=True, help="The checkpoint in float32, for all sides.")
def main(bench: Bench, clients: tuple[int, ...], tokens: int, float32: bool) -> Iterator[Measured]:
    figures: list[tuple[Quantity, Callable[[Round], float]]] = [
        (RATE, lambda one: one.rate),
        (MEDIAN, lambda one: statistics.median(one.first) * 1e3),
        (LATE, lambda one: percentile(one.first, 0.95) * 1e3),
    ]
    if processor(os.getpid()):  # else the system does not tell
        figures.append((WORK, lambda one: one.work * 1e3))
    with tempfile.TemporaryDirectory() as scratch:
        folder = bench.folder
        if float32:
            folder = in_float32(folder, Path(scratch) / "model")
        for count in clients:
            seen = rounds(str(folder), count, tokens, bench.runs)
            for quantity, figure in figures:
                yield quantity.row(count, {name: map(figure, found) for name, found in seen.items()})


if __name__ == "__main__":
    sys.exit(main())
