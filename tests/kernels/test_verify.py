"""A kernel is tried once, remembered for this machine, and spoken of once."""

from __future__ import annotations

import importlib
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.kernels import verify
from qwen3_mlx.kernels.moe_trials import ROUTER
from qwen3_mlx.kernels.verdicts import Store
from qwen3_mlx.kernels.verify import Verifier

from .tried import Tried, told


@pytest.mark.usefixtures("mac")
def test_a_good_kernel_is_tried_once_on_a_machine(tmp_path: Path) -> None:
    tried = Tried(0.9)
    verifier = Verifier(Store(tmp_path))
    assert not told(lambda: [verifier.trusts(tried.trial, mx.bfloat16, 8, True) for _ in range(5)])
    assert verifier.trusts(tried.trial, mx.bfloat16, 8, True)
    assert tried.parameters == [(mx.bfloat16, 8, True)]
    assert Verifier(Store(tmp_path)).trusts(tried.trial, mx.bfloat16, 8, True)
    assert len(tried.parameters) == 1
    for other in ((mx.float16, 8, True), (mx.bfloat16, 9, True), (mx.bfloat16, 8, False)):
        assert verifier.trusts(tried.trial, *other)
    assert len(tried.parameters) == 4


@pytest.mark.usefixtures("mac")
def test_it_can_be_tried_again(tmp_path: Path) -> None:
    """Whatever was found before, without a warning; the new verdict is the machine's from then on."""
    tried = Tried(2.0)
    verifier = Verifier(Store(tmp_path))
    assert len(told(lambda: verifier.trusts(tried.trial, 1))) == 1
    tried.outcome = 0.5
    assert not verifier.trusts(tried.trial, 1)
    verdicts = []
    assert not told(lambda: verdicts.append(verifier.retry(tried.trial, 1)))
    assert verdicts[0].good and verdicts[0].error == 0.5
    assert verifier.trusts(tried.trial, 1) and Verifier(Store(tmp_path)).trusts(tried.trial, 1)
    tried.outcome = 3.0
    assert verifier.retry(tried.trial, 1).error == 3.0
    assert not verifier.trusts(tried.trial, 1)
    assert len(told(lambda: Verifier(Store(tmp_path)).trusts(tried.trial, 1))) == 1
    assert len(tried.parameters) == 3


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("outcomes", [(0.5, 2.0), (0.5, 2.0, 3.0), (2.0, 0.5, 3.0)])
def test_a_bad_instantiation_after_a_good_one_is_spoken_of(tmp_path: Path, outcomes: tuple[float, ...]) -> None:
    verifier, tried = Verifier(Store(tmp_path)), Tried(0.0)

    def use() -> None:
        for size, tried.outcome in enumerate(outcomes):
            assert verifier.trusts(tried.trial, size) == (tried.outcome <= 1)

    assert len(told(use)) == 1


@pytest.mark.usefixtures("mac")
def test_a_changed_source_launcher_or_machine_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(0.1)
    trial = tried.trial
    assert Verifier(Store(tmp_path)).trusts(trial)
    assert Verifier(Store(tmp_path)).trusts(trial._replace(sources=("affine", "router")))
    assert len(tried.parameters) == 2
    launcher = tmp_path / "launcher.py"
    launcher.write_text("1")
    assert Verifier(Store(tmp_path)).trusts(trial._replace(launchers=(__file__, str(launcher))))
    launcher.write_text("2")
    assert Verifier(Store(tmp_path)).trusts(trial._replace(launchers=(__file__, str(launcher))))
    assert len(tried.parameters) == 4
    monkeypatch.setattr(verify, "source", lambda name: "another text")
    assert Verifier(Store(tmp_path)).trusts(trial)
    assert len(tried.parameters) == 5
    monkeypatch.setattr(mx, "__version__", "9.9")
    assert Verifier(Store(tmp_path)).trusts(trial)
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "Apple M9"})
    assert Verifier(Store(tmp_path)).trusts(trial)
    monkeypatch.setattr("platform.mac_ver", lambda: ("30.1", ("", "", ""), "arm64"))
    assert Verifier(Store(tmp_path)).trusts(trial)
    assert len(tried.parameters) == 8


