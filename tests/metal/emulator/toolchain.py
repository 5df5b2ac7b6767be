"""Compiles the runtime and translated kernels to shared objects, cached by content outside the repository."""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .errors import CompileError, NoCompilerError

HERE = Path(__file__).resolve().parent
INCLUDE = HERE / "include"
_SYSTEM_HEADERS = [
    "metal_stdlib",
    "metal_simdgroup",
    "metal_math",
    "metal_atomic",
    "metal_simdgroup_matrix",
    "metal_logging",
    "metal_common",
    "metal_compute",
    "metal_integer",
    "metal_geometric",
    "metal_relational",
    "metal_numeric",
    "metal_types",
    "metal_type_traits",
    "metal_array",
    "metal_limits",
    "metal_pack",
    "metal_matrix",
    "metal_extended_vector",
]
# Headers whose content the shim already has, in a form that only Apple's compiler understands.
_REPLACED_HEADERS = ("mlx/backend/metal/kernels/bf16_math.h",)

_COMMON = ["-std=c++20", "-w", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-fsigned-char", "-fwrapv"]
_COMMON += ["-fno-math-errno", "-fvisibility-inlines-hidden"]
_COMMON += ["-fno-finite-loops"]  # C++ may drop a loop that never ends; a GPU hangs in it
# What would merge or copy call sites is off where call sites are compared and loads are counted.
_COUNTED = ["-fno-thread-jumps", "-fno-crossjumping", "-fno-reorder-blocks", "-fno-tree-tail-merge", "-fno-tree-sra"]
_COUNTED += ["-fno-tree-vectorize", "-fno-ipa-icf", "-fno-store-merging"]
MODES = {
    "plain": [*_COMMON, "-O2"],
    "instrumented": [*_COMMON, "-O1", "-fsanitize=thread", *_COUNTED],
    "checking": [*_COMMON, "-O0", "-DEMU_ADDRESS_SPACES"],
}


@functools.cache
def compiler() -> str:
    """The C++ compiler: $CXX, else g++.

    Raises:
        NoCompilerError: there is none.
    """
    for name in (os.environ.get("CXX"), "g++"):
        if name and (found := shutil.which(name)):
            return found
    raise NoCompilerError("no C++ compiler: install g++ or set CXX")


@functools.cache
def _version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def cache() -> Path:
    """The folder of compiled kernels: $METAL_EMULATOR_CACHE, else one of this user's in the temporary folder."""
    chosen = os.environ.get("METAL_EMULATOR_CACHE")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"metal-emulator-{getpass.getuser()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _hash(*parts: object) -> str:
    digest = hashlib.sha256()
    for part in (_version(), *parts):
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:24]


@functools.cache
def _shim_hash() -> str:
    files = sorted(p for p in INCLUDE.rglob("*") if p.is_file())
    return _hash(*(p.read_bytes() for p in files))


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{what} does not compile:\n{done.stderr[:6000]}")


def _build(target: Path, command: Sequence[str], what: str) -> Path:
    """Runs a command whose last argument is the output, unless the target exists."""
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            made = Path(folder) / target.name
            _run([*command, "-o", str(made)], what)
            os.replace(made, target)
    return target


@functools.cache
def runtime() -> Path:
    """The shared object of fibers, memory and checks."""
    sources = sorted((HERE / "runtime").glob("*.cpp"))
    texts = [p.read_bytes() for p in (*sources, *sorted((HERE / "runtime").glob("*.h")))]
    target = cache() / f"libemu-{_hash(_shim_hash(), *texts)}.so"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-fno-omit-frame-pointer"]
    return _build(target, [compiler(), *flags, *map(str, sources)], "the emulator's runtime")


@functools.cache
def _system_headers() -> Path:
    """Empty files for what a kernel includes: the shim is already there when it is compiled."""
    folder = cache() / f"headers-{_hash(*_SYSTEM_HEADERS, *_REPLACED_HEADERS)}"
    for name in (*_SYSTEM_HEADERS, *_REPLACED_HEADERS):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@functools.cache
def _precompiled(mode: str) -> Path:
    folder = cache() / f"shim-{_hash(_shim_hash(), mode, *MODES[mode])}"
    folder.mkdir(exist_ok=True)
    header = folder / "shim.h"
    if not header.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as made:  # another process must not see half of it
            (Path(made) / "shim.h").write_text(f'#include "{INCLUDE / "emu" / "metal.h"}"\n')
            os.replace(Path(made) / "shim.h", header)
    _build(folder / "shim.h.gch", [compiler(), *MODES[mode], "-x", "c++-header", str(header)], "the shim")
    return header


def preprocess(source: str, include: Sequence[Path], defines: Sequence[str] = ()) -> str:
    """Expands includes and macros, as Metal's compiler would see them."""
    command = [compiler(), "-E", "-x", "c++", "-std=c++20", "-undef", "-D__METAL__=1", "-D__METAL_VERSION__=320"]
    command += ["-D__cplusplus=201703L", "-D__HAVE_BFLOAT__=1", *(f"-D{d}" for d in defines)]
    command += [f"-I{_system_headers()}", *(f"-I{p}" for p in include), "-w", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"the source cannot be preprocessed:\n{done.stderr[:6000]}")
    return done.stdout


def kernel(cpp: str, mode: str, what: str) -> Path:
    """A translated kernel as a shared object."""
    stem = f"kernel-{_hash(_shim_hash(), cpp, mode, *MODES[mode])}"
    target = cache() / f"{stem}.so"
    if target.exists():
        return target
    header = _precompiled(mode)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        source = Path(folder) / "kernel.cpp"
        source.write_text(cpp)
        object_file = Path(folder) / "kernel.o"
        _run([compiler(), *MODES[mode], "-include", str(header), "-c", str(source), "-o", str(object_file)], what)
        # Linked without the sanitizer: its calls are answered by the runtime.
        made = Path(folder) / target.name
        _run([compiler(), "-shared", str(object_file), "-o", str(made)], what)
        os.replace(made, target)
    return target


def check(cpp: str, what: str) -> str:
    """Compiles with pointers that know their address space; the call graph of the kernel as GCC writes it.

    Raises:
        CompileError: it does not compile.
    """
    target = cache() / f"graph-{_hash(_shim_hash(), cpp, *MODES['checking'])}.ci"
    if not target.exists():
        # GCC 12 crashes on a call graph with a precompiled header.
        header = INCLUDE / "emu" / "metal.h"
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            source = Path(folder) / "kernel.cpp"
            source.write_text(cpp)
            flags = ["-include", str(header), "-fcallgraph-info", "-S", str(source), "-o", f"{folder}/kernel.s"]
            _run([compiler(), *MODES["checking"], *flags], what)
            os.replace(Path(folder) / "kernel.ci", target)
    return target.read_text()
