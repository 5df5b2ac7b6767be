"""What goes wrong in a trial: whose error it is, whether it is kept, and what a process that ended has left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.kernels.verdicts import Store, Verdict
from qwen3_mlx.kernels.verify import Verifier, subject

from .tried import Tried, told

UNBUILT = "[metal::Device] Unable to build metal library from source\n"
REFUSED = RuntimeError(UNBUILT + "program_source:2:1: warning: unused\nprogram_source:3:1: error: no")
TOO_LARGE = RuntimeError("Thread group size (512) is greater than  the maximum allowed threads per threadgroup (448).")
BAD: dict[str, float | Exception] = {
    "differs": 1.5,
    "nan": float("nan"),
    "refused": REFUSED,
    "too large": TOO_LARGE,
    "failed": MemoryError(),
    "not built": RuntimeError(UNBUILT),
    "no connection": RuntimeError(UNBUILT + "error: Compiler encountered XPC_ERROR_CONNECTION_INTERRUPTED"),
    "no compiler": RuntimeError(UNBUILT + "error: lost MTLCompilerService"),
    "out of memory": RuntimeError("[metal::malloc] Unable to allocate 9 bytes."),
    "no pipeline": RuntimeError("[metal::Device] Unable to load kernel qwen3_router"),
}
KEPT = {"differs": "differs", "nan": "differs", "refused": "refused", "too large": "refused"}


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
    assert ("qwen3-mlx doctor shows" in message) == (KEPT.get(bad) == "refused")
    assert not told(use)
    assert len(tried.parameters) == 2


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("bad", BAD)
def test_what_a_bad_kernel_leaves_on_disk(tmp_path: Path, bad: str) -> None:
    """The whole message; but nothing that may go better the next time."""
    tried = Tried(BAD[bad])
    told(lambda: Verifier(Store(tmp_path)).trusts(tried.trial, 1))
    held = Store(tmp_path).read(subject(tried.trial, (1,)))
    assert (held.kind if held else None) == KEPT.get(bad)
    if held is None:
        assert not list(tmp_path.iterdir())
    elif held.kind == "refused":
        assert held.detail == str(BAD[bad])
    assert len(told(lambda: Verifier(Store(tmp_path)).trusts(tried.trial, 1))) == 1
    assert len(tried.parameters) == (1 if bad in KEPT else 2)


@pytest.mark.usefixtures("mac")
def test_a_warning_shows_the_compilers_error(tmp_path: Path) -> None:
    (message,) = told(lambda: Verifier(Store(tmp_path)).trusts(Tried(REFUSED).trial))
    assert ": program_source:3:1: error: no (" in message
    (message,) = told(lambda: Verifier(Store(tmp_path)).trusts(Tried(RuntimeError("one\ntwo")).trial, 1))
    assert message.endswith(": one")


class Device:
    """Its ``synchronize`` raises what is ``pending``."""

    def __init__(self) -> None:
        self.pending: str | None = None

    def synchronize(self) -> None:
        if self.pending is not None:
            text, self.pending = self.pending, None
            raise RuntimeError(text)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(mx, "synchronize", device.synchronize)
    return device


@pytest.mark.usefixtures("mac")
def test_the_callers_own_error_is_not_the_kernels(tmp_path: Path, device: Device) -> None:
    verifier, tried = Verifier(Store(tmp_path)), Tried(0.5)
    device.pending = "the caller's"
    with pytest.raises(RuntimeError, match="the caller's"):
        verifier.trusts(tried.trial)
    assert not tried.parameters and not list(tmp_path.iterdir())
    assert verifier.trusts(tried.trial)


@pytest.mark.usefixtures("stand_in")
def test_the_callers_own_error_is_not_a_stand_ins(device: Device) -> None:
    device.pending = "the caller's"
    with pytest.raises(RuntimeError, match="the caller's"):
        Verifier(Store()).trusts(Tried(0.5).trial)


@pytest.mark.usefixtures("mac")
def test_an_error_that_metal_reports_late_is_the_kernels(tmp_path: Path, device: Device) -> None:
    """As of a command buffer that failed: the result reads 0, which would be no error at all."""

    def error() -> mx.array:
        device.pending = "[METAL] Command buffer execution failed"
        return mx.array(0.0)

    trial = Tried(0.0).trial._replace(error=error)
    (message,) = told(lambda: Verifier(Store(tmp_path)).trusts(trial))
    assert "Command buffer" in message and not list(tmp_path.iterdir())


DEADLY = """
import os
import mlx.core as mx
from qwen3_mlx.kernels.verdicts import Store
from qwen3_mlx.kernels.verify import Trial, Verifier

mx.metal.is_available = lambda: True

def trusts(store):
    return Verifier(store).trusts(Trial("router", ("router",), (__file__,), lambda: os._exit(9)))
"""


def test_a_trial_that_ends_the_process_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    code = "import deadly, pathlib, sys; assert not deadly.trusts(deadly.Store(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "kept")]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    first, second = (
        subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True) for _ in range(2)
    )
    assert (first.returncode, second.returncode) == (9, 0)
    assert "a former process ended during its trial" in second.stderr


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("pid", ["", "9" * 9, "9" * 30])
def test_a_note_of_no_process_names_the_file_to_delete(tmp_path: Path, pid: str) -> None:
    tried, store = Tried(0.5), Store(tmp_path)
    about = subject(tried.trial, ())
    store.write(about, Verdict("trying", pid))
    verifier = Verifier(store)
    (message,) = told(lambda: [verifier.trusts(tried.trial) for _ in range(2)])
    (file,) = tmp_path.iterdir()
    assert message.endswith(f"delete {file}") and not tried.parameters
    file.unlink()
    assert Verifier(store).trusts(tried.trial)


@pytest.mark.usefixtures("mac")
def test_a_trial_leaves_a_note_while_it_runs(tmp_path: Path) -> None:
    store, during = Store(tmp_path), []

    def error() -> mx.array:
        during.append(store.read(subject(trial, ())))
        raise KeyboardInterrupt

    trial = Tried(0.5).trial._replace(error=error)
    with pytest.raises(KeyboardInterrupt):
        Verifier(store).trusts(trial)
    assert during == [Verdict("trying", str(os.getpid()))] and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("mac")
def test_a_kernel_that_another_process_is_trying_is_tried_here_too(tmp_path: Path) -> None:
    tried, store = Tried(0.5), Store(tmp_path)
    about = subject(tried.trial, ())
    for pid in (os.getppid(), 1):  # 1: often of another user
        store.write(about, Verdict("trying", str(pid)))
        assert Verifier(store).trusts(tried.trial)
    held = store.read(about)
    assert held is not None and held.good and len(tried.parameters) == 2
