"""Looking up a prompt that leaves the stored ones after a part of it, against mlx-lm's trie. Nothing is computed.

    python -m benchmarks.prefix_lookup [--tokens 4096,32768] [--stored 8] [--runs 15]

Stored are prompts of --tokens tokens that share their first half; the one looked up shares a quarter with them.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from qwen3_mlx.cache.prefix import Node, PrefixCache, packed

from .frame import Bench, Numbers, benchmark
from .results import OURS, Measured, Quantity
from .sides import interleave

LOOKUP = Quantity("looking up a prompt", "ms", "tokens, of which three quarters are new")


@benchmark(runs=15, model=None)
@click.option("--tokens", type=Numbers(4), default="4096,32768", show_default=True, help="Of each prompt.")
@click.option("--stored", type=click.IntRange(4), default=8, show_default=True, help="How many are stored.")
def main(bench: Bench, tokens: tuple[int, ...], stored: int) -> Iterator[Measured]:
    for length in tokens:
        yield LOOKUP.row(length, interleave(lookups(length, stored), bench.runs))


def lookups(length: int, stored: int) -> dict[str, Callable[[], float]]:
    """Milliseconds of one, by side."""
    from mlx_lm.models.cache import LRUPromptCache

    rng, half = random.Random(0), length // 2

    def tokens(count: int) -> list[int]:
        return [rng.randrange(151_936) for _ in range(count)]

    shared = tokens(half)
    prompts = [shared + tokens(length - half) for _ in range(stored)]
    asked = shared[: half // 2] + tokens(length - half // 2)

    prefixes, peers = PrefixCache(1 << 40), LRUPromptCache(max_size=stored)
    held: list[Any] = []
    root = Node(packed(shared), held, prefixes._root, 1)
    prefixes._attach(root)
    for prompt in prompts:
        prefixes._attach(Node(packed(prompt[half:]), held, root, 1))
        peers.insert_cache("model", prompt, held)
    assert prefixes.match(prompts[3])[0] == length

    def ours() -> float:
        begun = time.perf_counter()
        _, found = prefixes._walk(packed(asked))
        assert found == half // 2
        return (time.perf_counter() - begun) * 1e3

    def theirs() -> float:
        begun = time.perf_counter()
        peers.fetch_nearest_cache("model", asked)
        return (time.perf_counter() - begun) * 1e3

    return {OURS: ours, "mlx-lm": theirs}


if __name__ == "__main__":
    sys.exit(main())
