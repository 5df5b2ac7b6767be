"""Whether a Metal kernel may be used here: each instantiation is tried once against the reference before its first use.

No GPU was at hand when the kernels were written, and Apple's compiler and chips change: so a kernel is not believed, it
is checked on the machine it runs on: each instantiation is compiled and run once there, on small inputs.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from .metal_source import factory, source
from .verdicts import Store, Verdict

_NO_METAL = Verdict("failed", "MLX finds no Apple GPU on this machine")
#: What all trials are made of, beside their own modules.
_COMMON = tuple(str(Path(__file__).with_name(f"{name}.py")) for name in ("metal_source", "reference", "tolerance"))


class Trial(NamedTuple):
    """How a kernel is tried.

    ``error(*parameters)`` launches the instantiation with these compile-time parameters on small random inputs and
    returns a scalar: its largest error, in units of what is tolerated. ``sources`` name the Metal files it is made of,
    ``launchers`` the Python files that launch it: when they change, or the module of ``error``, it is tried again.
    """

    kernel: str
    sources: tuple[str, ...]
    launchers: tuple[str, ...]
    error: Callable[..., mx.array]


#: ``trusts(trial, *parameters)``: whether this instantiation may be launched.
Trusts = Callable[..., bool]


class Verifier:
    """Remembers which kernels are good; asks ``store`` first, then tries them out.

    The first bad verdict on a kernel is a ``RuntimeWarning``, and so is the lack of Metal; there are no others. May be
    used from several threads.
    """

    def __init__(self, store: Store) -> None:
        self.verdicts: dict[tuple[Any, str, tuple[Hashable, ...]], Verdict] = {}
        self._store = store
        self._warned: set[str] = set()
        self._lock = threading.RLock()  # a trial may launch what is itself asked for here

    def trusts(self, trial: Trial, *parameters: Hashable) -> bool:
        """Whether the instantiation may be used. Tried on first use; a look into a dictionary from then on.

        Safe while a graph is being built: only arrays of its own are evaluated. Raises what the caller's own work that
        is still under way raises.
        """
        key = (factory(), trial.kernel, parameters)
        verdict = self.verdicts.get(key)
        return (self._decide(key, trial) if verdict is None else verdict).good

    def retry(self, trial: Trial, *parameters: Hashable) -> Verdict:
        """The verdict of a new trial, whatever is known of the instantiation; kept as others are, and no warning."""
        make = factory()
        with self._lock:
            verdict = self.verdicts[make, trial.kernel, parameters] = self._find(make, trial, parameters, again=True)
        return verdict

    def _decide(self, key: tuple[Any, str, tuple[Hashable, ...]], trial: Trial) -> Verdict:
        with self._lock:
            if (verdict := self.verdicts.get(key)) is not None:
                return verdict
            verdict = self.verdicts[key] = self._find(key[0], trial, key[2])
            about = "Metal kernels are" if verdict is _NO_METAL else f"the Metal kernel {trial.kernel} is"
            new = not verdict.good and about not in self._warned
            if new:
                self._warned.add(about)
        if new:
            message = f"{about} not used, MLX's own operations take over: {_line(verdict.detail)}"
            if verdict.kind == "refused":
                message += " (qwen3-mlx doctor shows the whole message)"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return verdict

    def _find(self, make: Any, trial: Trial, parameters: tuple[Hashable, ...], again: bool = False) -> Verdict:
        if not _is_mlx(make):
            return _try(trial, parameters)  # what a stand-in does says nothing about the machine
        if not mx.metal.is_available():
            return _NO_METAL
        try:
            about = subject(trial, parameters)
        except (OSError, ValueError) as problem:  # the package is not whole
            return Verdict("failed", str(problem))
        verdict = None if again else self._store.read(about)
        if verdict is None or (verdict.kind == "trying" and _runs(verdict.detail)):
            return self._try_and_keep(about, trial, parameters)
        if verdict.kind == "trying":
            where = self._store.path(about)
            remedy = f"run qwen3-mlx doctor --kernels, or delete {where}"
            return Verdict("failed", f"a former process ended during its trial; to try it again, {remedy}")
        return verdict

    def _try_and_keep(self, about: dict[str, Any], trial: Trial, parameters: tuple[Hashable, ...]) -> Verdict:
        """A kernel may end or hang the process: the note that is on disk during the trial then remains."""
        mx.synchronize()  # the caller's own work may do so too
        self._store.write(about, Verdict("trying", str(os.getpid())))
        try:
            verdict = _try(trial, parameters)
        finally:
            self._store.remove(about)
        if verdict.kind != "failed":  # such as being out of memory: the next run may have more luck
            self._store.write(about, verdict)
        return verdict


def _is_mlx(make: Any) -> bool:
    return getattr(make, "__module__", None) == mx.fast.__name__


def _try(trial: Trial, parameters: tuple[Hashable, ...]) -> Verdict:
    mx.synchronize()  # an error of the caller's own work is not the kernel's
    try:
        error = float(trial.error(*parameters).item())  # type: ignore[arg-type]
        mx.synchronize()  # Metal may tell of a failed command only now, with zeros for a result
    except Exception as problem:  # whatever it is, the stock path still works
        text = str(problem)
        return Verdict("refused" if _is_lasting(text) else "failed", text or type(problem).__name__)
    finally:
        mx.clear_cache()  # what it took is not needed again
    if error <= 1:
        return Verdict("good", f"{error:.3g} of the tolerance", error)
    return Verdict("differs", f"it differs from the reference by {error:.3g} times the tolerance", error)


def _is_lasting(message: str) -> bool:
    """Whether MLX's message is about the kernel: that its source does not compile, or that its threadgroups are too
    large. The compiler is a process of its own (MTLCompilerService, reached by XPC), which may also be lost."""
    unbuilt = "Unable to build metal library from source" in message and "error:" in message
    lost = "XPC" in message or "MTLCompilerService" in message
    return (unbuilt and not lost) or "Thread group size" in message


def _line(detail: str) -> str:
    """The line that says most."""
    lines = detail.strip().split("\n")
    return next((line for line in lines if "error:" in line), lines[0])


def _runs(pid: str) -> bool:
    """Whether this process runs, if it was one of this host."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # it is another user's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def subject(trial: Trial, parameters: tuple[Hashable, ...]) -> dict[str, Any]:
    """What a verdict depends on: the kernel and its trial as they are written, the parameters, and the machine."""
    import hashlib
    import platform

    text = hashlib.sha256()
    own = str(sys.modules[trial.error.__module__].__file__)
    for file in (*trial.launchers, own, *_COMMON):
        text.update(Path(file).read_bytes())
    for name in trial.sources:
        text.update(source(name).encode())
    return {
        "kernel": trial.kernel,
        "parameters": [str(parameter) for parameter in parameters],
        "source": text.hexdigest(),
        "chip": str(mx.device_info().get("device_name")),
        "os": platform.mac_ver()[0] or platform.release(),
        "mlx": mx.__version__,  # type: ignore[attr-defined]
    }