@pytest.mark.usefixtures("mac")
def test_a_changed_trial_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own module, and what it takes from others."""
    code = (
        "import mlx.core as mx\ncount = 0\ndef error():\n    global count\n    count += 1\n    return mx.array(0.5)\n"
    )
    (tmp_path / "some_trial.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("some_trial")
    trial, common = Tried(0.5).trial._replace(error=module.error), [tmp_path / "a.py", tmp_path / "b.py"]
    assert {Path(file).stem for file in verify._COMMON} == {"metal_source", "reference", "tolerance"}
    monkeypatch.setattr(verify, "_COMMON", common)
    for file in common:
        file.write_text("1")
    for count, changed in enumerate([tmp_path / "some_trial.py", *common], 1):
        for _ in range(2):
            assert Verifier(Store(tmp_path / "kept")).trusts(trial) and module.count == count
        changed.write_text(changed.read_text() + "# changed")


@pytest.mark.usefixtures("mac")
def test_a_kernel_whose_files_are_gone_or_damaged_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(0.5)
    verifier = Verifier(Store(tmp_path))
    for missing in (
        tried.trial._replace(sources=("no such file",)),
        tried.trial._replace(launchers=("/no/such/file",)),
    ):
        assert len(told(lambda trial=missing: verifier.trusts(trial._replace(kernel=trial.launchers[0])))) == 1
    (tmp_path / "router.metal").write_bytes(b"// \xc3\xa9")
    monkeypatch.setattr("qwen3_mlx.kernels.metal_source.FOLDER", tmp_path)
    assert len(told(lambda: verifier.trusts(tried.trial))) == 1
    assert not tried.parameters


@pytest.mark.usefixtures("mac", "stand_in")
def test_the_verdict_on_a_stand_in_is_not_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = Tried(0.5)
    verifier = Verifier(Store(tmp_path))
    assert verifier.trusts(tried.trial, 1) and verifier.trusts(tried.trial, 1)
    assert len(tried.parameters) == 1 and not list(tmp_path.iterdir())
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **_: "another")
    assert verifier.trusts(tried.trial, 1)
    assert len(tried.parameters) == 2


@pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")
def test_without_metal_nothing_is_tried_and_one_line_says_so(tmp_path: Path) -> None:
    tried, other = Tried(0.5), Tried(0.5, "moe_down")
    verifier = Verifier(Store(tmp_path))
    (message,) = told(lambda: [verifier.trusts(t.trial, n) for t in (tried, other) for n in (1, 2)])
    assert "no Apple GPU" in message
    assert not tried.parameters and not other.parameters and not list(tmp_path.iterdir())


def test_it_may_be_asked_while_a_graph_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a router in MLX's operations for the kernel."""
    verifier, launches = Verifier(Store()), 0

    def route(*, inputs: list[mx.array], template: list[tuple[str, int]], **_: Any) -> list[mx.array]:
        nonlocal launches
        launches += 1
        (logits,), top_k = inputs, dict(template)["TOP_K"]
        wide = logits.astype(mx.float32)
        numbers = mx.where(mx.isnan(wide), -mx.inf, wide)
        chosen = mx.argsort(-numbers, axis=1)[:, :top_k]
        weights = mx.softmax(mx.take_along_axis(numbers, chosen, axis=1), axis=1)
        return [chosen, mx.where(mx.any(mx.isnan(wide), axis=1, keepdims=True), mx.nan, weights)]

    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **_: route)

    def trusting(x: mx.array) -> mx.array:
        return x + 1 if verifier.trusts(ROUTER, mx.bfloat16, 8 * x.size, 2, True, False) else x

    seen: list[str] = []
    mx.export_function(lambda info: seen.append(info.get("name", "")), trusting, mx.zeros((3,)))
    assert "Add" in seen
    assert mx.compile(trusting)(mx.zeros((4,))).tolist() == [1.0] * 4
    lazy = trusting(mx.zeros((5,)))
    assert lazy.tolist() == [1.0] * 5 and launches == 3


@pytest.mark.usefixtures("stand_in")
def test_a_trial_may_ask_too() -> None:
    verifier, inner = Verifier(Store()), Tried(0.5, "moe_down")

    def error() -> mx.array:
        return mx.array(0.0 if verifier.trusts(inner.trial) else 9.0)

    thread = threading.Thread(target=verifier.trusts, args=(Tried(0.5).trial._replace(error=error),), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and len(inner.parameters) == 1


@pytest.mark.usefixtures("stand_in")
def test_threads_that_ask_together_share_one_trial() -> None:
    verifier, start = Verifier(Store()), threading.Barrier(4)
    tried = Tried(2.0)

    def slow(*parameters: Any) -> mx.array:
        time.sleep(0.05)
        return tried.error(*parameters)

    trial, answers = tried.trial._replace(error=slow), []

    def ask() -> None:
        start.wait()
        answers.append(verifier.trusts(trial, 1))

    def run() -> None:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(told(run)) == 1
    assert answers == [False] * 4 and len(tried.parameters) == 1
