"""Looking up a prompt that leaves the stored ones after a part of it, against mlx-lm's trie. Nothing is computed.

    python -m benchmarks.prefix_lookup [--tokens 32768] [--stored 8]

Stored are prompts of ``--tokens`` tokens that share their first half; the one looked up shares a quarter with them.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from qwen3_mlx.cache.prefix import Node, PrefixCache, packed

from .sides import interleave, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--stored", type=int, default=8)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    from mlx_lm.models.cache import LRUPromptCache

    rng, half = random.Random(0), args.tokens // 2

    def tokens(count: int) -> list[int]:
        return [rng.randrange(151_936) for _ in range(count)]

    shared = tokens(half)
    prompts = [shared + tokens(half) for _ in range(args.stored)]
    asked = shared[: half // 2] + tokens(args.tokens - half // 2)

    prefixes, peers = PrefixCache(1 << 40), LRUPromptCache(max_size=args.stored)
    held: list[Any] = []
    root = Node(packed(shared), held, prefixes._root, 1)
    prefixes._attach(root)
    for prompt in prompts:
        prefixes._attach(Node(packed(prompt[half:]), held, root, 1))
        peers.insert_cache("model", prompt, held)
    assert prefixes.match(prompts[3])[0] == args.tokens

    def ours() -> float:
        begun = time.perf_counter()
        _, length = prefixes._walk(packed(asked))
        assert length == half // 2
        return (time.perf_counter() - begun) * 1e3

    def theirs() -> float:
        begun = time.perf_counter()
        peers.fetch_nearest_cache("model", asked)
        return (time.perf_counter() - begun) * 1e3

    seen = interleave({"qwen3-mlx": ours, "mlx-lm": theirs}, args.runs)
    title = f"lookup, {args.tokens - half // 2} of {args.tokens} tokens diverge"
    report(title, "ms", seen, "qwen3-mlx", "mlx-lm", more_is_better=False)


if __name__ == "__main__":
    main()
