"""The kernels where the product uses them: a checkpoint in ``emulate`` mode, and kernels that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import QuantSpec
from qwen3_mlx.kernels import Kernels, neural, resolve, verify
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from qwen3_mlx.kernels.verdicts import Store
from qwen3_mlx.kernels.verify import Trial, Verifier
from qwen3_mlx.model.linear import QuantizedSwitchLinear
from qwen3_mlx.model.qwen3 import Qwen3 as Model
from qwen3_mlx.weights import load_model

from . import emulator
from .emulator import standin
from .test_emulator import _compiler  # noqa: F401
from .wrong import swapping, told

DEMO_MOE = Path(qwen3_mlx.__file__).parent / "demo" / "moe"
LAYERS = 4
STEP = ["qwen3_router", "qwen3_moe_gate_up", "qwen3_moe_down"]
GROUPED = ["qwen3_router", *(f"qwen3_moe_{name}" for name in ("groups", "gate_up_grouped", "down_grouped", "sum"))]
PREFILL = ["qwen3_router", "qwen3_moe_unsort_sum"]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    monkeypatch.setattr(neural, "_here", lambda: False)


def stock_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """``emulate`` with the same policy and none of our kernels, until the test ends."""
    monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: on_stock("emulate"))


@pytest.fixture(scope="module")
def demo() -> tuple[Model, Any]:
    return load_model(DEMO_MOE, bits=4, kernels="emulate")


def logits(demo: tuple[Model, Any], tokens: list[int], held: int) -> tuple[mx.array, list[str]]:
    """Of the last tokens, after ``held`` others; and the launches they took."""
    model, config = demo
    cache = KVCache(config, kernels=model.kernels)
    if held:
        mx.eval(model(mx.array([tokens[:held]]), cache))
    with emulator.recording() as reports:
        out = model(mx.array([tokens[held:]]), cache)
        mx.eval(out)
    return out, [report.kernel for report in reports]


def test_launches_by_the_number_of_tokens(demo: tuple[Model, Any]) -> None:
    tokens = [100 + 7 * i for i in range(80)]
    for held in (79, 72, 71, 0):
        logits(demo, tokens, held)  # the kernels are tried here: few experts and many
    for held, expected in ((79, STEP), (77, STEP), (72, STEP), (71, GROUPED), (17, GROUPED), (16, PREFILL)):
        layer = ["qwen3_norm_rope", *expected]
        assert logits(demo, tokens, held)[1] == ["qwen3_norm_rope_table", *layer * LAYERS], held


# A token whose experts are nearly tied weighs more than all rounding: so several.
TEXTS = [
    b"How many letters have these words?",
    b"How many e are in nevertheless?",
    b"The quick brown fox jumps over it.",
    b"What is seven plus twelve, please?",
]


def test_logits_are_as_near_to_float32_as_those_of_stock(
    demo: tuple[Model, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = load_model(DEMO_MOE, bits=4, kernels="reference")
    stock_only(monkeypatch)
    stock = load_model(DEMO_MOE, bits=4, kernels="emulate")
    errors = []
    for text in TEXTS:
        tokens = list(text)
        (want, _), (ours, _), (theirs, launched) = (
            logits(model, tokens, len(tokens) - 8) for model in (exact, demo, stock)
        )
        assert not launched
        errors.append([float(mx.mean(mx.square(held - want))) for held in (ours, theirs)])
    our_error, their_error = (float(sum(of)) ** 0.5 for of in zip(*errors, strict=True))
    print(f"error of logits: kernels {our_error:.4f}, stock {their_error:.4f}")
    assert our_error <= 1.25 * their_error


# -- the trials --------------------------------------------------------------------------------------------------------

BF16, FP16 = mx.bfloat16, mx.float16
GOOD: list[tuple[Trial, tuple[Any, ...]]] = [
    (ROUTER, (BF16, 8, 2, True, False)),
    (ROUTER, (BF16, 128, 8, True, False)),
    (ROUTER, (mx.float32, 5, 5, False, True)),
    (ROUTER, (FP16, 1000, 40, False, False)),
    *((trial, (BF16, 128, 128, 2, bits, 64, few)) for trial in (GATE_UP, DOWN) for bits in (4, 8) for few in (0, 1)),
    *((trial, (FP16, 256, 384, 3, 4, 32, True)) for trial in (GATE_UP, DOWN)),
    *((trial, (FP16, 128, 128, 1, 8, 128, False)) for trial in (GATE_UP, DOWN)),
    (DOWN, (BF16, 128, 256, 18, 4, 64, False)),
    *((trial, (FP16, 256, 384, 3, 4, 32)) for trial in (GROUPED_GATE_UP, GROUPED_DOWN)),
    (UNSORT_SUM, (FP16, 256, 3)),
]


@pytest.mark.parametrize(
    ("trial", "parameters"), GOOD, ids=lambda part: part.kernel if isinstance(part, Trial) else None
)
def test_good_kernels_pass_their_trial(trial: Trial, parameters: tuple[Any, ...]) -> None:
    with emulator.using(instrumented=True):
        assert float(trial.error(*parameters).item()) <= 1


@pytest.mark.parametrize(("rows", "kernels"), [(1, 3), (3, 3), (4, 3), (8, 3), (9, 5), (63, 5)])
def test_a_trial_compiles_what_is_launched_and_nothing_else(
    rows: int, kernels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs of fewer than eight values make another instantiation."""
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **given: emulator.metal_kernel(**given))
    before = len(standin._cache)
    with emulator.recording() as reports:
        block(rows).run(on_metal(on_stock("emulate"), Verifier(Store(tmp_path)).trusts))
    # Of the five, moe_groups has one instantiation, which both other trials launch.
    assert len(reports) == {3: 6, 5: 11}[kernels] and len(standin._cache) == before + kernels


