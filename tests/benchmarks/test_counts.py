"""What the benchmarks claim about launches, where it takes a second to check."""

from __future__ import annotations

from collections import Counter
from typing import Any

import mlx.core as mx
import pytest

from benchmarks import mixed_lengths
from benchmarks.dispatches import launches
from benchmarks.host_graph import MODELS, ours
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.kernels.dispatch import on_metal, on_stock


@pytest.mark.parametrize(("kv_bits", "attention"), [(None, 1), (8, 3)])
def test_a_moe_layer_decodes_in_fourteen_launches(kv_bits: int | None, attention: int) -> None:
    """Of which ours: three for the experts, one that norms and rotates, and over a packed cache two that attend."""
    source: dict[str, Any] = {**MODELS["30B-A3B"], "num_hidden_layers": 2}
    config, stock, token = ModelConfig.from_dict(source), on_stock("metal"), mx.array([[1]])
    sides = [
        launches(ours(config, kernels, True, 300, kv_bits, mx.bfloat16).graph, token)
        for kernels in (on_metal(stock, lambda *_: True), stock)
    ]
    table, embedding, head = 1, 2, 2
    lengths = 0 if kv_bits is None else 1
    assert sides[0]["our kernels"] == table + (3 + attention) * 2 and not sides[1]["our kernels"]
    assert sides[0].total() == table + embedding + lengths + 14 * 2 + head
    gone = {"GatherQMM", "Arange", "ArgPartition", "TakeAlongAxis", "SwiGLU", "Matmul", "AsType", "RoPE", "Multiply"}
    assert gone <= sides[1].keys() and not gone & sides[0].keys()


@pytest.mark.parametrize(("tokens", "kernels"), [(8, 3), (9, 5), (63, 5), (64, 2)])
def test_launches_of_our_kernels_for_the_experts_of_longer_passes(tokens: int, kernels: int) -> None:
    source: dict[str, Any] = {**MODELS["30B-A3B"], "num_hidden_layers": 2}
    kernels_of_ours = on_metal(on_stock("metal"), lambda *_: True)
    step = ours(ModelConfig.from_dict(source), kernels_of_ours, True, 300, None, mx.bfloat16)
    table, norm_rope = 1, 1
    assert launches(step.graph, mx.ones((1, tokens), mx.int32))["our kernels"] == table + (norm_rope + kernels) * 2


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_further_group_of_rows_adds_its_write_and_its_attention(kv_bits: int | None) -> None:
    """To each layer; several are put together by one node, a copy of each group, and so are their lengths, once."""
    source: dict[str, Any] = {**MODELS["30B-A3B"], "num_hidden_layers": 2}
    kernels, totals = on_metal(on_stock("metal"), lambda *_: True), []
    for parts in (1, 2, 3):
        step = ours(ModelConfig.from_dict(source), kernels, True, 300, kv_bits, mx.bfloat16, batch=2, parts=parts)
        totals.append(launches(step.graph, mx.array([[1]] * 2 * parts)))
    group = {"ScatterAxis": 2, "attention": 1} if kv_bits is None else {"ScatterAxis": 1, "our kernels": 2}
    for more, total in enumerate(totals):
        added = {kind: 2 * more * count for kind, count in group.items()}
        moved = 0 if kv_bits is None else more  # a group's lengths, once a step
        assert total - totals[0] == +Counter(added, Concatenate=3 * bool(more), Add=moved)


def test_short_requests_let_in_beside_a_long_one() -> None:
    with mixed_lengths.at_most(1):
        assert mixed_lengths.let_in(16_384, 500, 16, None) == 3
    assert mixed_lengths.let_in(16_384, 500, 16, None) == 36
