"""mlx-lm's own kernels give the right numbers."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .test_emulator import _compiler  # noqa: F401


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a module of mlx_lm.kernels anew, with the stand-in, and without importing mlx_lm itself."""
    found = importlib.util.find_spec("mlx_lm")
    assert found is not None and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "kernels"
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    package = types.ModuleType("emulated_kernels")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "emulated_kernels", package)

    def load(name: str) -> Any:
        if not (folder / f"{name}.py").exists():
            pytest.skip(f"this mlx-lm has no {name}")
        spec = importlib.util.spec_from_file_location(f"emulated_kernels.{name}", folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    load("_common")
    return load


@pytest.mark.parametrize("instrumented", [False, True])
def test_expert_routing(kernels: Any, instrumented: bool) -> None:
    rng = np.random.default_rng(0)
    logits, bias = rng.standard_normal((5, 40)).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    with emulator.using(instrumented=instrumented):
        inds, weights = kernels("expert_routing").expert_routing(
            mx.array(logits), mx.array(bias), top_k=4, multiplier=0.5, score_eps=1e-6, route_scale=2.0
        )
    scores = 1 / (1 + np.exp(-0.5 * logits))
    order = np.argsort(-(scores + bias), axis=-1)[:, :4]
    chosen = np.take_along_axis(scores, order, -1)
    np.testing.assert_array_equal(np.array(inds), order)
    np.testing.assert_allclose(np.array(weights), 2 * chosen / (chosen.sum(-1, keepdims=True) + 1e-6), rtol=2e-6)


def test_qk_norm_rope(kernels: Any) -> None:
    heads, kv_heads, d, tokens = 3, 1, 64, 4
    qkvg = np.random.default_rng(0).standard_normal((1, tokens, 2 * (heads + kv_heads) * d)).astype(np.float32)
    q, k = kernels("qk_norm_rope").qk_norm_rope(
        mx.array(qkvg),
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=d,
        eps=1e-6,
        query_scale=0.125,
        rope_base=10000.0,
        offset=7,
    )
    x = mx.array(qkvg[..., : (heads + kv_heads) * d]).reshape(1, tokens, heads + kv_heads, d)
    x = mx.fast.rms_norm(x, None, 1e-6).transpose(0, 2, 1, 3)
    x = mx.fast.rope(x, d, traditional=True, base=10000.0, scale=1.0, offset=7).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(np.array(q), 0.125 * np.array(x[..., :heads, :]), atol=2e-6)
    np.testing.assert_allclose(np.array(k), np.array(x[..., heads:, :]), atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_gated_delta(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    found = importlib.util.find_spec("mlx_lm")
    assert found is not None and found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "models" / "gated_delta.py"
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    spec = importlib.util.spec_from_file_location("emulated_gated_delta", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng = np.random.default_rng(0)

    def array(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32) / 8)

    q, k, v, state = array(1, 3, 2, 128), array(1, 3, 2, 128), array(1, 3, 4, 8), array(1, 4, 8, 128)
    g, beta = mx.exp(array(1, 3, 4)), mx.sigmoid(array(1, 3, 4))
    run = module.gated_delta_kernel if packed else module.gated_delta_kernel_unpacked
    y, after = run(q, k, v, g, beta, state)
    expected_y, expected_after = module.gated_delta_ops(q, k, v, g, beta, state)
    np.testing.assert_allclose(np.array(y), np.array(expected_y), atol=1e-5)
    np.testing.assert_allclose(np.array(after), np.array(expected_after), atol=1e-5)
