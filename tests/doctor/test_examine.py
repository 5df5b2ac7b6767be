"""Which instantiations are looked at, in which order, and what happens to those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.chips import Limit
from qwen3_mlx.doctor import cases, examine, sweep, timing
from qwen3_mlx.doctor.catalogue import Use
from qwen3_mlx.doctor.examine import Findings
from qwen3_mlx.errors import ModelNotFound
from qwen3_mlx.hub.names import embedded
from qwen3_mlx.kernels.metal_source import standing_in
from qwen3_mlx.kernels.verdicts import Store
from qwen3_mlx.kernels.verify import Verifier
from qwen3_mlx.released import RELEASED
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)
from tests.metal.wrong import swapping

from .clock import Clock


def test_a_model_is_named_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examine.describe("qwen3:30B-A3B") == (RELEASED["qwen3:30b-a3b"], mx.bfloat16)
    assert examine.describe("demo")[0].hidden_size == 192
    assert examine.describe(str(embedded("demo-moe")))[0].num_experts == 8
    monkeypatch.setattr(
        "qwen3_mlx.hub.huggingface.cached", lambda repo: embedded("demo") if repo == "org/here" else None
    )
    assert examine.describe("org/here")[0].hidden_size == 192
    for name in ("org/elsewhere", "modelscope:org/here"):
        with pytest.raises(ModelNotFound, match=r"doctor downloads nothing: name its size \(qwen3:0.6b"):
            examine.describe(name)
    with pytest.raises(ModelNotFound, match="did you mean"):
        examine.describe("qwen3:5b")


def test_a_folder_says_how_it_is_packed(tmp_path: Path) -> None:
    config = json.loads((embedded("demo-moe") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization": {"bits": 8, "group_size": 32}}))
    found = examine.uses([str(tmp_path)], everything=False)
    assert {use.parameters[4:6] for use in found if use.trial.kernel == "moe_down"} == {(8, 32)}
    assert {use.models for use in found} == {(str(tmp_path),)}


def test_a_checkpoint_in_float16_runs_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((embedded("demo") / "config.json").read_bytes())
    for dtype in (mx.float16, mx.bfloat16, mx.float32):
        mx.save_safetensors(str(tmp_path / "model.safetensors"), {"model.norm.weight": mx.ones((192,), dtype)})
        found = [use.parameters[0] for use in examine.uses([str(tmp_path)], everything=False)]
        assert (mx.float16 in found, mx.bfloat16 in found) == (dtype == mx.float16, dtype != mx.float16)


def test_without_a_name_all_are_meant() -> None:
    some, everything = examine.uses([], everything=False), examine.uses([], everything=True)
    keys = {use.key for use in everything}
    assert {use.key for use in some} < keys and len(keys) == len(everything)
    assert {model for use in some for model in use.models} == {*RELEASED, "demo", "demo-moe"}
    one = examine.uses(["qwen3:4b"], everything=True)
    assert 5 < len(one) < len(some) and {use.models for use in one} == {("qwen3:4b",)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done on a Mac, at small sizes and on a clock of our own."""
    real_case, real_measure, real_sweep = cases.case, timing.measure, sweep.sweep
    monkeypatch.setattr(cases, "case", lambda use: real_case(use, 1 << 14, 300))
    monkeypatch.setattr(timing, "measure", lambda case, limit: real_measure(case, limit, Clock([0.1]), 1))
    monkeypatch.setattr(sweep, "TOKENS", (520,))
    monkeypatch.setattr(sweep, "SIZES", (128, 256))
    monkeypatch.setattr(sweep, "sweep", lambda use, tokens: real_sweep(use, tokens, 1 << 14, Clock([0.1]), 1))


def run(small: list[Use], folder: Path) -> Findings:
    found = Findings()
    for step in examine.steps(small, Verifier(Store(folder)), Limit(400, 400), timed=True):
        step.run(found)
    return found


@pytest.mark.usefixtures("quick", "emulated")
def test_everything_is_checked_then_timed_then_swept(small: list[Use], tmp_path: Path) -> None:
    found = run(small, tmp_path)
    assert found.good and not found.problems
    assert len(found.checked) == len(small) == len(found.timed) and len(found.sweeps) == 1
    assert all(each.share for each in found.timed.values())
    words = [step.what.split()[0] for step in examine.steps(small, Verifier(Store(tmp_path)), None, timed=True)]
    assert words == ["checking"] * len(small) + ["timing"] * len(small) + ["block"]
    assert len(list(examine.steps(small, Verifier(Store(tmp_path)), None, timed=False))) == len(small)


@pytest.mark.usefixtures("quick")
def test_a_wrong_kernel_is_not_launched_again(small: list[Use], tmp_path: Path) -> None:
    with standing_in(swapping("decode_attention_merge", "out[", "out[0 * ")):
        found = run(small, tmp_path)
    wrong = {("decode_attention", each.parameters) for each in found.bad}
    assert not found.good and wrong and all(kernel == "decode_attention" for kernel, _ in wrong)
    assert not found.sweeps and not wrong & set(found.timed)
    assert len(found.timed) == len(small) - len(wrong)


@pytest.mark.usefixtures("quick", "emulated")
def test_what_cannot_be_timed_is_a_problem_and_not_the_end(
    small: list[Use], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("[metal::malloc] Unable to\nallocate 9 bytes.")

    monkeypatch.setattr(sweep, "sweep", refuse)
    monkeypatch.setattr(cases, "case", lambda use: refuse() if use.trial.kernel == "router" else None)
    found = run(small, tmp_path)
    assert found.good and not found.timed
    assert sum("nothing to compare it with yet" in problem for problem in found.problems) == len(small) - 1
    assert sum("was not timed: [metal::malloc] Unable to allocate 9" in problem for problem in found.problems) == 1
    assert "at 520 tokens were not timed: [metal" in found.problems[-1]


@pytest.mark.usefixtures("quick", "emulated")
def test_a_mistake_of_ours_is_not_hidden(small: list[Use], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "case", lambda use: use.no_such_thing)
    with pytest.raises(AttributeError):
        run(small, tmp_path)
