"""Where the MoE block launches its kernels, and where it leaves the work to stock operations. Nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.kernels import neural
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.verify import Trial
from qwen3_mlx.model.linear import QuantizedSwitchLinear, SwitchLinear, TransposedSwitchLinear
from qwen3_mlx.model.moe import SwitchGLU

HIDDEN, INNER, STACK, TOP_K = 128, 256, 4, 2
FOUR = QuantSpec(4, 64)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the launches of kernels that do nothing."""
    names: list[str] = []

    def make(name: str, **_: Any) -> Callable[..., list[mx.array]]:
        def launch(*, output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            names.append(name.removeprefix("qwen3_"))
            return [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return launch

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    monkeypatch.setattr(neural, "_here", lambda: False)
    return names


class Trust:
    """Trusts all kernels but those named, and keeps what it was asked."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, trial: Trial, *parameters: Any) -> bool:
        self.asked.append((trial.kernel, *parameters))
        return trial.kernel not in self.bad


def packed(
    out: int, dims: int, spec: QuantSpec = FOUR, dtype: mx.Dtype = mx.bfloat16, stack: int = STACK
) -> QuantizedSwitchLinear:
    weight = mx.zeros((stack, out, dims), dtype)
    arrays = mx.quantize(weight, spec.group_size, spec.bits, mode=spec.mode)
    return QuantizedSwitchLinear(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None, spec)


def run(
    trust: Trust | None = None,
    rows: int = 1,
    dtype: mx.Dtype = mx.bfloat16,
    gate_up: Any = None,
    down: Any = None,
    hidden: int = HIDDEN,
    stack: int = STACK,
) -> mx.Dtype:
    """The dtype of the result."""
    kernels = on_metal(on_stock("emulate"), trust or Trust())
    experts, weights = kernels.route(mx.zeros((rows, stack), dtype), TOP_K, True)
    assert experts.dtype == mx.uint32 and weights.dtype == mx.float32
    gate_up = gate_up or packed(2 * INNER, hidden, dtype=dtype, stack=stack)
    down = down or packed(hidden, INNER, dtype=dtype, stack=stack)
    out = kernels.moe_swiglu(mx.zeros((rows, hidden), dtype), experts, weights, gate_up, down)
    mx.eval(out)  # the stock path, too, takes experts from our router
    assert out.shape == (rows, hidden)
    return out.dtype


ALL, ROUTER_ONLY = ["router", "moe_gate_up", "moe_down"], ["router"]
GROUPED = ["router", "moe_groups", "moe_gate_up_grouped", "moe_down_grouped", "moe_sum"]
PREFILL = ["router", "moe_unsort_sum"]


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_a_decode_step_is_three_launches(launched: list[str], rows: int, dtype: mx.Dtype) -> None:
    trust = Trust()
    assert run(trust, rows, dtype) == dtype
    assert launched == ALL
    few = rows * TOP_K < 8
    sizes = (dtype, HIDDEN, INNER, TOP_K, 4, 64, few)
    assert trust.asked == [
        ("router", dtype, STACK, TOP_K, True, rows * STACK < 8),
        ("moe_gate_up", *sizes),
        ("moe_down", *sizes),
    ]


@pytest.mark.parametrize("rows", [9, 31, 63])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_some_tokens_are_five_launches(launched: list[str], rows: int, dtype: mx.Dtype) -> None:
    trust = Trust()
    assert run(trust, rows, dtype) == dtype
    assert launched == GROUPED
    sizes = (dtype, HIDDEN, INNER, TOP_K, 4, 64)
    assert trust.asked[1:] == [("moe_gate_up_grouped", *sizes), ("moe_down_grouped", *sizes)]


def test_a_prefill_ends_in_one_launch(launched: list[str]) -> None:
    trust = Trust()
    run(trust, 64)
    assert launched == PREFILL
    assert trust.asked[1:] == [("moe_unsort_sum", mx.bfloat16, HIDDEN, TOP_K)]
    launched.clear()
    run(Trust("moe_unsort_sum"), 64)
    run(None, 64, mx.float32)
    assert launched == ROUTER_ONLY * 2


@pytest.mark.parametrize(("rows", "expected"), [(8, ALL), (9, GROUPED), (31, GROUPED), (32, PREFILL), (63, PREFILL)])
def test_where_mlx_uses_neural_accelerators_many_pairs_an_expert_are_its_own(
    launched: list[str], monkeypatch: pytest.MonkeyPatch, rows: int, expected: list[str]
) -> None:
    monkeypatch.setattr(neural, "_here", lambda: True)
    run(None, rows, stack=16)
    assert launched == expected


def unfused() -> SwitchGLU:
    config = ModelConfig.from_dict(
        {
            "model_type": "qwen3_moe",
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "moe_intermediate_size": INNER,
            "num_experts": STACK,
            "num_experts_per_tok": TOP_K,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "vocab_size": 8,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64,
            "rope_theta": 1e4,
            "tie_word_embeddings": False,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    )
    switch = SwitchGLU(config)
    switch.gate_proj, switch.up_proj = packed(INNER, HIDDEN), packed(INNER, HIDDEN)
    return switch


def plain(out: int, dims: int) -> SwitchLinear:
    leaf = SwitchLinear(1, 1, 1)
    leaf.weight = mx.zeros((STACK, out, dims), mx.bfloat16)
    return leaf


STOCK: dict[str, Callable[[], dict[str, Any]]] = {
    "nine tokens in float32": lambda: {"rows": 9, "dtype": mx.float32},
    "nine tokens and six bits": lambda: {"rows": 9, "down": packed(HIDDEN, INNER, QuantSpec(6, 64))},
    "float32 activations": lambda: {"dtype": mx.float32},
    "scales of another dtype": lambda: {"gate_up": packed(2 * INNER, HIDDEN, dtype=mx.float32)},
    "six bits": lambda: {"gate_up": packed(2 * INNER, HIDDEN, QuantSpec(6, 64))},
    "six bits in down": lambda: {"down": packed(HIDDEN, INNER, QuantSpec(6, 64))},
    "no affine packing": lambda: {"down": packed(HIDDEN, INNER, QuantSpec(4, 32, "mxfp4"))},
    "an odd width": lambda: {"hidden": 192},
    "gate and up apart": lambda: {"gate_up": unfused()},
    "weights that are not packed": lambda: {"gate_up": plain(2 * INNER, HIDDEN)},
}


@pytest.mark.parametrize("case", STOCK)
def test_what_the_expert_kernels_leave_to_stock(launched: list[str], case: str) -> None:
    run(**STOCK[case]())
    assert launched == ROUTER_ONLY


def test_gate_up_and_down_may_be_packed_differently(launched: list[str]) -> None:
    trust = Trust()
    run(trust, down=packed(HIDDEN, INNER, QuantSpec(8, 32)))
    assert launched == ALL
    assert [asked[5:7] for asked in trust.asked[1:]] == [(4, 64), (8, 32)]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [("router", ALL[1:]), ("moe_gate_up", ROUTER_ONLY), ("moe_down", ROUTER_ONLY)],
)
def test_a_kernel_that_is_not_trusted_is_not_launched(launched: list[str], bad: str, expected: list[str]) -> None:
    run(Trust(bad))
    assert launched == expected


@pytest.mark.parametrize("bad", ["moe_gate_up_grouped", "moe_down_grouped"])
def test_the_grouped_kernels_are_trusted_together(launched: list[str], bad: str) -> None:
    run(Trust(bad), 9)
    assert launched == ROUTER_ONLY


def test_a_router_that_is_too_wide_is_stock(launched: list[str]) -> None:
    kernels = on_metal(on_stock("emulate"), Trust())
    kernels.route(mx.zeros((1, 2000)), 8, True)
    assert not launched


def test_leaves_that_a_kernel_cannot_read_say_so() -> None:
    assert SwitchLinear(4, 4, 2).packed is None
    assert TransposedSwitchLinear(mx.zeros((2, 4, 4))).packed is None
    assert unfused().packed is None
    leaf = packed(INNER, HIDDEN, QuantSpec(8, 32))
    assert leaf.packed is not None and leaf.packed[3:] == (8, 32)
    assert leaf.packed.weight is leaf.weight and leaf.packed.scales is leaf.scales
