from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from qwen3_mlx.errors import CheckpointError, InvalidRequest
from qwen3_mlx.text.defaults import Defaults, resolve, validate
from qwen3_mlx.types import SamplingParams

RELEASED = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "eos_token_id": [151645, 151643]}
INSTRUCT = {**RELEASED, "temperature": 0.7, "top_p": 0.8}
CODER = {**INSTRUCT, "repetition_penalty": 1.05}


def read(folder: Path, config: dict | None, hybrid: bool | None = True) -> Defaults:
    if config is not None:
        (folder / "generation_config.json").write_text(json.dumps(config))
    return Defaults.from_folder(folder, hybrid=hybrid)


def values(params: SamplingParams) -> tuple:
    return params.temperature, params.top_p, params.top_k, params.min_p, params.repetition_penalty


@pytest.mark.parametrize(
    ("config", "hybrid", "thinking", "non_thinking"),
    [
        (None, True, (0.6, 0.95, 20, 0, 1), (0.7, 0.8, 20, 0, 1)),
        ({}, True, (0.6, 0.95, 20, 0, 1), (0.7, 0.8, 20, 0, 1)),
        (RELEASED, True, (0.6, 0.95, 20, 0, 1), (0.7, 0.8, 20, 0, 1)),
        (RELEASED, False, (0.6, 0.95, 20, 0, 1), (0.6, 0.95, 20, 0, 1)),
        (INSTRUCT, False, (0.7, 0.8, 20, 0, 1), (0.7, 0.8, 20, 0, 1)),
        (CODER, False, (0.7, 0.8, 20, 0, 1.05), (0.7, 0.8, 20, 0, 1.05)),
        ({**RELEASED, "temperature": 0.3, "min_p": 0.1}, True, (0.3, 0.95, 20, 0.1, 1), (0.3, 0.8, 20, 0.1, 1)),
        ({"do_sample": False}, True, (0, 0.95, 20, 0, 1), (0, 0.8, 20, 0, 1)),
        ({"temperature": None, "top_k": 0}, True, (0.6, 0.95, 0, 0, 1), (0.7, 0.8, 0, 0, 1)),
    ],
)
def test_defaults_of_both_modes(tmp_path: Path, config, hybrid, thinking, non_thinking) -> None:
    defaults = read(tmp_path, config, hybrid)
    assert values(defaults.thinking) == thinking
    assert values(defaults.non_thinking) == non_thinking


def test_the_template_tells_whether_a_model_is_hybrid(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% if enable_thinking is false %}{% endif %}")
    assert values(read(tmp_path, RELEASED, None).non_thinking)[:2] == (0.7, 0.8)
    (tmp_path / "chat_template.jinja").write_text("<think>\n")
    assert values(read(tmp_path, RELEASED, None).non_thinking)[:2] == (0.6, 0.95)


@pytest.mark.parametrize(
    "config",
    [{"temperature": -1}, {"top_p": 2}, {"top_k": "many"}, {"repetition_penalty": 0}, {"temperature": math.nan}],
)
def test_defaults_that_cannot_be_honoured(tmp_path: Path, config: dict) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {next(iter(config))} must be"):
        read(tmp_path, config)


def test_resolve_fills_in_what_is_missing(tmp_path: Path) -> None:
    defaults = read(tmp_path, RELEASED)
    filled = resolve(SamplingParams(top_p=0.5, seed=-1, max_tokens=7, stop=("a",)), False, defaults)
    assert filled == SamplingParams(
        temperature=0.7,
        top_p=0.5,
        top_k=20,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        logit_bias={},
        seed=2**64 - 1,
        max_tokens=7,
        stop=("a",),
    )
    given = SamplingParams(0.0, 1.0, 0, 0.5, 1.1, 1.5, -1.0, {5: 1.0}, 2**64 + 3, None, (), 5)
    assert resolve(given, True, defaults) == SamplingParams(0.0, 1.0, 0, 0.5, 1.1, 1.5, -1.0, {5: 1.0}, 3, None, (), 5)
    assert resolve(SamplingParams(), True, defaults).temperature == 0.6


def test_resolving_checks(tmp_path: Path) -> None:
    defaults = read(tmp_path, None)
    assert defaults.resolve(SamplingParams(temperature=0), True, 100).temperature == 0
    with pytest.raises(InvalidRequest) as caught:
        defaults.resolve(SamplingParams(top_k=101), True, 100)
    assert caught.value.param == "top_k"
    assert "at most 100" in str(caught.value)


BAD = [
    ("temperature", [-0.1, math.nan, math.inf, -math.inf, "hot", True, 10**400, 1e39, [1]]),
    ("top_p", [0, -0.1, 1.01, math.nan, "x", False]),
    ("top_k", [-1, 152, 1.5, "x", True]),
    ("min_p", [-0.1, 1.1, math.nan]),
    ("repetition_penalty", [0, -1, math.nan, math.inf, 1e39, 1e-50, "x"]),
    ("presence_penalty", [math.nan, math.inf, 1e39, "x"]),
    ("frequency_penalty", [math.nan, -math.inf, -1e39, "x"]),
    ("max_tokens", [0, -1, 1.5, "x", True]),
    ("logprobs", [-1, 21, 1.5, True]),
    ("seed", [1.5, "x", True]),
    ("stop", ["x", ("",), ("a", ""), (5,), 5, b"x", None]),
    ("logit_bias", [{-1: 1.0}, {151: 1.0}, {1: math.nan}, {1: -1e39}, {1: "x"}, {"1": 1.0}, {True: 1.0}, [1]]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(SamplingParams(**{name: value}), 151)
    assert caught.value.param == name
    assert "\n" not in str(caught.value)


def test_good_values() -> None:
    validate(SamplingParams(), 151)
    validate(SamplingParams(0, 1, 0, 0, 0.1, -2, 2, {0: -100, 150: 5.5}, -(2**80), 1, ("a", "b") * 20, 0), 151)
    validate(SamplingParams(5, 1e-9, 151, 1.0, 9.0, seed=2**70, logprobs=20), 151)
    validate(SamplingParams(top_k=10**9))
