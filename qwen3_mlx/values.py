"""Immutable value classes that are made quickly.

``dataclass(frozen=True, slots=True)`` writes six methods for each class and has Python compile them, about 0.4 ms, and
forty such classes are made on the way to a first token. Of a class made here only ``__init__`` is compiled; its other
methods are the same for all and look at the fields. That takes a quarter of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make a class what ``dataclass(frozen=True, slots=True)`` makes it, for ``fields``, ``replace`` and ``asdict``
    too. It may not inherit fields, nor have methods of its own under the names that are set here.
    """
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    made.__dataclass_params__.frozen = True
    fields: Iterable[Field[Any]] = made.__dataclass_fields__.values()
    made.__init__ = _init(made, fields)
    made._compared_values = _getter([f.name for f in fields if f.compare])
    made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
    made.__repr__, made.__eq__, made.__hash__ = _repr, _eq, _hash
    made.__getstate__, made.__setstate__ = _get_state, _set_state
    result: type[T] = made
    return result


class _Factory:
    """Stands for a default that is made anew for each instance."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _init(cls: Any, fields: Iterable[Field[Any]]) -> Any:
    """``__init__``, written as ``dataclasses`` writes it: a function inside one whose arguments are what it uses."""
    used: dict[str, Any] = {"_FACTORY": _FACTORY}
    parameters, body = ["self"], []
    for f in fields:
        used[f"_set_{f.name}"] = getattr(cls, f.name).__set__  # the slot's own, which does not ask __setattr__
        parameter = given = f.name
        if f.default is not MISSING:
            used[f"_default_{f.name}"] = f.default
            parameter += f"=_default_{f.name}"
        elif f.default_factory is not MISSING:
            used[f"_make_{f.name}"] = f.default_factory
            parameter += "=_FACTORY"
            given = f"_make_{f.name}() if {f.name} is _FACTORY else {f.name}"
        parameters.append(parameter)
        body.append(f"  _set_{f.name}(self, {given})\n")
    text = f"def create({', '.join(used)}):\n def __init__({', '.join(parameters)}):\n{''.join(body)} return __init__"
    found: dict[str, Any] = {}
    exec(text, vars(sys.modules[cls.__module__]), found)
    init = found["create"](**used)
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {**{f.name: f.type for f in fields}, "return": None}
    return init


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """The values under these names, always as a tuple."""
    return attrgetter(*names) if len(names) > 1 else attrgetter(*names * 2)


def _refuse_to_set(self: Any, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _repr(self: Any) -> str:
    shown = [f"{f.name}={getattr(self, f.name)!r}" for f in self.__dataclass_fields__.values() if f.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return self._compared_values(self) == self._compared_values(other)


def _hash(self: Any) -> int:
    return hash(self._compared_values(self))


def _get_state(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__slots__)


def _set_state(self: Any, state: tuple[Any, ...]) -> None:
    for name, held in zip(self.__slots__, state, strict=True):
        object.__setattr__(self, name, held)
