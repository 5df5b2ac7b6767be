"""Launches per decoded token on a GPU, counted from the graph, against mlx-lm. Counts, not timings.

    python -m benchmarks.dispatches [--nodes] [--tokens 1]

MLX launches one kernel (sometimes two) for each node of a graph that is not a view. The graph of one decode step is
exported with every operation that a GPU has a kernel for as a single node, on both sides; models have the released
layer counts, head ratios and numbers of experts (:mod:`benchmarks.host_graph`), 4-bit weights and bf16 activations.
Our own kernels are in the graph as MLX's nodes for them, taken as verified: nothing is run. ``--nodes`` lists the
launches by kind.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import mlx.core as mx

from qwen3_mlx.config import ModelConfig
from qwen3_mlx.kernels.deterministic import deterministic
from qwen3_mlx.kernels.dispatch import on_metal, on_stock

from .host_graph import MODELS, ours, peer
from .nodes import one_node

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
#: Nodes under the names of what they stand for.
KINDS = {
    "Negative": "RMSNorm",
    "Floor": "RoPE",
    "Sign": "attention",
    "Ceil": "Dequantize",
    "Reduce": "Sum",
    "GatherAxis": "TakeAlongAxis",
    "CustomKernel": "our kernels",
}
POSITION = 1000


def launches(function: Callable[..., tuple[mx.array, ...]], *inputs: mx.array) -> Counter[str]:
    """The nodes of a function's graph that launch a kernel, by kind."""
    nodes: Counter[str] = Counter()

    def visit(info: dict[str, Any]) -> None:
        if info["type"] == "primitive" and info["name"] not in VIEWS:
            nodes[KINDS.get(info["name"], info["name"])] += 1

    with one_node(), traceable():
        mx.export_function(visit, function, *inputs)
    # Both sides compile silu(gate) * up into one kernel; exporting takes it apart.
    fused = nodes.pop("Sigmoid", 0)
    nodes["Multiply"] -= 2 * fused
    nodes["SwiGLU"] += fused
    return +nodes


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Metal kernels as nodes for a GPU, wherever the rest of the graph is: such a graph needs none to be looked at."""
    real: Any = mx.fast.metal_kernel

    def make(**given: Any) -> Callable[..., Any]:
        kernel = real(**given)
        return lambda **launch: kernel(stream=mx.gpu, **launch)

    with mock.patch.object(mx.fast, "metal_kernel", make):
        yield


def count(name: str, kv_bits: int | None, tokens: int = 1) -> dict[str, Counter[str]]:
    """The launches of a pass over so many tokens: with our kernels, with ``deterministic=True``, with stock operations
    alone, and of mlx-lm."""
    source, new = MODELS[name], mx.ones((1, tokens), mx.int32)
    config, stock = ModelConfig.from_dict(source), on_stock("metal")
    trusting = {"qwen3-mlx": on_metal(stock, lambda *_: True), "deterministic": deterministic(stock, lambda *_: True)}
    sides = {
        **{side: ours(config, held, True, POSITION, kv_bits, mx.bfloat16) for side, held in trusting.items()},
        "stock": ours(config, stock, True, POSITION, kv_bits, mx.bfloat16),
        "mlx-lm": peer(source, config, True, POSITION, kv_bits, mx.bfloat16),
    }
    return {side: launches(step.graph, new) for side, step in sides.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", action="store_true", help="list the launches by kind")
    parser.add_argument(
        "--tokens", type=int, default=1, help="tokens of the pass; more than one with a bf16 cache only"
    )
    args = parser.parse_args()
    for name in MODELS:
        for bits in (None, 8) if args.tokens == 1 else (None,):
            sides = count(name, bits, args.tokens)
            title = f"{name}, {'bf16' if bits is None else f'{bits}-bit'} cache"
            totals = {side: nodes.total() for side, nodes in sides.items()}
            print(f"{title:22}" + "".join(f"{side:>14} {total:5}" for side, total in totals.items()), end="")
            print(f"   {totals['qwen3-mlx'] / totals['mlx-lm']:.2f}x")
            if args.nodes:
                kinds = sorted(set().union(*sides.values()), key=lambda kind: [-n[kind] for n in sides.values()])
                for kind in kinds:
                    print(f"  {kind:20}" + "".join(f"{nodes[kind]:20}" for nodes in sides.values()))


if __name__ == "__main__":
    main()
