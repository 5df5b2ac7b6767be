"""How fast one answer grows: ours against the peers, by the tokens of context before it.

    python -m benchmarks.decode [--contexts 0,1024,4096] [--runs 5] [--model demo] [--peer-float32]

All sides decode greedily the same number of tokens behind the same context; the clock runs from the first token to the
last. The keys and values of a context are random numbers, the same for all (llama.cpp computes those of a prompt): what
a step takes does not depend on them, and computing long ones takes a CPU minutes. A copy of the checkpoint's folder is
used in which no answer ends by itself, and which allows contexts beyond the model's. mlx-lm runs the checkpoint in the
precision it is stored in, ours in float32 on a CPU: --peer-float32 gives mlx-lm the same (on a CPU it must have it for
a MoE, for which MLX has no bf16 gather there).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from qwen3_mlx.text.tokenizer import Tokenizer

from .folders import adapted, prompt
from .frame import Bench, Numbers, benchmark
from .results import Measured, Quantity
from .runtimes import opened
from .sides import interleave

CONTEXTS = "0,256,1024,4096,16384,32768"
DECODE = Quantity("decode", "tokens/s", "tokens of context", more_is_better=True)


@benchmark(runs=5, peers=("mlx-lm", "llama.cpp"))
@click.option("--contexts", type=Numbers(0), default=CONTEXTS, show_default=True, help="Tokens before the answer.")
@click.option("--tokens", type=click.IntRange(2), default=100, show_default=True, help="Length of the answer.")
@click.option("--peer-float32", is_flag=True, help="mlx-lm in float32.")
def main(bench: Bench, contexts: tuple[int, ...], tokens: int, peer_float32: bool) -> Iterator[Measured]:
    room = max(contexts) + tokens + 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = adapted(bench.folder, Path(scratch), context=room, endless=True)
        tokenizer = Tokenizer.from_folder(folder)
        shared = {"gguf": bench.gguf, "context": room, "float32": peer_float32, "cached": True}
        with opened(folder, bench.peers, **shared) as runtimes:
            for context in contexts:
                ids = prompt(tokenizer, context + 1, context)  # the last token is what the first step is fed
                for side in runtimes:
                    side.fill(ids)
                yield DECODE.row(
                    context, interleave({side.name: partial(side.decode, ids, tokens) for side in runtimes}, bench.runs)
                )


if __name__ == "__main__":
    sys.exit(main())
