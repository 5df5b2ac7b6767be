"""A check finds a wrong kernel, says what the compiler said, and is the machine's verdict on a machine."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.doctor import check
from qwen3_mlx.doctor.catalogue import Use
from qwen3_mlx.kernels import verify
from qwen3_mlx.kernels.metal_source import standing_in
from qwen3_mlx.kernels.verdicts import Store, Verdict
from qwen3_mlx.kernels.verify import Verifier, subject
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)
from tests.metal.wrong import swapping


def router(small: list[Use]) -> Use:
    return next(use for use in small if use.trial.kernel == "router")


@pytest.mark.usefixtures("emulated")
def test_a_good_kernel(small: list[Use], tmp_path: Path) -> None:
    done = check.check(router(small), Verifier(Store(tmp_path)))
    assert done.good and done.error is not None and 0 < done.error <= 1
    assert done.parameters == ("bfloat16", "8", "2", "True", "False")
    assert done.names == ("dtype", "experts", "top_k", "normalise", "few")
    assert done.models == ("demo-moe",) and len(done.source) == 64
    assert not list(tmp_path.iterdir())  # an emulator's verdict is not the machine's


def test_a_wrong_kernel(small: list[Use], tmp_path: Path) -> None:
    with standing_in(swapping("router", "shares[k] / total", "shares[k]")):
        done = check.check(router(small), Verifier(Store(tmp_path)))
    assert done.verdict == "differs" and done.error is not None and done.error > 1
    assert "times the tolerance" in done.detail


def test_a_kernel_that_does_not_compile_keeps_the_whole_message(small: list[Use], tmp_path: Path) -> None:
    with standing_in(swapping("router", "uint lane", "this is no Metal; uint lane")):
        done = check.check(router(small), Verifier(Store(tmp_path)))
    assert not done.good and done.error is None
    assert "error:" in done.detail and len(done.detail.splitlines()) > 2


def test_what_is_not_a_number_is_no_error(small: list[Use], tmp_path: Path) -> None:
    with standing_in(swapping("router", "chosen[k] = last_index", "chosen[k] = 0")):
        done = check.check(router(small), Verifier(Store(tmp_path)))
    assert done.verdict == "differs" and done.error is None and "inf" in done.detail


@pytest.mark.usefixtures("emulated")
def test_a_check_replaces_what_a_machine_keeps(
    small: list[Use], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_is_mlx", lambda _: True)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    use, store = router(small), Store(tmp_path)
    about = subject(use.trial, use.parameters)
    for former in ("refused", "trying", "differs"):
        store.write(about, Verdict(former, str(os.getpid())))  # type: ignore[arg-type]
        assert check.check(use, Verifier(store)).good
        assert (held := store.read(about)) is not None and held.good
    (kept,) = check.held(store)
    assert kept.current and not kept.bad
    assert (kept.kernel, kept.parameters, kept.verdict) == ("router", check.spelled(use.parameters), "good")


def test_verdicts_of_other_versions_are_no_complaint(small: list[Use], tmp_path: Path) -> None:
    use, store = router(small), Store(tmp_path)
    about = subject(use.trial, use.parameters)
    store.write(about, Verdict("refused", "line 1\nline 2"))
    for part in ("source", "mlx", "chip", "os"):
        store.write({**about, part: "another"}, Verdict("refused", "old"))
    store.write({**about, "kernel": "gone"}, Verdict("differs", "old"))
    store.write({"kernel": "router"}, Verdict("differs", "not a subject of ours"))
    (tmp_path / "other.json").write_text("{")
    held = check.held(store)
    assert len(held) == 7 and [each.detail for each in held if each.bad] == ["line 1\nline 2"]
