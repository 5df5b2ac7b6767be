"""Runs a compiled kernel: arrays into guarded buffers, the launch, and what went wrong in words."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import toolchain
from .errors import (
    BY_CODE,
    KernelError,
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    ReadOnlyError,
    UninitialisedReadError,
    UnwrittenOutputError,
    WildAccessError,
)
from .report import BufferReport, Report
from .settings import Settings

_MAX_BUFFERS = 31
_lock = threading.Lock()
Three = tuple[int, int, int]


class _Spec(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("seed", ctypes.c_uint64),
        ("instrumented", ctypes.c_int32),
        ("line_bytes", ctypes.c_uint32),
        ("jitter_ulps", ctypes.c_int32),
        ("jitter_seed", ctypes.c_uint32),
        ("seconds", ctypes.c_double),
    )


_COUNTS = (
    "loads",
    "requested",
    "bytes",
    "lines",
    "distinct",
    "stores",
    "store_requested",
    "store_bytes",
    "store_lines",
)


class _Counts(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _COUNTS)


class _Result(ctypes.Structure):
    _fields_ = (
        ("error", ctypes.c_int32),
        ("slot", ctypes.c_int32),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int32),
        ("is_write", ctypes.c_int32),
        ("thread", ctypes.c_uint32 * 3),
        ("threadgroup", ctypes.c_uint32 * 3),
        ("other_thread", ctypes.c_int32),
        ("line", ctypes.c_int32),
        ("other_line", ctypes.c_int32),
        ("detail", ctypes.c_char * 160),
        ("threadgroups", ctypes.c_uint64),
        ("threads", ctypes.c_uint64),
        ("simdgroups", ctypes.c_uint64),
        ("barriers", ctypes.c_uint64),
        ("simdgroup_barriers", ctypes.c_uint64),
        ("simd_ops", ctypes.c_uint64),
        ("switches", ctypes.c_uint64),
        ("threadgroup_memory", ctypes.c_uint64),
        ("unwritten", ctypes.c_uint64 * _MAX_BUFFERS),
        ("first_unwritten", ctypes.c_uint64 * _MAX_BUFFERS),
        ("counts", _Counts * _MAX_BUFFERS),
    )


@functools.cache
def _runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(str(toolchain.runtime()), mode=ctypes.RTLD_GLOBAL)
    library.emu_buffer.restype = ctypes.c_void_p
    library.emu_buffer.argtypes = [ctypes.c_char_p, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64]
    library.emu_seal.argtypes = [ctypes.c_int32, ctypes.c_int32]
    library.emu_seal.restype = None
    library.emu_poison.argtypes = [ctypes.c_uint8]
    library.emu_poison.restype = None
    library.emu_written_before.restype = ctypes.c_int64
    library.emu_written_before.argtypes = [ctypes.c_int32]
    library.emu_slot_name.restype = ctypes.c_char_p
    library.emu_slot_size.restype = ctypes.c_uint64
    library.emu_launch.argtypes = [ctypes.POINTER(_Spec), ctypes.POINTER(_Result)]
    library.emu_free_all.restype = None
    return library


@functools.cache
def load(path: Path) -> int:
    """The address of a compiled kernel's entry."""
    _runtime()
    library = ctypes.CDLL(str(path))
    return ctypes.cast(library.emu_entry, ctypes.c_void_p).value or 0


@dataclass
class Buffer:
    """One buffer of a launch.

    Attributes:
        data: an input's bytes, or what an output holds before the launch; None for an output that holds nothing.
        size: bytes.
        writable: an output.
        item: bytes of one element.
    """

    name: str
    size: int
    data: bytes | None
    writable: bool
    item: int = 1


