"""What ``deterministic=True`` means of kernels, and what it refuses; nothing is launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import mlx.core as mx
import pytest

from qwen3_mlx.errors import InvalidRequest, Unavailable, UnsupportedModel
from qwen3_mlx.kernels import ENVIRONMENT, DenseView, Kernels, Lengths, Packed, norms, resolve
from qwen3_mlx.kernels.deterministic import deterministic
from qwen3_mlx.kernels.dispatch import on_stock

BF16, FP16, FP32 = mx.bfloat16, mx.float16, mx.float32
STOCK = on_stock("emulate")
ON_CPU = mx.default_device().type == mx.DeviceType.cpu


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def kernels() -> Kernels:
    return deterministic(STOCK, lambda *_: True)


def test_a_set_of_its_own() -> None:
    plain, own = resolve("emulate"), resolve("emulate", deterministic=True)
    assert own is resolve("emulate", deterministic=True) and own is not plain
    assert plain.linear is None and plain.avoided == () and own.linear is not None
    for name in ("quantized_matmul", "gather_qmm", "scaled_dot_product_attention", "rms_norm"):
        assert any(line.startswith(f"{name}:") for line in own.avoided)
    assert (own.packed, own.dtype, own.transposed, own.mode) == (plain.packed, plain.dtype, plain.transposed, "emulate")
    assert not deterministic(on_stock("metal"), lambda *_: True).compiled


@pytest.mark.skipif(not ON_CPU, reason="says what a CPU device gets")
def test_a_cpu_on_linux_runs_what_it_always_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    own, usual = resolve("reference", deterministic=True), resolve("reference")
    assert own.attend.__wrapped__ is usual.attend.__wrapped__  # type: ignore[attr-defined]
    assert replace(own, attend=usual.attend) == usual and own.avoided == ()


@pytest.mark.skipif(not ON_CPU, reason="says what a CPU device gets")
def test_stock_operations_on_a_mac_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(InvalidRequest, match="which kernels='reference' leaves out") as caught:
        resolve("reference", deterministic=True)
    assert caught.value.param == "deterministic"
    monkeypatch.setenv(ENVIRONMENT, "reference")
    with pytest.raises(InvalidRequest, match=f"which {ENVIRONMENT}='reference' leaves out"):
        resolve(deterministic=True)


def packed(bits: int, dims: int = 128, outs: int = 16, group: int = 64, dtype: mx.Dtype = BF16) -> Packed:
    ends = mx.zeros((outs, dims // group), dtype)
    return Packed(mx.zeros((outs, dims * bits // 32), mx.uint32), ends, ends, bits, group)


class Stack(NamedTuple):
    packed: Packed | None

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array:
        raise AssertionError("this is MLX's own product")


def experts(kernels: Kernels, hidden: int, bits: int | None) -> mx.array:
    gate_up, down = (None, None) if bits is None else (packed(bits, hidden, 256), packed(bits, 128, hidden))
    stacks = [Stack(one and Packed(*(part[None] for part in one[:3]), *one[3:])) for one in (gate_up, down)]
    chosen, weights = mx.zeros((3, 2), mx.uint32), mx.zeros((3, 2))
    return kernels.moe_swiglu(mx.zeros((3, hidden), BF16), chosen, weights, *stacks)


def attention(kernels: Kernels, heads: int, head_dim: int, dtype: mx.Dtype = BF16, length: int = 3) -> mx.array:
    view = DenseView(*[mx.zeros((1, 1, 8, head_dim), dtype)] * 2, Lengths((5,)))
    return kernels.attend(mx.zeros((1, heads, length, head_dim), BF16), view, 1.0)


def norm_rope(kernels: Kernels, head_dim: int) -> object:
    ones = mx.ones((head_dim,), BF16)
    rotation = SimpleNamespace(stock=None, table=None)
    return kernels.norm_rope(mx.zeros((1, 2, 4 * head_dim), BF16), norms(ones, ones, 1e-6, 2, 1), rotation, None)


REFUSED: list[tuple[str, Callable[[Kernels], object]]] = [
    ("128 to 16 values, packed to 6 bits", lambda k: k.linear(mx.zeros((2, 128), BF16), packed(6))),
    ("packed to 4 bits in groups of 16", lambda k: k.linear(mx.zeros((2, 128), BF16), packed(4, group=16))),
    ("128 to 12 values", lambda k: k.linear(mx.zeros((2, 128), BF16), mx.zeros((12, 128), BF16))),
    ("128 to 16 values, not packed", lambda k: k.linear(mx.zeros((2, 128)), mx.zeros((16, 128)))),
    ("float16.* for activations in .*bfloat16", lambda k: k.linear(mx.zeros((2, 128), BF16), packed(4, dtype=FP16))),
    ("a norm of 128 values", lambda k: k.rms_norm(mx.zeros((2, 128)), mx.zeros((128,)), 1e-6)),
    ("a norm of 90 values", lambda k: k.rms_norm(mx.zeros((2, 90), BF16), mx.zeros((90,), BF16), 1e-6)),
    ("8 of 2000 experts", lambda k: k.route(mx.zeros((2, 2000), BF16), 8, True)),
    ("experts: they must be packed", lambda k: experts(k, 128, None)),
    ("multiples of 128", lambda k: experts(k, 192, 4)),
    ("64 or 128 values", lambda k: attention(k, 4, 96)),
    ("64 or 128 values", lambda k: attention(k, 3, 64)),
    ("64 or 128 values", lambda k: attention(k, 4, 96, length=1)),
    ("64 or 128 values", lambda k: norm_rope(k, 96)),
    ("keys and values in .*float16", lambda k: attention(k, 4, 64, FP16)),
]  # fmt: skip


@pytest.mark.parametrize(("about", "run"), REFUSED, ids=[about for about, _ in REFUSED])
def test_what_no_kernel_takes_is_refused(about: str, run: Callable[[Kernels], object], kernels: Kernels) -> None:
    with pytest.raises(UnsupportedModel, match=f"deterministic=True has no kernel for .*{about}"):
        run(kernels)


UNTRUSTED: list[tuple[str, Callable[[Kernels], object]]] = [
    ("linear_packed", lambda k: k.linear(mx.zeros((2, 128), BF16), packed(4))),
    ("linear_plain", lambda k: k.linear(mx.zeros((2, 128), BF16), mx.zeros((16, 128), BF16))),
    ("rms_norm", lambda k: k.rms_norm(mx.zeros((2, 128), BF16), mx.zeros((128,), BF16), 1e-6)),
    ("router", lambda k: k.route(mx.zeros((2, 8), BF16), 2, True)),
    ("moe_gate_up", lambda k: experts(k, 128, 4)),
    ("decode_attention", lambda k: attention(k, 4, 64)),
    ("norm_rope_table", lambda k: norm_rope(k, 64)),
]


@pytest.mark.parametrize(("kernel", "run"), UNTRUSTED, ids=[kernel for kernel, _ in UNTRUSTED])
def test_nothing_takes_the_place_of_a_kernel_that_is_not_trusted(kernel: str, run: Callable[[Kernels], object]) -> None:
    with pytest.raises(Unavailable, match=f"needs the Metal kernel {kernel}, which cannot be used on this machine"):
        run(deterministic(STOCK, lambda *_: False))
