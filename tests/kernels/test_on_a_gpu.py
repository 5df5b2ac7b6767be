"""The Metal kernels on a real GPU, at the sizes of the released checkpoints. Skipped where MLX finds none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.convert import convert
from qwen3_mlx.kernels.attention_trials import ATTENTION, NORM_ROPE, PACK, TABLE
from qwen3_mlx.kernels.moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from qwen3_mlx.kernels.verify import Trial

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU"),
]
BF16, F16 = mx.bfloat16, mx.float16
HEADS = [(16, 8), (32, 8), (40, 8), (64, 8), (32, 4), (64, 4)]  # query heads, key/value heads


def cases() -> Iterator[tuple[Trial, tuple[Any, ...]]]:
    yield ROUTER, (BF16, 128, 8, True, False)
    for few in (True, False):
        yield TABLE, (64, few)
    for dtype in (BF16, F16):
        for hidden in (2048, 4096):
            yield UNSORT_SUM, (dtype, hidden, 8)
        for bits in (4, 8):
            for hidden, inner in ((2048, 768), (4096, 1536)):
                yield GATE_UP, (dtype, hidden, inner, 8, bits, 64, False)
                yield DOWN, (dtype, hidden, inner, 8, bits, 64, False)
                yield GROUPED_GATE_UP, (dtype, hidden, inner, 8, bits, 64)
                yield GROUPED_DOWN, (dtype, hidden, inner, 8, bits, 64)
            for q_heads, kv_heads in HEADS:
                yield PACK, (dtype, q_heads, kv_heads, 128, bits, 64)
                for split in (False, True):
                    yield ATTENTION, (dtype, q_heads // kv_heads, 128, bits, 64, split, True)
        for q_heads, kv_heads in HEADS:
            yield NORM_ROPE, (dtype, q_heads, kv_heads, 128)


@pytest.mark.parametrize(("trial", "parameters"), list(cases()), ids=lambda x: getattr(x, "kernel", None))
def test_a_kernel_agrees_with_the_reference(trial: Trial, parameters: tuple[Any, ...]) -> None:
    error = trial.error(*parameters)
    mx.synchronize()
    assert error.item() <= 1


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("kv_bits", [None, 8, 4])
def test_the_demo_answers_with_kernels(name: str, kv_bits: int | None, tmp_path: Path) -> None:
    folder = tmp_path / name
    convert(Path(qwen3_mlx.__file__).parent / "demo" / name, folder, bits=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that gives way says so
        with Qwen3.load(folder, kernels="metal", kv_bits=kv_bits) as q:
            done = q.generate("How many e are in nevertheless?", params=SamplingParams(temperature=0, max_tokens=160))
    assert done.content == "The letter e appears 4 times in nevertheless."
