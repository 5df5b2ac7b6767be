"""A kernel is tried once, remembered for this machine, and spoken of once."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.kernels import verify
from qwen3_mlx.kernels.verdicts import Store, Verdict
from qwen3_mlx.kernels.verify import Trial, Verifier, subject


class Tried:
    """A trial that counts, with the result or the exception it is told to end with."""

    def __init__(self, outcome: float | Exception, kernel: str = "router") -> None:
        self.outcome = outcome
        self.parameters: list[tuple[Any, ...]] = []
        self.trial = Trial(kernel, ("router",), (__file__,), self.error)

    def error(self, *parameters: Any) -> mx.array:
        self.parameters.append(parameters)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return mx.array(self.outcome)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with Metal, as far as the verifier looks."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **_: None)


def told(action: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    assert all(warning.category is RuntimeWarning for warning in caught)
    return [str(warning.message) for warning in caught]


REFUSED = RuntimeError("[metal::Device] Unable to build metal library from source\nprogram_source:3:1: error: no")
BAD: dict[str, float | Exception] = {
    "differs": 1.5,
    "nan": float("nan"),
    "refused": REFUSED,
    "failed": MemoryError(),
}


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
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_kernel_is_spoken_of_once(tmp_path: Path, bad: str) -> None:
    tried, other = Tried(BAD[bad]), Tried(0.5, "moe_down")
    verifier = Verifier(Store(tmp_path))

    def use() -> None:
        for size in (1, 2, 1):
            assert not verifier.trusts(tried.trial, size)
            assert verifier.trusts(other.trial, size)

    (message,) = told(use)
    assert "router" in message and "MLX's own operations" in message and "\n" not in message
    assert not told(use)
    assert len(tried.parameters) == 2


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("bad", BAD)
def test_what_a_bad_kernel_leaves_on_disk(tmp_path: Path, bad: str) -> None:
    """The compiler's whole message; but nothing that may go better the next time."""
    tried = Tried(BAD[bad])
    told(lambda: Verifier(Store(tmp_path)).trusts(tried.trial, 1))
    held = Store(tmp_path).read(subject(tried.trial, (1,)))
    if bad == "failed":
        assert held is None
    elif bad == "refused":
        assert held == Verdict("refused", str(REFUSED))
    else:
        assert held is not None and held.kind == "differs"
    assert len(told(lambda: Verifier(Store(tmp_path)).trusts(tried.trial, 1))) == 1
    assert len(tried.parameters) == (2 if bad == "failed" else 1)


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
def test_a_kernel_whose_files_are_gone_is_not_used(tmp_path: Path) -> None:
    tried = Tried(0.5)
    verifier = Verifier(Store(tmp_path))
    for missing in (
        tried.trial._replace(sources=("no such file",)),
        tried.trial._replace(launchers=("/no/such/file",)),
    ):
        assert len(told(lambda trial=missing: verifier.trusts(trial._replace(kernel=trial.launchers[0])))) == 1
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


@pytest.mark.usefixtures("stand_in")
def test_it_may_be_asked_while_a_graph_is_built() -> None:
    verifier = Verifier(Store())
    tried = Tried(0.5)

    def trusting(x: mx.array) -> mx.array:
        return x + 1 if verifier.trusts(tried.trial, x.shape) else x

    seen: list[str] = []
    mx.export_function(lambda info: seen.append(info.get("name", "")), trusting, mx.zeros((3,)))
    assert "Add" in seen
    assert mx.compile(trusting)(mx.zeros((4,))).tolist() == [1.0] * 4
    lazy = trusting(mx.zeros((5,)))
    assert lazy.tolist() == [1.0] * 5 and len(tried.parameters) == 3


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
