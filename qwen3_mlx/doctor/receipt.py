"""What was found, as a file that says where and with what."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError
from .check import Checked, Held
from .examine import Findings
from .machine import Machine
from .sweep import Sweep
from .timing import Timing

SCHEMA = "qwen3-mlx/doctor"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Kernel:
    """An instantiation: what the check found, and how long it took, if it was timed."""

    checked: Checked
    timing: Timing | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """``mode``: which kernels ``auto`` takes here. ``emulated``: they were checked in the emulator, which says nothing
    about this machine. ``planned``: instantiations to check; 0 if only the machine was looked at. ``verdicts``: those
    that this machine keeps."""

    schema: str
    version: int
    made: str
    mode: str
    machine: Machine
    emulated: bool
    planned: int
    kernels: tuple[Kernel, ...]
    sweeps: tuple[Sweep, ...]
    problems: tuple[str, ...]
    verdicts: tuple[Held, ...]

    def to_json(self) -> str:
        return to_json(self)


def receipt(
    machine: Machine, mode: str, verdicts: list[Held], findings: Findings, *, emulated: bool, planned: int
) -> Receipt:
    kernels = (Kernel(each, findings.timed.get((each.kernel, each.parameters))) for each in findings.checked)
    return Receipt(
        schema=SCHEMA,
        version=VERSION,
        made=now(),
        mode=mode,
        machine=machine,
        emulated=emulated,
        planned=planned,
        kernels=tuple(kernels),
        sweeps=tuple(findings.sweeps),
        problems=tuple(findings.problems),
        verdicts=tuple(verdicts),
    )


def from_json(text: str) -> Receipt:
    """A receipt as :meth:`Receipt.to_json` writes it. Raises ValueError that names the place of what does not fit."""
    made: Receipt = read(Receipt, text, SCHEMA, VERSION)
    return made


def read(kind: Any, text: str, schema: str, version: int) -> Any:
    """A receipt of another ``kind``, a dataclass with ``schema`` and ``version`` among its fields, from JSON."""
    data = json.loads(text)
    if not isinstance(data, dict) or (data.get("schema"), data.get("version")) != (schema, version):
        raise ValueError(f"no receipt of {schema}, version {version}")
    return _read(kind, data, "receipt")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def to_json(made: Any) -> str:
    """A receipt, a dataclass, as JSON."""
    return json.dumps(dataclasses.asdict(made), ensure_ascii=False, indent=1, allow_nan=False)


def write(text: str, path: Path) -> None:
    """The whole file, or none. Raises :class:`OutputError`."""
    own = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        own.write_text(text + "\n", encoding="utf-8")
        os.replace(own, path)
    except OSError as error:
        own.unlink(missing_ok=True)
        problem = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written ({problem}): choose another --output") from None


def check_output(path: Path) -> None:
    """Raises :class:`OutputError`, before any work, for a path where no file can be made."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give --output the name of a file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path.parent} is no folder that can be written to: choose another --output")


def _read(kind: Any, value: Any, where: str) -> Any:
    """``value``, as JSON has it, as the type that an annotation names."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (only,) = (each for each in inner if each is not type(None))
        return _read(only, value, where)
    if origin is typing.Literal:
        return _expect(value in inner, value, where)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        _expect(isinstance(value, dict) and value.keys() == hints.keys(), value, where)
        return kind(**{name: _read(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})  # type: ignore[operator]
    if origin is tuple or hasattr(kind, "_fields"):
        _expect(isinstance(value, list), value, where)
        each = [inner[0]] * len(value) if inner else list(typing.get_type_hints(kind).values())
        _expect(len(each) == len(value), value, where)
        parts = [_read(hint, part, f"{where}[{i}]") for i, (hint, part) in enumerate(zip(each, value, strict=True))]
        return tuple(parts) if origin is tuple else kind(*parts)
    if origin is dict:
        _expect(isinstance(value, Mapping), value, where)
        return {inner[0](key): _read(inner[1], part, f"{where}.{key}") for key, part in value.items()}
    number = kind is float and isinstance(value, int) and not isinstance(value, bool)
    return _expect(number or type(value) is kind, value, where)


def _expect(fits: bool, value: Any, where: str) -> Any:
    if not fits:
        raise ValueError(f"{where} cannot be {str(value)[:60]!r}")
    return value
