"""The same logits as mlx-lm's own model classes on the same weights, plain and 4-bit, where mlx-lm is right.

(Its ``qwen3_moe`` ignores YaRN, so there is no such case here; ``test_golden`` has them.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from qwen3_mlx.kernels import resolve
from qwen3_mlx.model.qwen3 import Qwen3
from tests.golden.cases import CASES, Case, tokens, weights

from .build import build, in_steps, stacked
from .test_fuse import packed


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """mlx-lm compiles its SwiGLU, for which a CPU device calls a C++ compiler for seconds."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def peer(config: Any) -> Any:
    from mlx_lm.models import qwen3, qwen3_moe

    module = qwen3 if config["model_type"] == "qwen3" else qwen3_moe
    return module.Model(module.ModelArgs.from_dict(config))


def theirs(case: Case) -> mx.array:
    model = peer(case.config)
    model.update(tree_unflatten(stacked(weights(case))))
    return model(mx.array(tokens(case)))


@pytest.mark.parametrize("name", [n for n in CASES if n == "yarn-dense" or not n.startswith("yarn")])
def test_float32(name: str) -> None:
    case = CASES[name]
    want = np.array(theirs(case))
    for mode in ("reference", "emulate"):
        model = build(case, mode)
        ids = mx.array(tokens(case))
        assert np.abs(np.array(model(ids)) - want).max() < 1e-4
        assert np.abs(np.array(in_steps(model, ids, 4)) - want).max() < 1e-4


@pytest.mark.parametrize("name", ["dense", "untied", "moe"])
def test_packed(name: str) -> None:
    """The very arrays of our packed tree, given to mlx-lm's quantized modules."""
    model = packed(name)
    source = CASES[name].config | {k: getattr(model.config, k) for k in ("hidden_size", "head_dim")}
    source |= {k: getattr(model.config, k) for k in ("intermediate_size", "moe_intermediate_size")}
    other = peer(source)
    nn.quantize(other, 64, 4)
    other.update(tree_unflatten(tree_flatten(model.parameters())))
    ids = mx.array(tokens(CASES[name]))
    want = np.array(other(ids))
    assert np.abs(want).max() > 0.5
    model.fuse()
    assert np.abs(np.array(model(ids)) - want).max() < 1e-4
    assert np.abs(np.array(in_steps(model, ids, 4)) - want).max() < 1e-4


def test_bf16_activations_stay_close_to_float32() -> None:
    """The policy of metal: bf16 in, bf16 out, and near the float32 logits."""
    for name in ("dense", "moe", "yarn-moe"):
        case = CASES[name]
        exact = np.array(build(case)(mx.array(tokens(case))))
        model = Qwen3(build(case).config, resolve("emulate"))
        model.load_weights([(k, v.astype(mx.bfloat16)) for k, v in stacked(weights(case))])
        model.fuse()
        got = model(mx.array(tokens(case)))
        assert got.dtype == mx.bfloat16
        got32 = np.array(got.astype(mx.float32))
        # a token may meet another expert when two are nearly alike, so the bound is on the typical logit
        assert np.median(np.abs(got32 - exact)) < 0.05
        stepped = np.array(in_steps(model, mx.array(tokens(case)), 4).astype(mx.float32))
        assert np.median(np.abs(stepped - exact)) < 0.05