def run(
    kernel: str, entry: int, buffers: Sequence[Buffer], grid: Three, threadgroup: Three, settings: Settings
) -> tuple[dict[str, bytes], Report]:
    """Runs one launch; what the writable buffers hold afterwards, by name.

    Raises:
        LaunchError: the grid, the threadgroup or the buffers are not what Metal takes.
        KernelError: a thread did something wrong.
    """
    if len(buffers) > _MAX_BUFFERS:
        raise LaunchError(f"{kernel}: {len(buffers)} buffers, Metal binds {_MAX_BUFFERS}")
    if min(*grid, *threadgroup) < 1:
        raise LaunchError(f"{kernel}: a grid of {grid} by threadgroups of {threadgroup} has no threads")
    threadgroup = (min(grid[0], threadgroup[0]), min(grid[1], threadgroup[1]), min(grid[2], threadgroup[2]))
    if threadgroup[0] * threadgroup[1] * threadgroup[2] > 1024:
        raise LaunchError(f"{kernel}: a threadgroup of {threadgroup} has more than 1024 threads")
    with _lock:
        outputs, report, result = _run(kernel, entry, buffers, grid, threadgroup, settings, _POISONS[0])
        unwritten = [_Unwritten(result.unwritten[i], result.first_unwritten[i]) for i in range(len(buffers))]
        if not settings.instrumented and any(_poisoned(b, outputs, _POISONS[0]).any() for b in buffers):
            # A result may look like poison. Launches are deterministic: what nobody wrote changes with the poison.
            again, _, _ = _run(kernel, entry, buffers, grid, threadgroup, settings, _POISONS[1])
            unwritten = [_followed(b, outputs, again) for b in buffers]
    for buffer, left in zip(buffers, unwritten, strict=True):
        if left.count:
            raise UnwrittenOutputError(
                f"{kernel}: {left.count} of the {buffer.size} bytes of `{buffer.name}` were not written, "
                f"the first at byte {left.first}"
            )
    return outputs, report


_POISONS = (0xA5, 0x5A)


class _Unwritten(NamedTuple):
    """How many bytes of an output nobody wrote, and the first of them."""

    count: int
    first: int


def _poisoned(buffer: Buffer, outputs: Mapping[str, bytes], poison: int) -> np.ndarray:
    """The elements that look as they did before the launch; none of what the host wrote."""
    if not buffer.writable or buffer.data is not None or not buffer.size:
        return np.zeros(0, bool)
    return (np.frombuffer(outputs[buffer.name], np.uint8).reshape(-1, buffer.item) == poison).all(-1)


def _followed(buffer: Buffer, first: Mapping[str, bytes], second: Mapping[str, bytes]) -> _Unwritten:
    """What changed with the poison."""
    at = np.flatnonzero(_poisoned(buffer, first, _POISONS[0]) & _poisoned(buffer, second, _POISONS[1]))
    return _Unwritten(len(at) * buffer.item, int(at[0]) * buffer.item if len(at) else 0)


def _run(
    kernel: str,
    entry: int,
    buffers: Sequence[Buffer],
    grid: Three,
    threadgroup: Three,
    settings: Settings,
    poison: int,
) -> tuple[dict[str, bytes], Report, _Result]:
    try:
        return _launch(kernel, entry, buffers, grid, threadgroup, settings, poison)
    finally:
        _runtime().emu_free_all()


def _launch(
    kernel: str,
    entry: int,
    buffers: Sequence[Buffer],
    grid: Three,
    threadgroup: Three,
    settings: Settings,
    poison: int,
) -> tuple[dict[str, bytes], Report, _Result]:
    runtime = _runtime()
    runtime.emu_poison(poison)
    addresses = [_place(runtime, kernel, i, b) for i, b in enumerate(buffers)]
    spec = _Spec(
        entry,
        (ctypes.c_uint32 * 3)(*grid),
        (ctypes.c_uint32 * 3)(*threadgroup),
        settings.seed,
        settings.instrumented,
        settings.line_bytes,
        settings.jitter_ulps,
        settings.jitter_seed,
        settings.seconds,
    )
    result = _Result()
    started = time.perf_counter()
    runtime.emu_launch(ctypes.byref(spec), ctypes.byref(result))
    seconds = time.perf_counter() - started
    if result.error:
        raise _error(runtime, kernel, result)
    outputs = {}
    for i, (buffer, address) in enumerate(zip(buffers, addresses, strict=True)):
        if not buffer.writable:
            continue
        if offset := runtime.emu_written_before(i):
            raise OutOfBoundsError(f"{kernel}: a write at byte {offset} of `{buffer.name}` ({buffer.size} bytes)")
        outputs[buffer.name] = ctypes.string_at(address, buffer.size)
    return outputs, _report(kernel, buffers, grid, threadgroup, result, seconds, settings), result


