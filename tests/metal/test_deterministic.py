"""``deterministic=True`` through whole models in emulation: a token's keys, values and logits, and so what a seeded
request says, are the same to the bit in any company, in any pieces, and whatever is found in a cache."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.doctor import catalogue
from qwen3_mlx.doctor.catalogue import ALONE, TOGETHER
from qwen3_mlx.engine.batch import Batch
from qwen3_mlx.errors import Unavailable, UnsupportedModel
from qwen3_mlx.kernels import grouped_experts
from qwen3_mlx.kernels.decode_attention import BLOCK, DENSE
from qwen3_mlx.kernels.deterministic import deterministic as on_deterministic
from qwen3_mlx.kernels.dispatch import on_stock
from qwen3_mlx.kernels.metal_source import standing_in
from qwen3_mlx.model.qwen3 import Qwen3 as Model
from qwen3_mlx.types import Finished
from qwen3_mlx.weights import load_model

from . import emulator
from .test_emulator import _compiler  # noqa: F401
from .wrong import swapping

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
#: The embedded models, how their weights are packed, if they are, and the cache. Two layers are enough.
MODELS = [("dense", 4, None), ("dense", None, 8), ("moe", 4, None), ("moe", 8, 4)]
LAYERS = 2
TOKENS = [(7 * i * i + 13 * i + 5) % 1600 for i in range(75)]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


class Loaded(NamedTuple):
    model: Model
    config: ModelConfig
    kv_bits: int | None

    def fed(self, pieces: Sequence[int]) -> list[mx.array]:
        """Logits of all tokens, and what the cache holds of them, when they come in these pieces."""
        cache, out, first = KVCache(self.config, kv_bits=self.kv_bits, kernels=self.model.kernels), [], 0
        for count in pieces:
            out.append(self.model(mx.array([TOKENS[first : first + count]]), cache))
            first += count
        return [mx.concatenate(out, axis=1), *(mx.contiguous(buffer[:, :, :first]) for buffer in cache.arrays)]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: "-".join(map(str, model)))
def loaded(request: pytest.FixtureRequest) -> Loaded:
    name, bits, kv_bits = request.param
    model, config = load_model(DEMO / name, bits=bits, kernels="emulate", deterministic=True)
    model.model.layers = model.model.layers[:LAYERS]
    model.config = replace(config, num_hidden_layers=LAYERS)
    return Loaded(model, model.config, kv_bits)


def test_a_prompt_in_any_pieces(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the end of a block of attention, and of what the experts' kernels take at a time."""
    for bits in (DENSE, 8, 4):
        monkeypatch.setitem(BLOCK, bits, 64)
    monkeypatch.setattr(grouped_experts, "MAX_PAIRS", 2 * 64)
    whole = loaded.fed([70])
    for pieces in ([64, 6], [3, 58, 1, 8], [1, 9, 50, *[1] * 10]):
        for got, want in zip(loaded.fed(pieces), whole, strict=True):
            assert mx.array_equal(got, want)


def test_rows_without_a_cache(loaded: Loaded) -> None:
    """Several whole prompts at once, as ``Qwen3.model`` takes them."""
    together = loaded.model(mx.array([TOKENS[:9], TOKENS[20:29], TOKENS[40:49]]))
    for row, first in enumerate((0, 20, 40)):
        assert mx.array_equal(loaded.model(mx.array([TOKENS[first : first + 9]])), together[row : row + 1])


AVOIDED = [
    *((mx, name) for name in ("matmul", "addmm", "quantized_matmul", "gather_qmm", "gather_mm", "einsum")),
    *((mx, name) for name in ("sum", "mean", "var", "softmax", "logsumexp")),
    *((mx.fast, name) for name in ("scaled_dot_product_attention", "rms_norm", "rope")),
]


