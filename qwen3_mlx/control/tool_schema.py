"""Turning a parameter's text into JSON by the tool's own schema: the Coder format writes every value as bare text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .tool_json import is_json

_NAMES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_ANY = frozenset({"string", "boolean", "integer", "number", "null", "object", "array"})
_STRING = frozenset({"string"})
_WHOLE = re.compile(r"([+-]?)(?:0*+([1-9][0-9]*+)|0++)(\.0++)?")
_MAX_DEPTH = 32  # of references and alternatives within each other; what lies deeper may be anything


def parameter_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each function's parameter schema by its name; tools in OpenAI's shape, or bare functions."""
    out: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            out[function["name"]] = parameters if isinstance(parameters, Mapping) else {}
    return out


def types_of(parameters: Mapping[str, Any], key: str) -> frozenset[str]:
    """The JSON types that the parameter ``key`` may have; a string if the schema does not know it."""
    properties = parameters.get("properties")
    schema = properties.get(key) if isinstance(properties, Mapping) else None
    if schema is None:
        schema = parameters.get("additionalProperties")
    if not isinstance(schema, Mapping):
        return _STRING
    return _types(schema, parameters, set(), 0) or _ANY


def _types(schema: Any, root: Mapping[str, Any], seen: set[str], depth: int) -> frozenset[str]:
    """A reference is followed once (``seen``): what comes back to it adds no type, and the work stays linear."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return _ANY
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in seen:
            return frozenset()
        seen.add(reference)
        return _types(resolve(reference, root), root, seen, depth + 1)
    declared = schema.get("type")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    options = schema.get("anyOf", schema.get("oneOf"))
    parts = schema.get("allOf")
    if isinstance(declared, (str, list)):
        found = frozenset([declared] if isinstance(declared, str) else [t for t in declared if isinstance(t, str)])
    elif isinstance(values, list):
        found = frozenset(_type_name(value) for value in values)
    elif isinstance(options, list):
        found = frozenset().union(*(_types(option, root, seen, depth + 1) for option in options))
    elif isinstance(parts, list):
        found = _ANY.intersection(*filter(None, (_types(part, root, seen, depth + 1) for part in parts)))
    else:
        found = _ANY
    return found | {"null"} if schema.get("nullable") is True else found


def _type_name(value: Any) -> str:
    return _NAMES.get(type(value), "array" if isinstance(value, list) else "object")


def resolve(reference: str, root: Mapping[str, Any]) -> Any:
    """What a local reference such as ``#/$defs/Unit`` points to; ``None`` if to nothing."""
    here: Any = root
    if reference == "#":
        return here
    for name in reference.removeprefix("#").strip("/").split("/"):
        here = here.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here


def escape(text: str) -> str:
    """``text`` as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def encode_value(text: str, types: frozenset[str]) -> str:
    """A value's text as JSON of one of ``types``; what fits none of them stays a string, for the client to judge.

    Where a string is one possibility among others, the others come first: ``5`` for string-or-integer is a number.
    """
    bare = text.strip()
    lower = bare.lower()
    # The Coder's own template writes null as None.
    if bare in ("null", "None") and ("null" in types or "string" not in types):
        return "null"
    if "boolean" in types and lower in ("true", "false"):
        return lower
    if ("integer" in types or "number" in types) and (number := _number(bare, "number" in types)) is not None:
        return number
    if bare[:1] in ("{", "[") and ("object" if bare[0] == "{" else "array") in types and is_json(bare):
        return bare
    return f'"{escape(text)}"'


def _number(text: str, fractions: bool) -> str | None:
    """``text`` as a JSON number, or ``None``; without ``fractions`` only a whole one, ``2.0`` included."""
    whole = _WHOLE.fullmatch(text)
    if whole is not None and not (fractions and whole[3]):
        return ("-" if whole[1] == "-" else "") + (whole[2] or "0")
    text = text.removeprefix("+")
    return text if fractions and text[:1] in tuple("-0123456789") and is_json(text) else None
