"""What a model asks for is found without running it, and is what it really asks for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig, QuantConfig, QuantSpec
from qwen3_mlx.doctor import catalogue
from qwen3_mlx.doctor.catalogue import ALONE, TOGETHER, Pass
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.metal_source import in_constant
from qwen3_mlx.kernels.verify import Trial
from qwen3_mlx.released import RELEASED
from qwen3_mlx.weights import load_model
from tests.metal import emulator
from tests.metal.test_emulator import _compiler  # noqa: F401

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
FOUR = QuantSpec(4, 64)
#: What may be compiled before the first token of a checkpoint.
FIRST_TOKEN = 8


class Recorder:
    """Trusts all kernels; keeps what it was asked for, and what was launched, told apart as a compiler does."""

    def __init__(self) -> None:
        self.asked: set[tuple[str, tuple[Any, ...]]] = set()
        self.launched: set[tuple[Any, ...]] = set()

    def trusts(self, trial: Trial, *parameters: Any) -> bool:
        self.asked.add((trial.kernel, parameters))
        return True

    def metal_kernel(self, **given: Any) -> Any:
        kernel = emulator.metal_kernel(**given)

        def launch(**call: Any) -> list[mx.array]:
            kinds = tuple((x.dtype, in_constant(x.size), x.ndim == 0) for x in call["inputs"])
            self.launched.add((given["name"], kinds, tuple(call["output_dtypes"]), tuple(call.get("template") or ())))
            return kernel(**call)

        return launch


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(mx.fast, "metal_kernel", recorder.metal_kernel)
    monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: on_metal(on_stock("emulate"), recorder.trusts))
    return recorder


def run(name: str, kv_bits: int | None, passes: list[Pass]) -> ModelConfig:
    """A checkpoint, packed to 4 bits, through these passes in emulation."""
    model, config = load_model(DEMO / name, bits=4, kernels="emulate")
    for batch, length, held in passes:
        cache = KVCache(config, batch, kv_bits=kv_bits, kernels=model.kernels)
        for count in (held, length):
            if count:
                tokens = mx.arange(batch * count).reshape(batch, count) % config.vocab_size
                mx.eval(model(tokens, cache))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_it_holds_what_a_real_run_asks_for_and_compiles(name: str, kv_bits: int | None, recorder: Recorder) -> None:
    passes = [Pass(1, 30, 0), Pass(1, 1, 30), Pass(1, 3, 0), Pass(4, 1, 5)]
    config = run(name, kv_bits, passes)
    found = catalogue.uses(name, config, FOUR, kv_bits, ALONE + TOGETHER)
    assert recorder.asked <= {use.key for use in found} and len(recorder.asked) >= 2
    assert catalogue.compiled(config, FOUR, kv_bits, passes) == recorder.launched
    again = catalogue.uses(name, config, FOUR, kv_bits, passes)
    assert {use.key for use in again} == recorder.asked


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", ["demo", "demo-moe"])
def test_few_kernels_are_compiled_before_a_first_token(name: str, times: int, recorder: Recorder) -> None:
    """The kernels of a prompt: a first token is read before there is a step."""
    with Qwen3.load(name, bits=4, kv_bits=8, kernels="emulate") as q:
        done = q.generate("How many e are in nevertheless? " * times, params=SamplingParams(max_tokens=1))
        length, config = done.usage.prompt_tokens, q.config
    print(f"{name}: {len(recorder.launched)} kernels compiled before the first token after {length} tokens")
    assert length == pytest.approx({1: 30, 4: 100}[times], abs=15)
    assert 2 <= len(recorder.launched) <= FIRST_TOKEN
    assert recorder.launched == catalogue.compiled(config, FOUR, 8, [Pass(1, length, 0)])


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
@pytest.mark.parametrize("name", RELEASED)
def test_a_released_model_compiles_few_too(name: str, kv_bits: int | None) -> None:
    """For a prompt, whatever its length."""
    passes = [[Pass(1, length, 0)] for length in (5, 30, 100, 512)]
    counts = [len(catalogue.compiled(RELEASED[name], FOUR, kv_bits, some)) for some in passes]
    assert 0 < max(counts) <= FIRST_TOKEN


def test_the_order_is_that_of_need() -> None:
    use = catalogue.uses("m", RELEASED["qwen3:30b-a3b"], FOUR, 8)
    assert [u.trial.kernel for u in use][:2] == ["norm_rope_table", "norm_rope_pack"]
    assert [u.parameters for u in use if u.trial.kernel == "decode_attention"] == [
        (mx.bfloat16, 8, 128, 8, 64, split, True) for split in (False, True)
    ]
    assert all(u.models == ("m",) and u.weights == FOUR for u in use)


def test_the_union_of_all_released_models() -> None:
    everything = catalogue.released()
    keys = [use.key for use in everything]
    assert len(keys) == len(set(keys)) and {kernel for kernel, _ in keys} == set(catalogue.trials())
    for name, config in RELEASED.items():
        for bits in (4, 8):
            for use in catalogue.uses(name, config, QuantSpec(bits, 64), 4):
                (found,) = [each for each in everything if each.key == use.key]
                assert name in found.models
    groups = {use.parameters[5] for use in everything if use.trial.kernel == "moe_down"}
    assert groups == {32, 64, 128}


def test_a_checkpoint_of_its_own_packing(tmp_path: Path) -> None:
    quantization = QuantConfig(4, 64, overrides={"model.layers.1.mlp.switch_mlp.down_proj": QuantSpec(8, 32)})
    config = ModelConfig.from_folder(DEMO / "moe")
    config = dataclasses.replace(config, quantization=quantization)
    found = catalogue.uses("own", config, None, None, [Pass(1, 1, 4)])
    assert {use.parameters[4:6] for use in found if use.trial.kernel == "moe_down"} == {(4, 64), (8, 32)}


def test_unpacked_experts_ask_for_no_expert_kernels() -> None:
    found = catalogue.uses("m", RELEASED["qwen3:30b-a3b"], None, None)
    kernels = {use.trial.kernel for use in found}
    assert kernels >= {"norm_rope_table", "norm_rope", "router"} and not kernels & {"moe_gate_up", "moe_down"}


def test_nothing_is_left_in_the_place_of_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mx.fast.metal_kernel
    catalogue.uses("m", RELEASED["qwen3:0.6b"], FOUR, 8, [Pass(1, 2, 0)])
    assert mx.fast.metal_kernel is before
    monkeypatch.setattr(catalogue, "_empty", lambda *_: None)
    with pytest.raises(AttributeError):
        catalogue.uses("m", RELEASED["qwen3:0.6b"], FOUR, 8, [Pass(1, 2, 0)])
    assert mx.fast.metal_kernel is before