def test_nothing_that_is_avoided_runs(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a prompt nor for a step: everything that adds up is a kernel of ours."""
    pieces = [66, 4, 1, 1]
    want = loaded.fed(pieces)  # the kernels are tried here
    for module, name in AVOIDED:
        monkeypatch.setattr(module, name, None)
    got = loaded.fed(pieces)
    monkeypatch.undo()
    assert all(map(mx.array_equal, got, want))


def ask(q: Qwen3, index: int) -> Any:
    """A request of its own length, greedy or drawn."""
    params = SamplingParams(
        temperature=(0, 0.8, 1.0)[index % 3],
        top_k=(0, 20)[index % 2],
        top_p=(1.0, 0.9)[index % 2],
        seed=index,
        max_tokens=8 + 3 * index,
        logprobs=2,
    )
    text = "How many e are in " + " and ".join(["tree", "letter", "nevertheless"][: 1 + index]) + "?"
    return q.stream([{"role": "user", "content": text}], thinking=index % 2 == 0, params=params)


def said(stream: Any) -> list[Any]:
    """Texts, tokens and log-probabilities to the bit; not what was found in the cache."""
    *deltas, finished = list(stream)
    assert isinstance(finished, Finished)
    return [*deltas, replace(finished.usage, cached_tokens=0)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits", "kv_bits"), [("demo", None, None), ("demo-moe", 4, 8)])
def test_a_request_says_the_same_in_any_company(
    name: str, bits: int | None, kv_bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone; beside others, with prompts in small pieces, the cache cold and then warm."""
    count, sizes, real = 3, [], Batch.step

    def step(self: Batch) -> Any:
        sizes.append(sum(row is not None for row in self.rows))
        return real(self)

    monkeypatch.setattr(Batch, "step", step)
    options: dict[str, Any] = {"bits": bits, "kv_bits": kv_bits, "kernels": "emulate", "deterministic": True}
    with Qwen3.load(name, **options, max_batch=1, prefix_cache_bytes=0) as q:
        alone = [said(ask(q, index)) for index in range(count)]
    assert max(sizes) == 1
    monkeypatch.setattr("qwen3_mlx.api.PREFILL_CHUNK", 19)
    with Qwen3.load(name, **options, max_batch=count) as q:
        for _ in ("cold", "warm"):
            streams = [ask(q, index) for index in range(count)]
            assert [said(stream) for stream in streams] == alone
    assert max(sizes) > 1


def test_logits_are_as_near_to_float32_as_those_of_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, errors = mx.array([[*b"How many letters have these words? What is seven plus twelve?"]]), []
    exact = load_model(DEMO / "dense", bits=4, kernels="reference")[0](tokens)
    for deterministic in (True, False):
        if not deterministic:
            monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: on_stock("emulate"))
        model, _ = load_model(DEMO / "dense", bits=4, kernels="emulate", deterministic=deterministic)
        errors.append(float(mx.mean(mx.square(model(tokens) - exact))) ** 0.5)
    print(f"root mean square error of logits: deterministic {errors[0]:.4f}, stock {errors[1]:.4f}")
    assert 0 < errors[0] <= 1.25 * errors[1]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bits", "about"),
    [("demo", 6, "packed to 6 bits"), ("demo-moe", None, "experts.*packed"), ("demo", 3, "3 bits")],
)
def test_a_checkpoint_that_no_kernel_takes_is_refused_while_loading(name: str, bits: int | None, about: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"deterministic=True.*{about}"):
        Qwen3.load(name, bits=bits, kernels="emulate", deterministic=True)


@pytest.mark.parametrize(
    ("kernel", "written", "broken"),
    [
        ("linear_packed", "T(sum)", "T(1.1f * sum)"),
        ("decode_attention", "uint lane = ", "this is no Metal; uint lane = "),
    ],
)
def test_a_kernel_that_is_wrong_here_is_not_replaced(
    kernel: str, written: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Unavailable, match=f"deterministic=True needs the Metal kernel {kernel}"):
            Qwen3.load("demo", bits=4, kernels="emulate", deterministic=True)


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_without_metal_and_without_a_stand_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Unavailable, match="deterministic=True needs"):
            Qwen3.load("demo", bits=4, kernels="emulate", deterministic=True)


def test_loading_tries_every_instantiation_that_a_request_may_need() -> None:
    """Nothing is launched; long prompts and batches are only asked for."""
    for name, kv_bits in (("demo-moe", None), ("demo-moe", 8), ("demo", 4)):
        config = catalogue.shape_of(name)
        asked: list[Any] = []

        def trusts(trial: Any, *parameters: Any, asked: list[Any] = asked) -> bool:
            asked.append((trial.kernel, parameters))
            return True

        with standing_in(catalogue._Asked().metal_kernel):
            model = catalogue._empty(
                config, on_deterministic(on_stock("emulate"), trusts), QuantSpec(4, 64), mx.bfloat16
            )
            model.rehearse(kv_bits)
        found = catalogue.uses(name, config, QuantSpec(4, 64), kv_bits, ALONE + TOGETHER, deterministic=True)
        assert {use.key for use in found} <= set(asked)
