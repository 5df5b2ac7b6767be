"""A thinking chat of ten turns: time to first token and tokens prefilled at each, against ``mlx_lm.server``.

    python -m benchmarks.turns [--model demo] [--turns 10] [--tokens 400] [--runs 3]

Every answer, thought included, has exactly ``--tokens`` tokens: the end of an answer is forbidden, so what follows
its sense is babble (and the thought is sent back too, lest the template finds one in the babble). It is the template
that leaves it out. Between two turns there is a pause in which a user would read. The clock runs from the request to
the first token that arrives; theirs comes over HTTP on this machine, ours from the library. A turn
counts in a run if on both sides the answer before it has a thought and as much again as half of its tokens: else the
template leaves nothing out, or the babble never came out of its thought, and nothing is to be computed again.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

from qwen3_mlx import Qwen3, SamplingParams, hub
from qwen3_mlx.control.collect import collect
from qwen3_mlx.text.tokenizer import Tokenizer

WORDS = ["strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "pear", "letters", "apple"]


class Turn:
    """What one turn took."""

    def __init__(self, seconds: float, content: str, thought: str, computed: int | None) -> None:
        self.seconds, self.computed = seconds, computed
        self.message = {"role": "assistant", "content": content, "reasoning_content": thought}


def ours(q: Qwen3, messages: list[dict[str, Any]], params: SamplingParams) -> Turn:
    begun, first, events = time.perf_counter(), 0.0, []
    for event in q.stream(messages, params=params):
        first = first or time.perf_counter() - begun
        events.append(event)
    whole = collect(events)
    computed = whole.usage.prompt_tokens - whole.usage.cached_tokens
    return Turn(first, whole.content or "", whole.reasoning_content or "", computed)


def theirs(port: int, messages: list[dict[str, Any]], tokens: int, eos: list[int]) -> Turn:
    body = {"messages": messages, "stream": True, "max_tokens": tokens, "temperature": 0}
    body["logit_bias"] = {str(token): -1e9 for token in eos}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    begun, first, text, thought = time.perf_counter(), 0.0, "", ""
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                delta = json.loads(line[6:])["choices"][0].get("delta", {})
                if delta.get("content") or delta.get("reasoning"):
                    first = first or time.perf_counter() - begun
                text, thought = text + (delta.get("content") or ""), thought + (delta.get("reasoning") or "")
    return Turn(first, text, thought, None)


def comparable(
    runs: list[list[tuple[Turn, Turn]]], turn: int, least: int, tokenizer: Tokenizer
) -> list[tuple[Turn, Turn]]:
    """This turn of the runs in which both sides have something to leave out and something to compute again."""

    def complete(before: Turn) -> bool:
        message = before.message
        return bool(message["reasoning_content"]) and len(tokenizer.encode(message["content"])) >= least

    return [run[turn] for run in runs if turn == 0 or all(map(complete, run[turn - 1]))]


def serve(folder: str, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlx_lm.server", "--model", folder, "--port", str(port), "--log-level", "ERROR"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return process
        time.sleep(0.1)
    raise SystemExit("mlx_lm.server does not start: run the command by hand to see why")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pause", type=float, default=1.5, help="seconds a user reads")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = serve(str(hub.resolve(args.model)), port)
    seen: list[list[tuple[Turn, Turn]]] = []
    try:
        with Qwen3.load(args.model) as q:
            tokenizer = q.tokenizer
            eos = sorted(q.tokenizer.eos_ids)
            bias = {token: -1e9 for token in eos}
            params = SamplingParams(temperature=0, max_tokens=args.tokens, logit_bias=bias)
            for run in range(args.runs):
                chats: list[list[dict[str, Any]]] = [[], []]
                seen.append([])
                for turn in range(args.turns):
                    question = {"role": "user", "content": f"How many r are in {WORDS[(turn + run) % 9]}? ({run})"}
                    for chat in chats:
                        chat.append(question)
                    pair = ours(q, chats[0], params), theirs(port, chats[1], args.tokens, eos)
                    seen[-1].append(pair)
                    for chat, one in zip(chats, pair, strict=True):
                        chat.append(one.message)
                    time.sleep(args.pause)
    finally:
        server.terminate()
    print(f"{args.turns} turns, {args.tokens} tokens an answer, medians of {args.runs} runs")
    print("  turn   qwen3-mlx ms   prefilled   mlx-lm ms   ratio   runs")
    for turn in range(args.turns):
        pairs = comparable(seen, turn, args.tokens // 2, tokenizer)
        if not pairs:
            print(f"  {turn + 1:4}   no run in which the answer before has a thought and as much again")
            continue
        mine, other = (statistics.median(pair[side].seconds * 1e3 for pair in pairs) for side in (0, 1))
        computed = max(pair[0].computed or 0 for pair in pairs)
        print(f"  {turn + 1:4}   {mine:12.1f}   {computed:9}   {other:9.1f}   {other / mine:5.1f}x   {len(pairs):4}")


if __name__ == "__main__":
    main()
