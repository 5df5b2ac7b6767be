"""JSON schemas before they become grammars: what can be promised of them, and what is refused.

Most of JSON Schema (draft 2020-12) is the grammar's own business, which refuses by name what it cannot keep. Here is
what it would let pass: schemas nested too deeply, schemas no document of which ever ends, and a count of properties
that a repeated key would fulfil.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import InvalidRequest
from .schema_patterns import too_many_patterns
from .tool_schema import resolve

MAX_DEPTH = 64  # levels of a schema's own text: the compiler recurses
MAX_SIZE = 1 << 20  # characters
MAX_PARTS = 5_000  # objects, lists and booleans in a schema's text; what the compiler takes grows faster than they do
MAX_PROPERTIES = 2_000  # of one object in it
MAX_NAME_PATTERNS = 64  # patternProperties of all objects: the compiler compares them with each other
MAX_PATTERNS = 8  # that one text has to match; the work of putting them together doubles with each
MAX_WORK = 200_000  # schemas that are looked at, one as often as it is, to know whether a document ends
#: JSON as the chat template and ``json.dumps`` write it. One spelling of what lies between the values leaves the model
#: nothing to choose there: no endless whitespace, and longer runs of forced tokens.
SPACING = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
#: Without ``\\u0061``, which would spell the name of a property in a way that no rule for names is asked about.
PLAIN_ESCAPES = 'nrbtf\\"'

_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_URI = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:/?#[]@!$&'()*+,;=%")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")


def schema_text(schema: Any, param: str) -> str:
    """The JSON text of a schema that is ready for the grammar. Raises InvalidRequest naming ``param``."""
    if not isinstance(schema, Mapping):
        raise InvalidRequest(f"a JSON schema is an object, not {type(schema).__name__}", param=param)
    if problem := _too_large(schema):
        raise InvalidRequest(f"the schema {problem}", param=param)
    for node in _nodes(schema):
        least = node.get("minProperties")
        if isinstance(least, int) and least > max(1, len(_names(node.get("required")))):
            raise InvalidRequest(
                f"minProperties of {least} cannot be promised: of properties that the schema does not require by name"
                " one may come twice; name them in required",
                param=param,
            )
    known = _Known(param)
    targets = _targets(schema, known)
    if too_many_patterns(schema, targets, MAX_PATTERNS, known.look):
        raise InvalidRequest(f"more than {MAX_PATTERNS} patterns and formats hold for one text", param=param)
    if not _ends(schema, targets, known):
        raise InvalidRequest(
            "no document of this schema ever ends: each must contain another one; make a property optional, or give"
            " anyOf a way out",
            param=param,
        )
    ready = _map(schema, close=not _composed(schema))
    options = {**SPACING, "json_allowed_escapes": PLAIN_ESCAPES} if any(map(_names_rule, _nodes(ready))) else SPACING
    text = json.dumps({**ready, "x-guidance": options}, ensure_ascii=False)
    if len(text) > MAX_SIZE:
        raise InvalidRequest(f"the schema is longer than {MAX_SIZE:,} characters", param=param)
    return text


def _too_large(schema: Any) -> str | None:
    """What there is too much of in a schema's text, if anything."""
    level, depth, parts, patterns = [schema], 0, 0, 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        below: list[Any] = []
        for here in level:
            if isinstance(here, Mapping):
                if len(here) > MAX_PROPERTIES:
                    return f"has an object with more than {MAX_PROPERTIES:,} properties"
                below.extend(here.values())
                named = here.get("patternProperties")
                patterns += len(named) if isinstance(named, Mapping) else 0
            elif isinstance(here, list):
                below.extend(here)
            parts += isinstance(here, (Mapping, list, bool))
        if parts > MAX_PARTS:
            return f"has more than {MAX_PARTS:,} objects, lists and booleans"
        if patterns > MAX_NAME_PATTERNS:
            return f"has more than {MAX_NAME_PATTERNS} patternProperties"
        level = below
    return None


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas directly within a schema."""
    for key in _MAPS:
        if isinstance(schema.get(key), Mapping):
            yield from schema[key].values()
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            yield from schema[key]
    for key in _SINGLE:
        yield schema.get(key)


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for part in _parts(schema):
            yield from _nodes(part)


def _names_rule(node: Mapping[str, Any]) -> bool:
    """Whether what a property may be depends on its name, and other names are allowed."""
    if node.get("additionalProperties") is False and not node.get("patternProperties"):
        return False
    return bool(node.get("properties") or node.get("patternProperties") or node.get("required"))


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _composed(schema: Mapping[str, Any]) -> bool:
    """Whether objects may be put together from several parts, each of which lists some of the properties."""
    return any(
        (isinstance(parts := node.get("allOf"), list) and len(parts) > 1)
        or ("properties" in node and node.keys() & {"anyOf", "oneOf", "allOf", "$ref"})
        for node in _nodes(schema)
    )


def _map(schema: Any, close: bool) -> Any:
    """The schema with its references as URIs, in which many tools write names as they are.

    ``close``: with no properties beyond those that an object lists, where it says nothing about others. Such documents
    are valid either way, and they are what a list of fields is meant to describe.
    """
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    for key in _MAPS:
        if isinstance(schema.get(key), Mapping):
            out[key] = {name: _map(part, close) for name, part in schema[key].items()}
    for key in _LISTS:
        if isinstance(schema.get(key), list):
            out[key] = [_map(part, close) for part in schema[key]]
    for key in _SINGLE:
        if key in schema:
            out[key] = _map(schema[key], close)
    if isinstance(schema.get("$ref"), str):
        out["$ref"] = "".join(c if c in _URI else "".join(f"%{b:02X}" for b in c.encode()) for c in schema["$ref"])
    listed = schema.get("properties")
    if (
        close
        and isinstance(listed, Mapping)
        and not schema.keys() & {"additionalProperties", "patternProperties", "minProperties"}
        and listed.keys() >= set(_names(schema.get("required")))
    ):
        out["additionalProperties"] = False
    return out


def _decoded(reference: str) -> str:
    return _PERCENT.sub(lambda run: bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "replace"), reference)


class _Known(dict[str, bool]):
    """Which references are known to end. Counts the schemas that are looked at, and gives up where that has no end."""

    def __init__(self, param: str) -> None:
        super().__init__()
        self._param = param
        self._left = MAX_WORK

    def look(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise InvalidRequest("the schema's references lead through each other in too many ways", param=self._param)


def _targets(root: Mapping[str, Any], known: _Known) -> dict[str, Any]:
    """What the references in a schema lead to."""
    targets: dict[str, Any] = {}
    waiting: list[Any] = [root]
    while waiting:
        for node in _nodes(waiting.pop()):
            known.look()
            reference = node.get("$ref")
            if isinstance(reference, str) and reference not in targets:
                targets[reference] = resolve(_decoded(reference), root)
                waiting.append(targets[reference])
    return targets


def _ends(root: Mapping[str, Any], targets: Mapping[str, Any], known: _Known) -> bool:
    """Whether a finite document can be valid. The least fixed point: a reference ends if its target does without it."""
    known.update(dict.fromkeys(targets, False))
    order = list(targets)
    changed = True
    while changed:
        changed = False
        order.reverse()  # a chain of references is done in one round, in the right order
        for reference in order:
            target = targets[reference]
            # What leads nowhere is reported, by its name, by the grammar's compiler.
            if not known[reference] and (not isinstance(target, Mapping) or _can_end(target, known)):
                known[reference] = changed = True
    return _can_end(root, known)


def _can_end(schema: Any, known: _Known) -> bool:
    known.look()
    if not isinstance(schema, Mapping):
        return schema is not False
    if isinstance(schema.get("$ref"), str) and not known[schema["$ref"]]:
        return False
    for key, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        options = schema.get(key)
        if isinstance(options, list) and options and not enough(_can_end(option, known) for option in options):
            return False
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    ways = [ends for kind, ends in (("object", _object_ends), ("array", _array_ends)) if kind in kinds]
    return len(ways) < len(kinds) or not ways or any(ends(schema, known) for ends in ways)


def _object_ends(schema: Mapping[str, Any], known: _Known) -> bool:
    listed, patterns = (
        part if isinstance(part := schema.get(key), Mapping) else {} for key in ("properties", "patternProperties")
    )
    # Which pattern a name matches is the grammar's business: any may be meant.
    others = any(_can_end(part, known) for part in [*patterns.values(), schema.get("additionalProperties", True)])
    ends = {name: _can_end(part, known) for name, part in listed.items()}  # once each, however often it is named
    if schema.get("minProperties") and not (others or any(ends.values())):
        return False
    return all(ends.get(name, others) for name in _names(schema.get("required")))


def _array_ends(schema: Mapping[str, Any], known: _Known) -> bool:
    least = schema.get("minItems")
    if not isinstance(least, int) or least <= 0:
        return True
    first = schema.get("prefixItems")
    first = first[:least] if isinstance(first, list) else []
    rest = [schema.get("items", True)] if least > len(first) else []
    return all(_can_end(item, known) for item in [*first, *rest])