def _place(runtime: ctypes.CDLL, kernel: str, index: int, buffer: Buffer) -> int:
    address = runtime.emu_buffer(buffer.name.encode(), int(buffer.writable), buffer.size, 16)
    if not address:
        raise LaunchError(f"{kernel}: no room for `{buffer.name}` ({buffer.size} bytes)")
    if buffer.data is not None and buffer.size:
        source = (
            (ctypes.c_char * buffer.size).from_buffer_copy(buffer.data)
            if not isinstance(buffer.data, bytes)
            else buffer.data
        )
        ctypes.memmove(address, source, buffer.size)
    runtime.emu_seal(index, int(buffer.data is not None))
    return address


_AT_AN_ADDRESS = (OutOfBoundsError, ReadOnlyError, UninitialisedReadError, MisalignedError, RaceError)


def _error(runtime: ctypes.CDLL, kernel: str, result: _Result) -> KernelError:
    kind = BY_CODE[result.error]
    where = f"{kernel}: thread {tuple(result.thread)} of threadgroup {tuple(result.threadgroup)}"
    detail = result.detail.decode(errors="replace")
    verb = "writes" if result.is_write else "reads"
    if kind is WildAccessError:
        return kind(f"{where} {verb} at address {result.offset:#x}, far from any buffer")
    if issubclass(kind, _AT_AN_ADDRESS):
        name = runtime.emu_slot_name(result.slot).decode()
        size = f" {result.size} bytes" if result.size else ""
        space = "buffer" if runtime.emu_slot_kind(result.slot) < 2 else "threadgroup variable"
        room = runtime.emu_slot_size(result.slot)
        what = f"{where} {verb}{size} at byte {result.offset} of {space} `{name}` ({room} bytes)"
        if kind is not RaceError:
            return kind(what)
        other = "another threadgroup"
        if result.other_thread >= 0:
            other = f"thread {result.other_thread} of the same threadgroup"
        return kind(f"{what} in a race {detail} by {other}")
    lines = [f"line {result.line}"] if result.line else []
    lines += [f"the others line {result.other_line}"] if result.other_line else []
    return kind(f"{where}: {detail}" + (f" ({', '.join(lines)})" if lines else ""))


def _report(
    kernel: str,
    buffers: Sequence[Buffer],
    grid: Three,
    threadgroup: Three,
    result: _Result,
    seconds: float,
    settings: Settings,
) -> Report:
    traffic = {
        b.name: BufferReport(b.size, **{name: getattr(result.counts[i], name) for name in _COUNTS})
        for i, b in enumerate(buffers)
    }
    fills = sum(b.writable and b.data is not None for b in buffers)
    return Report(
        kernel=kernel,
        grid=grid,
        threadgroup=threadgroup,
        dispatches=1 + fills,
        threadgroups=result.threadgroups,
        simdgroups=result.simdgroups,
        threads=result.threads,
        barriers=result.barriers,
        simdgroup_barriers=result.simdgroup_barriers,
        simd_ops=result.simd_ops,
        threadgroup_memory=result.threadgroup_memory,
        seconds=seconds,
        instrumented=settings.instrumented,
        buffers=traffic,
    )
