"""What a grammar costs on the host, with the real vocabulary of 151,936 tokens.

    python -m benchmarks.grammar [--documents 300] [--device]

Random schemas (those of the tests, and a tool call's), random documents of each. Timed: preparing the vocabulary (once
for a loaded checkpoint), compiling a request's grammar, the mask of a token that is drawn, and moving on behind one.
The mask is computed while the device runs the step's forward pass. ``--device``: applying it there as well.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from qwen3_mlx.control.grammar import Follower, follow, mask_of
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.types import Grammar, Request, SamplingParams
from tests.control.schemas import random_schema
from tests.text.real_tokenizer import real_folder

from .sides import machine

EVENT = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "where": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "people": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "priority": {"enum": ["low", "normal", "high"]},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["title", "where", "people", "priority", "day"],
}
TOOL = {"type": "function", "function": {"name": "create_event", "parameters": EVENT}}


Times = list[tuple[float, float]]


def asked(index: int) -> Request:
    params = SamplingParams()
    if index % 4 == 0:
        return Request((1,), params, tools=(TOOL,), must_call=("create_event",), parallel_tool_calls=False)
    schema = EVENT if index % 4 == 1 else random_schema(random.Random(index))
    return Request((1,), params, grammar=Grammar.json_schema(schema))


def timed(into: Times, work: Callable[..., Any], *given: Any) -> Any:
    """Milliseconds by the clock, and those this thread had a core for."""
    begun, used = time.perf_counter(), time.thread_time()
    out = work(*given)
    used, now = time.thread_time() - used, time.perf_counter()
    into.append(((now - begun) * 1000, used * 1000))
    return out


def write(follower: Follower, tokenizer: Tokenizer, rng: random.Random, masks: Times, moves: Times) -> int:
    """One document, of tokens drawn at random; forced ones are taken as they come. Returns how many were forced."""
    forced = tokens = 0
    while not follower.done and tokens < 200:
        tokens += 1
        if follower.forced:
            forced += 1
            timed(moves, follower.accept, follower.forced[0])
            continue
        mask = timed(masks, follower.mask)
        token = pick(mask, rng)
        if token in tokenizer.eos_ids:
            break
        timed(moves, follower.accept, token)
    return forced


def pick(mask: bytes, rng: random.Random) -> int:
    """A token that the mask allows; of many, sooner one that ends a string than not."""
    whole = int.from_bytes(mask, "little")
    if whole.bit_count() > 1000 and rng.random() < 0.2:
        quotes = whole & int.from_bytes(mask_of(QUOTES, len(mask)), "little")
        whole = quotes or whole
    at = rng.randrange(len(mask) * 8)
    high = whole >> at << at
    found = high or whole
    return (found & -found).bit_length() - 1


QUOTES: Sequence[int] = ()


def on_device(runs: int) -> Times:
    import mlx.core as mx

    from qwen3_mlx.masks import masked

    scores, mask = mx.zeros((1, 151936)), bytes(random.Random(0).randbytes(151936 // 8))
    mx.eval(scores)
    seen: Times = []
    for _ in range(runs):
        timed(seen, lambda: mx.eval(masked(scores, [mask])))
    return seen[runs // 10 :]


def main() -> None:
    global QUOTES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--device", action="store_true")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_folder(real_folder())
    QUOTES = [tokenizer.encode(text)[0] for text in ('"', '",', '"}')]
    compiles: Times = []
    masks: Times = []
    moves: Times = []
    begun = time.perf_counter()
    follow(asked(1), tokenizer)
    print(f"vocabulary and first grammar: {time.perf_counter() - begun:.2f} s")
    forced = 0
    for index in range(args.documents):
        follower = timed(compiles, follow, asked(index), tokenizer)
        forced += write(follower, tokenizer, random.Random(index), masks, moves)
    rows = {"compile a grammar": compiles, "mask of a drawn token": masks, "move on behind a token": moves}
    if args.device:
        rows["apply a mask on the device"] = on_device(200)
    print(f"{args.documents} documents, {len(moves)} tokens, {forced / max(len(moves), 1):.0%} of them forced (ms)")
    for name, pairs in rows.items():
        for kind, values in zip(("by the clock", "on a core"), zip(*pairs, strict=True), strict=True):
            p99 = statistics.quantiles(values, n=100)[98]
            median, most = statistics.median(values), max(values)
            print(f"  {name:28} {kind:14} median {median:7.3f}   p99 {p99:7.3f}   max {most:7.3f}")
    print(f"  masks of more than 1.5 ms on a core: {sum(core > 1.5 for _, core in masks)} of {len(masks)}")
    print(f"  {machine()}")


if __name__ == "__main__":
    main()
