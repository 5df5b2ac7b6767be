"""The decode step as one traced graph: the same as building it each time, for any lengths and any company."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.cache.groups import GroupedCache
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.costs import active_parameters
from qwen3_mlx.engine import step as steps
from qwen3_mlx.engine.step import DecodeStep, looked_at
from qwen3_mlx.kernels import Kernels, Lengths
from qwen3_mlx.kernels.dispatch import on_stock
from qwen3_mlx.kernels.views import entry
from qwen3_mlx.model.qwen3 import Qwen3 as Model
from tests.model.build import random_weights

DENSE: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

ON_CPU = mx.default_device().type == mx.DeviceType.cpu
needs_compiler = pytest.mark.skipif(
    ON_CPU and shutil.which("g++") is None, reason="without a C++ compiler MLX's CPU backend does not fuse"
)


def same(a: mx.array, b: mx.array) -> bool:
    """To the bit on a CPU; a GPU's attention sums in another order when it is given a mask."""
    return bool(mx.array_equal(a, b).item() if ON_CPU else mx.allclose(a, b, rtol=1e-3, atol=1e-3).item())


@functools.cache
def model(experts: bool, compiled: bool) -> Model:
    """Float32 weights on a GPU's stock operations, which a CPU unfolds."""
    config = ModelConfig.from_dict({**DENSE, **EXPERTS} if experts else DENSE)
    built = Model(config, replace(on_stock("reference"), compiled=compiled))
    random_weights(built)
    built.fuse()
    return built


def filled(model: Model, *groups: tuple[int, ...], kv_bits: int | None = None) -> GroupedCache:
    """Rows of these lengths, group by group."""
    mx.random.seed(1)
    caches = []
    for lengths in groups:
        cache = KVCache(model.config, len(lengths), kv_bits=kv_bits, kernels=model.kernels)
        shape = (len(lengths), model.config.num_key_value_heads, max(lengths), model.config.head_dim)
        for layer in cache.layers:
            layer.append(entry(mx.random.normal(shape), mx.random.normal(shape), layer.packing))
        cache.set_lengths(Lengths(lengths))
        mx.eval(cache.arrays)
        caches.append(cache)
    return GroupedCache(caches)


def logits(model: Model, cache: GroupedCache, count: int) -> mx.array:
    """Of ``count`` greedy steps."""
    step, tokens, out = DecodeStep(model), mx.array([7] * cache.places), []
    for _ in range(count):
        out.append(step(tokens, cache))
        tokens = mx.argmax(out[-1], axis=-1)
        mx.eval(tokens)
    return mx.stack(out)


@needs_compiler
@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("groups", [((254,),), ((30, 30),), ((254, 3, 120),), ((1500, 1022), (254, 3), (9,))], ids=str)
@pytest.mark.parametrize("experts", [False, True])
def test_a_traced_step_is_the_step_to_the_bit(
    experts: bool, groups: tuple[tuple[int, ...], ...], kv_bits: int | None
) -> None:
    """Past a multiple of 256, where the cache grows and another graph is traced."""
    plain, traced = (filled(model(experts, compiled), *groups, kv_bits=kv_bits) for compiled in (False, True))
    want, got = logits(model(experts, False), plain, 5), logits(model(experts, True), traced, 5)
    assert same(want, got)
    assert traced.lengths == plain.lengths and traced.capacities == plain.capacities
    for a, b in zip(traced.arrays, plain.arrays, strict=True):
        assert same(a, b)