@pytest.mark.slow
@pytest.mark.parametrize("trial", [GATE_UP, DOWN], ids=["gate_up", "down"])
def test_the_trial_of_a_released_size(trial: Trial) -> None:
    with emulator.recording() as reports:
        assert trial.error(BF16, 2048, 768, 8, 4, 64, False).item() <= 1
    assert len(reports) == 1


# -- kernels that are wrong --------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Inputs of a MoE block, and its weights."""

    x: mx.array
    logits: mx.array
    gate_up: QuantizedSwitchLinear
    down: QuantizedSwitchLinear

    def run(self, kernels: Kernels) -> mx.array:
        experts, weights = kernels.route(self.logits, 2, True)
        return kernels.moe_swiglu(self.x, experts, weights, self.gate_up, self.down)


def block(rows: int = 3) -> Block:
    def draw(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=mx.random.key(sum(shape))).astype(BF16)

    def packed(out: int, dims: int) -> QuantizedSwitchLinear:
        weight, scales, biases = mx.quantize(draw(4, out, dims), 64, 4)
        return QuantizedSwitchLinear(weight, scales, biases, QuantSpec(4, 64))

    return Block(draw(rows, 256), draw(rows, 4), packed(256, 256), packed(256, 128))


WRONG = [
    ("router", "shares[k] / total", "shares[k]", STEP[1:]),
    ("router", "last_index = simd_min(", "last_index = simd_max(", STEP[1:]),
    ("router", "chosen[k] = last_index", "chosen[k] = 0", STEP[1:]),
    ("moe_gate_up", "r - rows_at_once + INNER", "r - rows_at_once", STEP[:1]),
    ("moe_gate_up", "precise::exp(-gate)", "precise::exp(-gate) * 1.05f", STEP[:1]),
    ("moe_gate_up", "uint token = pair / TOP_K;", "uint token = 0;", STEP[:1]),
    ("moe_down", "share * sum", "sum", STEP[:1]),
    ("moe_down", "1.0f / 4096.0f", "1.0f / 2048.0f", STEP[:1]),
    ("moe_down", "for (uint r = 0", "this is no Metal; for (uint r = 0", STEP[:1]),
    ("router", "uint lane", "this is no Metal; uint lane", STEP[1:]),
]
# Of the kernels for more tokens; the kernel that is spoken of, the one that is wrong, and how.
WRONG_GROUPED = [
    ("moe_gate_up_grouped", "moe_groups", "other < expert", "other > expert"),
    ("moe_gate_up_grouped", "moe_gate_up_grouped", "/ TOP_K", "% TOP_K"),
    ("moe_down_grouped", "moe_down_grouped", "share * sum", "sum"),
    ("moe_down_grouped", "moe_sum", "slot < uint(TOP_K)", "slot + 1 < uint(TOP_K)"),
]


