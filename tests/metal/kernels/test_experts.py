"""The expert kernels against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

import qwen3_mlx
from qwen3_mlx.config import QuantSpec
from qwen3_mlx.kernels import experts as kernels
from qwen3_mlx.kernels import grouped_experts, reference, router
from qwen3_mlx.kernels.experts import Packed, down_sum, gate_up_swiglu
from qwen3_mlx.model.fuse import join
from qwen3_mlx.model.linear import QuantizedSwitchLinear

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .packing import dequantized, precision, random_packed, wide

DEMO_FOLDER = Path(qwen3_mlx.__file__).parent / "demo" / "moe"


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


class Sizes(NamedTuple):
    rows: int
    hidden: int
    inner: int
    top_k: int
    stack: int
    bits: int = 4
    group: int = 64
    dtype: Any = mx.bfloat16


class Case(NamedTuple):
    x: mx.array  # [rows, hidden]
    inner: mx.array  # [rows, top_k, inner]
    experts: mx.array  # [rows, top_k]
    weights: mx.array  # [rows, top_k]
    gate_up: Packed
    down: Packed


def case(sizes: Sizes, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    rows, hidden, inner, top_k, stack, bits, group, dtype = sizes
    given = (rows, hidden, inner, top_k, bits, group, dtype)
    assert kernels.supported(*given) or grouped_experts.supported(*given)

    def array(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)

    chosen = np.stack([rng.permutation(stack)[:top_k] for _ in range(rows)]).astype(np.uint32)
    weights = rng.dirichlet(np.ones(top_k), rows).astype(np.float32)
    return Case(
        array(rows, hidden),
        array(rows, top_k, inner),
        mx.array(chosen),
        mx.array(weights),
        random_packed(rng, stack, 2 * inner, hidden, bits, group, dtype),
        random_packed(rng, stack, hidden, inner, bits, group, dtype),
    )


def expected_swiglu(c: Case) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, and what it is sensitive to: ``sum |w||x|`` through SwiGLU's derivative."""
    x, experts = wide(c.x), np.array(c.experts)
    want = np.zeros((*experts.shape, c.gate_up.weight.shape[1] // 2))
    cond = np.zeros_like(want)
    for expert in np.unique(experts):
        matrix = dequantized(c.gate_up, int(expert))
        for row, slot in np.argwhere(experts == expert):
            gate, up = np.split(matrix @ x[row], 2)
            gate_cond, up_cond = np.split(np.abs(matrix) @ np.abs(x[row]), 2)
            sigmoid = np.exp(-np.logaddexp(0, -gate))
            want[row, slot] = gate * sigmoid * up
            slope = sigmoid * (1 + gate * (1 - sigmoid))
            cond[row, slot] = np.abs(slope * up) * gate_cond + np.abs(gate * sigmoid) * up_cond
    return want, cond


def expected_down(c: Case) -> tuple[np.ndarray, np.ndarray]:
    inner, experts, weights = wide(c.inner), np.array(c.experts), np.array(c.weights, np.float64)
    want = np.zeros((len(experts), c.down.weight.shape[1]))
    cond = np.zeros_like(want)
    for expert in np.unique(experts):
        matrix = dequantized(c.down, int(expert))
        for row, slot in np.argwhere(experts == expert):
            want[row] += weights[row, slot] * (matrix @ inner[row, slot])
            cond[row] += weights[row, slot] * (np.abs(matrix) @ np.abs(inner[row, slot]))
    return want, cond


def run_gate_up(c: Case) -> mx.array:
    return gate_up_swiglu(c.x, c.experts, c.gate_up)


def run_down(c: Case) -> mx.array:
    return down_sum(c.inner, c.experts, c.weights, c.down)


#: Name -> (launch, float64 result and condition).
BOTH = {"gate_up": (run_gate_up, expected_swiglu), "down": (run_down, expected_down)}
each = pytest.mark.parametrize("name", BOTH)

DEMO = Sizes(1, 128, 128, 2, 8)  # two experts and weights: MLX passes them as `constant`
QWEN3_30B = Sizes(1, 2048, 768, 8, 16)
QWEN3_235B = Sizes(1, 4096, 1536, 8, 9)


def one(x: mx.array, y: mx.array) -> bool:
    return bool(mx.array_equal(x, y))


def a_row(c: Case, rows: list[int]) -> Case:
    """The same case with these rows of it only."""
    at = mx.array(rows)
    return c._replace(x=c.x[at], inner=c.inner[at], experts=c.experts[at], weights=c.weights[at])


def hold_to_the_rule(name: str, c: Case) -> None:
    """Runs a kernel with every check on (without, a float16 result can look like the poison of a fresh output)."""
    run, expected = BOTH[name]
    with emulator.using(instrumented=True):
        result = run(c)
    found = precision(result, *expected(c))
    assert found.c <= 1 and found.p999 <= 0.51


@each
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_every_packing(name: str, bits: int, group: int, dtype: mx.Dtype) -> None:
    # Lanes take 16 and 8 values at a time of the first, 8 and 4 of the second.
    hidden, inner = (512, 256) if dtype == mx.bfloat16 else (256, 384)
    hold_to_the_rule(name, case(Sizes(3, hidden, inner, 3, 5, bits, group, dtype)))


@each
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "sizes",
    [
        DEMO,
        Sizes(8, 128, 128, 2, 8),
        Sizes(2, 128, 256, 1, 3),
        Sizes(1, 512, 128, 18, 20),  # more experts than simdgroups
        Sizes(2, 640, 512, 7, 7),
    ],
)
def test_instrumented(name: str, bits: int, sizes: Sizes) -> None:
    hold_to_the_rule(name, case(sizes._replace(bits=bits)))


@each
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sizes", [QWEN3_30B, QWEN3_235B])
def test_the_sizes_of_qwen3(name: str, sizes: Sizes, bits: int) -> None:
    run, expected = BOTH[name]
    c = case(sizes._replace(bits=bits))
    found = precision(run(c), *expected(c))
    print(f"{name} {bits}-bit {sizes.hidden}x{sizes.inner}: C {found.c:.3f}, p99.9 {found.p999:.4f} ulp")
    assert found.c <= 1 and found.p999 <= 0.51


@each
def test_a_row_is_the_same_in_any_batch_and_order(name: str) -> None:
    run, _ = BOTH[name]
    c = case(Sizes(8, 256, 256, 3, 6))
    together = run(c)
    for row in range(8):
        assert one(run(a_row(c, [row]))[0], together[row])
    rows = [5, 2, 7, 0, 3]
    assert one(run(a_row(c, rows)), together[mx.array(rows)])
    for seed in range(1, 21):
        with emulator.using(seed=seed):
            assert one(run(c), together)


@each
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_read_once(name: str, bits: int) -> None:
    run, _ = BOTH[name]
    c = case(QWEN3_30B._replace(bits=bits))
    with emulator.using(instrumented=True):
        run(c)
    report = emulator.last_report()
    buffers = report.buffers
    packed = [buffers[part] for part in ("weight", "scales", "biases")]
    distinct = sum(part.distinct for part in packed)
    requested = sum(part.bytes for part in packed)
    activations = buffers["x" if name == "gate_up" else "inner"].bytes
    print(
        f"{name} {bits}-bit: {distinct / 1e6:.2f} MB of weights, requested {requested / distinct:.4f}x,"
        f" activations {activations / distinct:.3f}x, {report.simdgroups} simdgroups"
    )
    whole = c.gate_up if name == "gate_up" else c.down
    assert distinct == sum(a.nbytes for a in whole[:3]) // 2  # 8 experts of 16
    assert requested <= 1.01 * distinct
    assert activations <= 0.45 * distinct
    assert report.dispatches == 1


HARD = {
    "positive": lambda x: mx.abs(x) + 1,  # scale * sum(q x) and bias * sum(x) cancel
    "large": lambda x: x * 8,
    "huge": lambda x: x * 3000,  # silu underflows
    "small": lambda x: x * 2.0**-20,
    "outlier": lambda x: mx.where(mx.arange(x.shape[-1]) == 7, 500.0, x).astype(x.dtype),
}


@each
@pytest.mark.parametrize("hard", HARD)
def test_hard_activations(name: str, hard: str) -> None:
    run, expected = BOTH[name]
    c = case(Sizes(1, 1024, 512, 4, 4))
    c = c._replace(x=HARD[hard](c.x), inner=HARD[hard](c.inner))
    result, (want, cond) = run(c), expected(c)
    assert np.isfinite(wide(result)).all()
    tiny = np.abs(want) < 1e-30  # float32's own exponents end here
    assert (np.abs(wide(result)[tiny]) < 1e-28).all()
    found = precision(result, np.where(tiny, wide(result), want), np.where(tiny, 1, cond))
    assert found.c <= 1 and found.p999 <= 0.51


@pytest.mark.parametrize(
    ("name", "written", "broken"),
    [
        ("down", "1.0f / 4096.0f", "1.0f / 4097.0f"),
        ("down", "share * sum", "share * float(T(sum))"),  # one rounding to bf16 too many
        ("down", "threadgroup_barrier(mem_flags::mem_threadgroup);", ""),
        ("gate_up", "r - rows_at_once + INNER", "r - rows_at_once"),
        ("gate_up", "simd_sum(sums[r + rows_at_once])", "float(T(simd_sum(sums[r + rows_at_once])))"),
        ("gate_up", "precise::exp(-gate)", "precise::exp(-gate) * 1.001f"),
    ],
)
def test_a_broken_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, written: str, broken: str) -> None:
    def make(**given: Any) -> Any:
        assert written in given["source"] + given["header"]
        swapped = {part: given[part].replace(written, broken) for part in ("source", "header")}
        return emulator.metal_kernel(**{**given, **swapped})

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    run, expected = BOTH[name]
    c = case(Sizes(1, 512, 256, 2, 3))
    try:
        with emulator.using(instrumented=True):
            result = run(c)
    except emulator.KernelError:
        return
    assert precision(result, *expected(c)).c > 100


