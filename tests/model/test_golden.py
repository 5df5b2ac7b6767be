"""Logits against transformers', in float32: from the golden file always, live where torch is installed."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.golden.cases import CASES, tokens

from .build import build, in_steps

TOLERANCE = 1e-4  # absolute, on logits of magnitude about 1 to 5
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "logits.npz")


def test_golden_file_has_every_case() -> None:
    assert set(GOLDEN.files) == {"versions", *CASES}
    for name, case in CASES.items():
        assert GOLDEN[name].shape == (2, case.length, case.config["vocab_size"])
        assert np.abs(GOLDEN[name]).max() > 1  # logits of a model that does something


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "apart"])
@pytest.mark.parametrize("mode", ["reference", "emulate"])
@pytest.mark.parametrize("name", CASES)
def test_prefill_and_token_by_token(name: str, mode: str, fuse: bool) -> None:
    case = CASES[name]
    model = build(case, mode, fuse)
    ids = mx.array(tokens(case))
    assert np.abs(np.array(model(ids)) - GOLDEN[name]).max() <= TOLERANCE
    assert np.abs(np.array(in_steps(model, ids, case.steps)) - GOLDEN[name]).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["yarn-dense", "yarn-moe"])
def test_the_golden_yarn_cases_can_tell(name: str) -> None:
    """Ignoring YaRN, or its attention factor, would not pass: these cases' prompts are longer than the original."""
    case = CASES[name]
    plain = type(case)({k: v for k, v in case.config.items() if k != "rope_scaling"}, case.length, case.steps)
    unscaled = type(case)(
        case.config | {"rope_scaling": case.config["rope_scaling"] | {"attention_factor": 1.0}}, case.length, case.steps
    )
    ids = mx.array(tokens(case))
    for other in (plain, unscaled):
        assert np.abs(np.array(build(other)(ids)) - GOLDEN[name]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["dense", "yarn-dense", "moe", "yarn-moe"])
def test_live_transformers(name: str) -> None:
    pytest.importorskip("torch", reason="compares with a live transformers: needs torch, which is not a dependency")
    pytest.importorskip("transformers", reason="compares with a live transformers, which is not installed")
    from tests.golden.oracle import logits

    case = CASES[name]
    live = logits(case)
    assert np.abs(live - GOLDEN[name]).max() <= TOLERANCE
    assert np.abs(np.array(build(case)(mx.array(tokens(case)))) - live).max() <= TOLERANCE
