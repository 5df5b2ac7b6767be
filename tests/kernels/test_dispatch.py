"""Which kernels a mode means, and what it says of the weights."""

from __future__ import annotations

from dataclasses import fields

import mlx.core as mx
import pytest

from qwen3_mlx.errors import InvalidRequest, Unavailable
from qwen3_mlx.kernels import ENVIRONMENT, MODES, dispatch, reference, resolve, stock

ON_CPU = mx.default_device().type == mx.DeviceType.cpu
METAL = mx.metal.is_available()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.mark.skipif(not ON_CPU, reason="says what a CPU device gets")
def test_a_cpu_unpacks_to_float32() -> None:
    kernels = resolve("reference")
    assert (kernels.packed, kernels.dtype, kernels.transposed) == (False, mx.float32, True)
    assert resolve("auto") is kernels or METAL
    assert resolve() is resolve("auto")


def test_emulation_keeps_the_policy_of_metal_everywhere() -> None:
    kernels = resolve("emulate")
    assert (kernels.packed, kernels.dtype, kernels.transposed) == (True, mx.bfloat16, False)
    assert kernels is not resolve("reference")


@pytest.mark.skipif(METAL, reason="needs a machine without Metal")
def test_metal_without_metal_says_what_to_do() -> None:
    with pytest.raises(Unavailable, match="'auto' or 'reference'"):
        resolve("metal")


@pytest.mark.skipif(not METAL, reason="needs Metal")
def test_metal() -> None:
    kernels = resolve("metal")
    assert (kernels.packed, kernels.dtype, kernels.transposed) == (True, mx.bfloat16, False)


def test_an_unknown_mode_lists_the_valid_ones() -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve("cuda")  # type: ignore[arg-type]
    assert all(mode in str(caught.value) for mode in MODES)
    assert caught.value.param == "kernels"


def test_the_environment_sets_only_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "emulate")
    assert resolve() is resolve("emulate")
    assert resolve("reference") is not resolve("emulate")
    monkeypatch.setenv(ENVIRONMENT, "fast")
    with pytest.raises(InvalidRequest, match=ENVIRONMENT):
        resolve()
    assert resolve("reference").mode == "reference"
    monkeypatch.setenv(ENVIRONMENT, "")
    assert resolve() is not None


def test_every_operation_is_there() -> None:
    for mode in ("reference", "emulate"):
        kernels = resolve(mode)
        for field in fields(kernels):
            if field.name not in ("mode", "packed", "dtype", "transposed", "compiled", "beside", "linear", "avoided"):
                assert callable(getattr(kernels, field.name)), field.name


def test_reference_on_a_gpu_keeps_weights_as_they_are() -> None:
    """Built without a GPU: only what it says of the weights can be checked, and that its activation is compiled."""
    kernels = dispatch._build("reference", gpu=True)
    assert (kernels.packed, kernels.dtype, kernels.transposed, kernels.compiled) == (True, None, False, True)
    assert not kernels.beside
    assert kernels.swiglu is stock.compiled_swiglu()
    assert resolve("emulate").swiglu is reference.swiglu
