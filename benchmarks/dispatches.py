"""Launches per decoded token on a GPU, counted from the graph, against mlx-lm. Counts, not timings.

    python -m benchmarks.dispatches [--nodes]

MLX launches one kernel (sometimes two) for each node of a graph that is not a view. The graph of one decode step is
exported with every ``mx.fast`` operation as a single node, on both sides; models have the released layer counts, head
ratios and numbers of experts (:mod:`benchmarks.host_graph`). ``--nodes`` lists the nodes by name.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from qwen3_mlx.config import ModelConfig

from .host_graph import MODELS, one_node, ours, peer

VIEWS = {
    "Broadcast",
    "BroadcastAxes",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "StopGradient",
    "Transpose",
    "Unflatten",
}
POSITION = 1000


def launches(function: Callable[..., tuple[mx.array, ...]], *inputs: mx.array) -> Counter[str]:
    """The nodes of a function's graph that launch a kernel, by name."""
    nodes: Counter[str] = Counter()

    def visit(info: dict[str, Any]) -> None:
        if info["type"] == "primitive":
            nodes[info["name"]] += 1

    with one_node():
        mx.export_function(visit, function, *inputs)
    return Counter({name: count for name, count in nodes.items() if name not in VIEWS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", action="store_true", help="list the nodes by name")
    args = parser.parse_args()
    token = mx.array([[1]])
    for name, source in MODELS.items():
        config = ModelConfig.from_dict(source)
        for bits in (None, 8):
            sides = {
                "qwen3-mlx": launches(ours(config, "emulate", True, POSITION, bits).graph, token),
                "mlx-lm": launches(peer(source, config, True, POSITION, bits).graph, token),
            }
            mine, theirs = (side.total() for side in sides.values())
            cache = "bf16 cache" if bits is None else f"{bits}-bit cache"
            print(f"{name:8} {cache:11} qwen3-mlx {mine:5}   mlx-lm {theirs:5}   {mine / theirs:.2f}x")
            if args.nodes:
                for side, nodes in sides.items():
                    print(f"    {side}: " + ", ".join(f"{n} {c}" for n, c in nodes.most_common()))


if __name__ == "__main__":
    main()