@pytest.mark.parametrize("groups", [((40, 3), (5, 40)), ((60,), (9, 9, 9), (12, 3)), ((7,), (7,))], ids=str)
@pytest.mark.parametrize("experts", [False, True])
def test_a_step_in_two_parts_is_the_step_to_the_bit(
    experts: bool, groups: tuple[tuple[int, ...], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is a step of the rows all in one group."""
    built = Model(model(experts, False).config, replace(on_stock("reference"), compiled=False, beside=True))
    random_weights(built)
    built.fuse()
    want = logits(built, filled(built, *groups), 5)
    monkeypatch.setattr(steps, "BESIDE", 0)
    cache = filled(built, *groups)
    assert same(want, logits(built, cache, 5))
    assert cache.lengths.each == tuple(length + 5 for group in groups for length in group)


def test_a_cache_is_parted_where_its_places_are_halved() -> None:
    def parts(*groups: int) -> list[int]:
        cache = filled(model(False, False), *((1,) * count for count in groups))
        return [part.places for part in cache.parts()]

    assert (
        parts(1, 8, 7) == [9, 7] and parts(1, 1) == [1, 1] and parts(12, 2, 2) == [12, 4] and parts(2, 2, 12) == [4, 12]
    )


def test_two_parts_are_for_enough_work() -> None:
    config = model(False, False).config
    weights = active_parameters(config)
    one, two = (DecodeStep(Model(config, replace(on_stock("reference"), beside=beside))) for beside in (False, True))
    enough = -(-steps.BESIDE // weights)
    assert two.beside(enough) and not two.beside(enough - 1) and not one.beside(enough)
    assert not DecodeStep(Model(replace(config, intermediate_size=1 << 20), two._model.kernels)).beside(1)


@needs_compiler
@pytest.mark.parametrize("groups", [((1500, 700),), ((1500, 1200), (400,))], ids=str)
def test_a_step_writes_to_the_cache_in_place(groups: tuple[tuple[int, ...], ...]) -> None:
    traced = model(False, True)
    step, cache = DecodeStep(traced), filled(traced, *groups)
    tokens = mx.array([1] * cache.places)
    mx.eval(step(tokens, cache))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(3):
        mx.eval(step(tokens, cache))
    assert mx.get_active_memory() - before < cache.nbytes // 100
    # Attention's own copies of a layer's keys on a CPU are more than nothing, and less than all layers twice.
    assert mx.get_peak_memory() - before < cache.nbytes // 2


def test_a_graph_is_traced_once_for_many_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is evaluated, so no compiler is needed."""
    traced, passes = model(True, True), 0
    forward = Model.__call__

    def counted(self: Model, *given: Any) -> mx.array:
        nonlocal passes
        passes += 1
        return forward(self, *given)

    monkeypatch.setattr(Model, "__call__", counted)
    step, tokens = DecodeStep(traced), mx.array([1, 2])
    for lengths in [(300, 200), (301, 201), (5, 500), (511, 511)]:
        step(tokens, filled(traced, lengths))
    assert passes == 1
    step(tokens, filled(traced, (600, 8)))
    assert passes == 2
    monkeypatch.setattr(steps, "KEPT", 2)
    for rows in (1, 2, 3, 1, 2, 3):
        step(mx.array([1] * rows), filled(traced, (20,) * rows))
    assert len(step._graphs) == 2


def test_positions_looked_at_are_few_more_than_there_are() -> None:
    for length in [*range(1, 5000), 32767, 32768, 32769, 131072]:
        seen = looked_at(length)
        assert length <= seen <= max(length + 255, length * 9 // 8) and seen % 256 == 0
    assert len({looked_at(length) for length in range(1, 40961)}) < 50


@needs_compiler
@pytest.mark.parametrize("name", ["demo", "demo-moe"])
def test_answers_of_traced_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that join, leave, and are fed between traced steps say what they say without."""
    texts = ["How many r are in strawberry?", "What is 27 + 45?", "How many e are in committee?"]

    def answers(compiled: bool) -> list[str | None]:
        kernels: Kernels = replace(on_stock("reference"), compiled=compiled, packed=False, dtype=mx.float32)
        monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: kernels)
        with Qwen3.load(name, max_batch=3) as q:
            params = [SamplingParams(temperature=0, max_tokens=40 + 30 * i, seed=i) for i in range(len(texts))]
            streams = [
                q.stream(t, thinking_budget=20 * i, params=p)
                for i, (t, p) in enumerate(zip(texts, params, strict=True))
            ]
            return ["".join(getattr(event, "text", "") for event in stream) for stream in streams]

    assert answers(True) == answers(False)