@pytest.mark.parametrize("bits", [4, 8])
def test_the_block_on_the_demos_experts_as_the_loader_fuses_them(bits: int) -> None:
    tensors = mx.load(str(DEMO_FOLDER / "model.safetensors"))
    assert isinstance(tensors, dict)
    prefix, spec = "model.layers.0.mlp.", QuantSpec(bits, 64)
    stacks = {}
    for name in ("gate_proj", "up_proj", "down_proj"):
        stack = mx.stack([tensors[f"{prefix}experts.{i}.{name}.weight"] for i in range(8)])
        stacks[name] = mx.quantize(stack, spec.group_size, spec.bits)

    def switch(dtype: mx.Dtype) -> tuple[QuantizedSwitchLinear, QuantizedSwitchLinear]:
        leaves = [
            QuantizedSwitchLinear(weight, scales.astype(dtype), biases.astype(dtype), spec)
            for weight, scales, biases in stacks.values()
        ]
        fused = join(leaves[:2])
        assert isinstance(fused, QuantizedSwitchLinear)
        return fused, leaves[2]

    def packed(leaf: QuantizedSwitchLinear) -> Packed:
        return Packed(leaf.weight, leaf.scales, leaf.biases, leaf.bits, leaf.group_size)

    x = mx.random.normal((3, 128), key=mx.random.key(0)).astype(mx.bfloat16)
    logits = x.astype(mx.float32) @ tensors[f"{prefix}gate.weight"].astype(mx.float32).T
    gate_up, down = switch(mx.bfloat16)
    chosen, weights = router.route(logits, 2, True)
    ours = down_sum(gate_up_swiglu(x, chosen, packed(gate_up)), chosen, weights, packed(down))

    gate_up, down = switch(mx.float32)
    theirs = reference.moe_swiglu(x.astype(mx.float32), *reference.route(logits, 2, True), gate_up, down)
    assert float(mx.abs(ours - theirs).max()) <= 0.01 * float(mx.abs(theirs).max())


def test_what_is_not_supported() -> None:
    fits: dict[str, Any] = dict(rows=1, hidden=2048, inner=768, top_k=8, bits=4, group_size=64, dtype=mx.bfloat16)
    assert kernels.supported(**fits)
    for wrong in (
        {"rows": 9},
        {"rows": 0},
        {"hidden": 2000},
        {"inner": 64},
        {"inner": 0},
        {"top_k": 65},
        {"bits": 6},
        {"group_size": 16},
        {"dtype": mx.float32},
        {"mode": "mxfp4"},
    ):
        assert not kernels.supported(**{**fits, **wrong})
