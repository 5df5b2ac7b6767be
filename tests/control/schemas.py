"""Random JSON schemas whose documents are bounded in length."""

from __future__ import annotations

import random
from typing import Any

WORDS = (
    *("name", "id", "größe", "Überschrift", "名前", "🙂", "e\u0301tat", "a b", 'quo"te', "back\\slash", "x/y"),
    "<think>",
)
PATTERNS = (r"^[a-c]{1,4}$", r"^\d{3}-\d{2}$", r"^(foo|bar)?$", r"^[А-Я]{1,3}$", r"^x[^x]{0,3}x$", "ab")
FORMATS = ("date", "time", "date-time", "ipv4", "uuid")


def random_schema(rng: random.Random) -> dict[str, Any]:
    """Nested objects and arrays, enums, constants, ranges, patterns, formats, alternatives, references, any unicode."""
    names = rng.sample(("Item", "Größe", "名", "a~b"), rng.randint(0, 2))
    schema = _schema(rng, 3, tuple(f"#/$defs/{name.replace('~', '~0')}" for name in names))
    if names:
        schema = {**schema, "$defs": {name: _schema(rng, 1, ()) for name in names}}
    return schema


def _schema(rng: random.Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "enum", "const", "boolean", "null", "union"]
    if depth:
        kinds += ["object"] * 5 + ["array"] * 3 + ["anyOf", "anyOf"] + (["$ref"] * 4 if references else [])
    match rng.choice(kinds):
        case "object":
            return _object(rng, depth, references)
        case "array":
            return _array(rng, depth, references)
        case "anyOf":
            return {"anyOf": [_schema(rng, depth - 1, references) for _ in range(rng.randint(1, 3))]}
        case "$ref":
            return {"$ref": rng.choice(references)}
        case "string":
            return _string(rng)
        case "integer":
            return _integer(rng)
        case "number":
            low = rng.choice([-1000, -1.5, 0, 0.25])
            most = rng.choice(["maximum", "exclusiveMaximum"])
            return {"type": "number", "minimum": low, most: low + rng.choice([1, 40.5]), "multipleOf": 0.25}
        case "enum":
            return {"enum": rng.sample([*WORDS, 1, -2.5, True, None, [1, "x"], {"k": "v"}], rng.randint(1, 5))}
        case "const":
            return {"const": rng.choice([*WORDS, 7, False, {"deep": [None]}])}
        case "union":
            return {"type": rng.sample(["boolean", "null"], rng.randint(1, 2))}
        case kind:
            return {"type": kind}


def _object(rng: random.Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(rng, depth - 1, references) for name in names},
        "required": [name for name in names if rng.random() < 0.6],
    }
    if rng.random() < 0.3:
        schema["additionalProperties"] = False
    if rng.random() < 0.3:
        schema |= {"title": "Thing", "description": "nothing to hold on to", "x-note": 1}
    return schema


def _array(rng: random.Random, depth: int, references: tuple[str, ...]) -> dict[str, Any]:
    least = rng.randint(0, 2)
    schema = {"type": "array", "items": _schema(rng, depth - 1, references), "maxItems": least + rng.randint(0, 2)}
    if least:
        schema["minItems"] = least
    if rng.random() < 0.2:
        schema["prefixItems"] = [_schema(rng, depth - 1, references)]
    return schema


def _string(rng: random.Random) -> dict[str, Any]:
    match rng.randrange(3):
        case 0:
            return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 12}
        case 1:
            return {"type": "string", "format": rng.choice(FORMATS)}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 8)}


def _integer(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-100, 100)
    schema = {"type": "integer", "minimum": low, "maximum": low + rng.randint(10, 5000)}
    if rng.random() < 0.3:
        schema["multipleOf"] = rng.choice([2, 5])
    return schema
