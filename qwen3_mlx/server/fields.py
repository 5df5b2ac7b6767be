"""What a body may hold: each kind of field reads a JSON value and says in a JSON schema what it takes.

One table of fields both checks requests and describes them in ``/openapi.json``, so the two cannot differ. ``None``
(JSON's null) is the same as leaving a field out. Whatever is wrong raises ``InvalidRequest`` with the path to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import InvalidRequest

JSON = dict[str, Any]


class Field(Protocol):
    """A kind of value."""

    @property
    def schema(self) -> JSON:
        """The JSON schema of what :meth:`read` takes."""
        ...

    def read(self, value: Any, where: str) -> Any:
        """``value``, checked. Raises InvalidRequest that names ``where``."""
        ...


def refuse(where: str, must: str, value: Any) -> InvalidRequest:
    """The error for a value that is not what it must be."""
    return InvalidRequest(f"{where} must be {must}; got {shown(value)}", param=where)


def shown(value: Any) -> str:
    """A value in an error message: short, as JSON spells it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return f"{value[:60]!r}"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else repr(value)[:80]


class Number:
    """A finite number within bounds."""

    def __init__(self, low: float, high: float, *, open_low: bool = False, note: str = "") -> None:
        self.low, self.high, self.open_low, self.note = low, high, open_low, note

    @property
    def schema(self) -> JSON:
        low = {"exclusiveMinimum" if self.open_low else "minimum": self.low}
        return {"type": "number", **low, "maximum": self.high, **_described(self.note)}

    def read(self, value: Any, where: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise refuse(where, self._must(), value)
        if not self.low <= value <= self.high or not math.isfinite(value) or (self.open_low and value == self.low):
            raise refuse(where, self._must(), value)
        return value

    def _must(self) -> str:
        low = f"above {self.low}" if self.open_low else f"at least {self.low}"
        return f"a number, {low} and at most {self.high}" + (f" ({self.note})" if self.note else "")


class Integer:
    """A whole number within bounds; JSON's 2.0 is one."""

    def __init__(self, low: int, high: int | None = None, *, note: str = "") -> None:
        self.low, self.high, self.note = low, high, note

    @property
    def schema(self) -> JSON:
        high = {} if self.high is None else {"maximum": self.high}
        return {"type": "integer", "minimum": self.low, **high, **_described(self.note)}

    def read(self, value: Any, where: str) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < self.low or (self.high is not None and value > self.high):
            bounds = f"at least {self.low:,}" + ("" if self.high is None else f" and at most {self.high:,}")
            raise refuse(where, f"a whole number, {bounds}" + (f" ({self.note})" if self.note else ""), value)
        number: int = value
        return number


class Flag:
    schema: JSON = {"type": "boolean"}  # noqa: RUF012 (never changed)

    def read(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise refuse(where, "true or false", value)
        return value


class Text:
    """A string of bounded length."""

    def __init__(self, least: int = 0, most: int | None = None, note: str = "") -> None:
        self.least, self.most, self.note = least, most, note

    @property
    def schema(self) -> JSON:
        least = {"minLength": self.least} if self.least else {}
        most = {} if self.most is None else {"maxLength": self.most}
        return {"type": "string", **least, **most, **_described(self.note)}

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise refuse(where, "text", value)
        if len(value) < self.least:
            raise InvalidRequest(f"{where} is empty: leave it out, or give it text", param=where)
        if self.most is not None and len(value) > self.most:
            raise InvalidRequest(f"{where} has {len(value):,} characters; at most {self.most:,} can be", param=where)
        return value


class Choice:
    """One of a few strings."""

    def __init__(self, *values: str, note: str = "") -> None:
        self.values, self.note = values, note

    @property
    def schema(self) -> JSON:
        return {"enum": list(self.values), **_described(self.note)}

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in self.values:
            raise refuse(where, "one of " + ", ".join(self.values), value)
        return value


class ListOf:
    """A list of one kind of item, of bounded length."""

    def __init__(self, item: Field, least: int = 0, most: int | None = None, what: str = "a list") -> None:
        self.item, self.least, self.most, self.what = item, least, most, what

    @property
    def schema(self) -> JSON:
        least = {"minItems": self.least} if self.least else {}
        most = {} if self.most is None else {"maxItems": self.most}
        return {"type": "array", "items": self.item.schema, **least, **most}

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise refuse(where, self.what, value)
        check_length(value, where, self.least, self.most)
        return [self.item.read(item, f"{where}[{i}]") for i, item in enumerate(value)]


def check_length(value: Sequence[Any], where: str, least: int, most: int | None) -> None:
    if len(value) < least:
        raise InvalidRequest(f"{where} has {len(value):,} items; it needs at least {least:,}", param=where)
    if most is not None and len(value) > most:
        raise InvalidRequest(f"{where} has {len(value):,} items; at most {most:,} can be", param=where)


class Either:
    """A value of one of several JSON types: ``{str: Text(), list: ListOf(...)}``."""

    def __init__(self, must: str, kinds: Mapping[type, Field]) -> None:
        self.must, self.kinds = must, kinds

    @property
    def schema(self) -> JSON:
        return {"anyOf": [field.schema for field in self.kinds.values()]}

    def read(self, value: Any, where: str) -> Any:
        field = self.kinds.get(type(value))
        if field is None:
            raise refuse(where, self.must, value)
        return field.read(value, where)


class Object:
    """An object of known fields. ``open``: others may be there and mean nothing; else they are refused by name."""

    def __init__(
        self,
        fields: Mapping[str, Field],
        *,
        required: Sequence[str] = (),
        open: bool = False,
        hints: Mapping[str, str] | None = None,
        more: JSON | None = None,
    ) -> None:
        self.fields, self.required, self.open = fields, required, open
        self.hints, self.more = hints or {}, more or {}

    @property
    def schema(self) -> JSON:
        properties = {
            name: field.schema if name in self.required else nullable(field.schema)
            for name, field in self.fields.items()
        }
        required = {"required": list(self.required)} if self.required else {}
        closed = {} if self.open else {"additionalProperties": False}
        return {"type": "object", "properties": properties, **required, **closed, **self.more}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """The fields that are there."""
        if not isinstance(value, dict):
            raise refuse(where or "the body", "an object", value)
        dot = f"{where}." if where else ""
        found = {}
        for name, item in value.items():
            field = self.fields.get(name)
            if field is None:
                if not self.open:
                    raise self._unknown(f"{dot}{name}", name)
            elif item is not None:
                found[name] = field.read(item, f"{dot}{name}")
        for name in self.required:
            if name not in found:
                raise InvalidRequest(f"{dot}{name} is missing", param=f"{dot}{name}")
        return found

    def _unknown(self, where: str, name: str) -> InvalidRequest:
        where = where[:200]
        hint = self.hints.get(name, "leave it out")
        return InvalidRequest(f"{where} is not supported: {hint}", param=where)


class Ignored:
    """Anything: it changes nothing here."""

    schema: JSON = {"description": "accepted; changes nothing"}  # noqa: RUF012 (never changed)

    def read(self, value: Any, where: str) -> None:
        return None


class Absent:
    """Known, but it must be null: nothing here can honour it."""

    schema: JSON = {"type": "null"}  # noqa: RUF012 (never changed)

    def __init__(self, hint: str = "leave it out") -> None:
        self.hint = hint

    def read(self, value: Any, where: str) -> None:
        raise InvalidRequest(f"{where} is not supported: {self.hint}", param=where)


def nullable(schema: JSON) -> JSON:
    """The schema, or null."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str) and schema["type"] != "null":
        return {**schema, "type": [schema["type"], "null"]}
    return schema


def _described(note: str) -> JSON:
    return {"description": note} if note else {}
