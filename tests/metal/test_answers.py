"""The embedded models' whole answers in ``emulate`` mode: with our kernels as on stock operations alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.cache.groups import GroupedCache
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.convert import convert
from qwen3_mlx.kernels import experts, grouped_experts, neural
from qwen3_mlx.kernels.decode_attention import block_size
from qwen3_mlx.kernels.dispatch import on_stock
from qwen3_mlx.model.qwen3 import Qwen3 as Model

from . import emulator
from .test_emulator import _compiler  # noqa: F401

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
LAYERS = 4
QUESTION = "How many e are in nevertheless?"


class Answer(NamedTuple):
    thought: str
    text: str
    tokens: int


class Pass(NamedTuple):
    """A forward pass over ``length`` new tokens that makes ``total`` of them."""

    length: int
    total: int


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Pass]:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    monkeypatch.setattr(neural, "_here", lambda: False)
    seen: list[Pass] = []
    hidden = Model.hidden

    def counted(self: Model, tokens: mx.array, cache: KVCache | GroupedCache | None = None) -> mx.array:
        out = hidden(self, tokens, cache)
        assert cache is not None
        seen.append(Pass(tokens.shape[1], cache.lengths.most))
        return out

    monkeypatch.setattr(Model, "hidden", counted)
    return seen


def answer(folder: Path, kv_bits: int | None, max_tokens: int = 160) -> Answer:
    with Qwen3.load(folder, kernels="emulate", kv_bits=kv_bits) as q:
        done = q.generate(QUESTION, params=SamplingParams(temperature=0, max_tokens=max_tokens))
    return Answer(done.reasoning_content or "", done.content or "", done.usage.completion_tokens)


def expected(passes: list[Pass], moe: bool, kv_bits: int | None) -> dict[str, int]:
    """Launches by kernel: one table a pass, everything else in each layer."""
    steps = [total for length, total in passes if length == 1]
    layers = {f"norm_rope{'_pack' if kv_bits else ''}": len(passes)}
    if kv_bits:
        block = block_size(2, kv_bits)
        layers |= {"decode_attention": len(steps), "decode_attention_merge": sum(total > block for total in steps)}
    if moe:
        few = sum(length <= experts.MAX_ROWS for length, _ in passes)
        some = sum(experts.MAX_ROWS < length <= grouped_experts.MAX_ROWS for length, _ in passes)
        assert few and some, "no pass of 9 to 63 tokens"
        layers |= {"router": len(passes), "moe_gate_up": few, "moe_down": few}
        layers |= {f"moe_{name}": some for name in ("groups", "gate_up_grouped", "down_grouped", "sum")}
        layers |= {"moe_unsort_sum": len(passes) - few - some}
    launches = {"norm_rope_table": len(passes)} | {name: LAYERS * count for name, count in layers.items()}
    return {f"qwen3_{name}": count for name, count in launches.items() if count}


@pytest.mark.parametrize(
    ("model", "bits", "kv_bits"),
    [*((model, 4, kv_bits) for model in ("dense", "moe") for kv_bits in (None, 8, 4)), ("moe", 8, None)],
)
def test_the_demo_answers_as_without_kernels(
    model: str, bits: int, kv_bits: int | None, passes: list[Pass], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(DEMO / model, tmp_path / "packed", bits=bits)
    answer(tmp_path / "packed", kv_bits, 2)  # the kernels are tried here
    passes.clear()
    with emulator.recording() as reports:
        ours = answer(tmp_path / "packed", kv_bits)
    assert 40 <= ours.tokens <= len(passes) + 1
    assert Counter(report.kernel for report in reports) == expected(passes, model == "moe", kv_bits)
    # A packed cache on stock operations, too, is packed from keys that were not rounded.
    monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: on_stock("emulate"))
    with emulator.recording() as reports:
        theirs = answer(tmp_path / "packed", kv_bits)
    assert not reports
    assert theirs == ours
