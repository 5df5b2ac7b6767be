"""How fast prompts are computed: ours against the peers', by their length.

    python -m benchmarks.prefill [--lengths 16,256,4096] [--runs 3] [--model demo] [--peer-float32]

The clock runs from handing over the token ids, of which nothing is cached, to the first token of the answer. Lengths
that are beyond the model's context run on a copy of its folder that allows them. mlx-lm runs the checkpoint in the
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
from .machine import on_cpu
from .results import Measured, Quantity
from .runtimes import Runtime, opened
from .sides import interleave

LENGTHS = (16, 64, 256, 1024, 4096, 16384, 32768)
#: The longest by default where prompts are computed by a CPU, on which longer ones take minutes each.
LONGEST_ON_CPU = 4096
PREFILL = Quantity("prefill", "tokens/s", "tokens of the prompt", more_is_better=True)


@benchmark(runs=3, peers=("mlx-lm", "llama.cpp"))
@click.option("--lengths", type=Numbers(2), help="Tokens; by default 16 to 32768, on a CPU to 4096.")
@click.option("--peer-float32", is_flag=True, help="mlx-lm in float32.")
def main(bench: Bench, lengths: tuple[int, ...] | None, peer_float32: bool) -> Iterator[Measured]:
    lengths = lengths or tuple(each for each in LENGTHS if not on_cpu() or each <= LONGEST_ON_CPU)
    context = max(lengths) + 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = adapted(bench.folder, Path(scratch), context=context)
        tokenizer = Tokenizer.from_folder(folder)
        with opened(folder, bench.peers, gguf=bench.gguf, context=context, float32=peer_float32) as runtimes:
            for length in lengths:
                ids = prompt(tokenizer, length, length)
                sides = {side.name: partial(rate, side, ids) for side in runtimes}
                yield PREFILL.row(length, interleave(sides, bench.runs))


def rate(side: Runtime, prompt: list[int]) -> float:
    return len(prompt) / side.prefill(prompt)


if __name__ == "__main__":
    sys.exit(main())