@pytest.mark.parametrize(("kernel", "written", "broken", "launched"), WRONG)
def test_a_wrong_kernel_gives_way_to_stock_and_is_spoken_of_once(
    kernel: str, written: str, broken: str, launched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    base, verifier, given = on_stock("emulate"), Verifier(Store(tmp_path)), block()
    out, messages, seen = told(on_metal(base, verifier.trusts), given)
    assert seen == launched
    bad = [verdict for verdict in verifier.verdicts.values() if not verdict.good]
    assert len(bad) == len(messages) == 1
    assert f"the Metal kernel {kernel} is not used" in messages[0]
    if "no Metal" in broken:
        assert "is" in bad[0].detail and len(bad[0].detail.splitlines()) > 1  # what the compiler says, for `doctor`
    want = given.run(base)
    assert float(mx.abs(out - want).max()) <= 0.05 * float(mx.abs(want).max())  # bf16 chains of two lengths
    if launched == STEP[:1]:
        experts, weights = on_metal(base, verifier.trusts).route(given.logits, 2, True)
        assert mx.array_equal(out, base.moe_swiglu(given.x, experts, weights, given.gate_up, given.down))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("named", "kernel", "written", "broken"), WRONG_GROUPED)
def test_a_wrong_grouped_kernel_gives_way_too(
    named: str, kernel: str, written: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    base, verifier, given = on_stock("emulate"), Verifier(Store(tmp_path)), block(9)
    out, (message,), seen = told(on_metal(base, verifier.trusts), given)
    assert f"the Metal kernel {named} is not used" in message
    experts, weights = on_metal(base, verifier.trusts).route(given.logits, 2, True)
    assert seen == STEP[:1]
    assert mx.array_equal(out, base.moe_swiglu(given.x, experts, weights, given.gate_up, given.down))


def test_a_wrong_unsorting_gives_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping("moe_unsort_sum", "places[pair]", "pair"))
    base, verifier, given = on_stock("emulate"), Verifier(Store(tmp_path)), block(64)
    out, (message,), seen = told(on_metal(base, verifier.trusts), given)
    assert "the Metal kernel moe_unsort_sum is not used" in message and seen == STEP[:1]
    experts, weights = on_metal(base, verifier.trusts).route(given.logits, 2, True)
    assert mx.array_equal(out, base.moe_swiglu(given.x, experts, weights, given.gate_up, given.down))


def test_a_kernel_that_cannot_be_built_gives_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**_: Any) -> Any:
        raise RuntimeError("[metal_kernel] not today")

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    base, given = on_stock("emulate"), block()
    out, messages, _ = told(on_metal(base, Verifier(Store(tmp_path)).trusts), given)
    assert [message.partition(" is not")[0] for message in messages] == [
        "the Metal kernel router",
        "the Metal kernel moe_gate_up",
    ]
    assert mx.array_equal(out, given.run(base))


def test_a_machines_verdict_is_kept_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator in the place of a machine's own Metal."""
    monkeypatch.setattr(verify, "_is_mlx", lambda _: True)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    given, base = block(), on_stock("emulate")
    with emulator.recording() as reports:
        out = given.run(on_metal(base, Verifier(Store(tmp_path)).trusts))
    assert len(reports) == 6 and len(list(tmp_path.iterdir())) == 3
    for folder, launches in ((tmp_path, 3), (shutil.copytree(tmp_path, tmp_path / "copy"), 3), (tmp_path / "new", 6)):
        with emulator.recording() as reports:
            assert mx.array_equal(given.run(on_metal(base, Verifier(Store(folder)).trusts)), out)
        assert len(reports) == launches
    for path in tmp_path.glob("*.json"):
        path.write_text("{")
    with emulator.recording() as reports:
        given.run(on_metal(base, Verifier(Store(tmp_path)).trusts))
    assert len(reports) == 6
    monkeypatch.setattr(verify, "source", lambda name: f"another {name}")
    with emulator.recording() as reports:
        given.run(on_metal(base, Verifier(Store(tmp_path)).trusts))
    assert len(reports) == 6


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_without_metal_and_without_a_stand_in_there_is_one_warning(
    demo: tuple[Model, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    given, base = block(), on_stock("emulate")
    out, messages, seen = told(on_metal(base, Verifier(Store()).trusts), given)
    assert not seen and mx.array_equal(out, given.run(base))
    (message,) = messages
    assert "MLX finds no Apple GPU" in message
    assert resolve("emulate").route is not base.route
