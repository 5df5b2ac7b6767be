"""How many patterns one text of a JSON schema has to match at once.

Where parts of a schema hold together (``allOf``, a reference with other keywords beside it), the grammar's compiler
puts their patterns together: work that doubles with each of them, has no bound of its own, and cannot be stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_HOLDING = (
    *("pattern", "format", "properties", "patternProperties", "additionalProperties"),
    *("items", "prefixItems", "anyOf", "oneOf"),
)
ANY_NAME, ITEM = "*", "[]"
_Path = tuple[str, ...]
"""From a schema to a part of its documents."""


def too_many_patterns(root: Mapping[str, Any], targets: Mapping[str, Any], most: int, look: Callable[[], None]) -> bool:
    """Whether more than ``most`` patterns and formats may hold for one text. ``targets``: what references lead to;
    ``look`` is told of each part that is looked at."""
    waiting, seen = [root, *targets.values()], set[int]()
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, Mapping) and id(node) not in seen:
            seen.add(id(node))
            waiting += node.values()
            if _together(node) > 1 and _most_on_one(Counter(_patterns(node, (), (), targets, look)), look) > most:
                return True
    return False


def _together(node: Mapping[str, Any]) -> int:
    """The parts of a schema that hold for the same document, its own keywords as one."""
    parts = node.get("allOf")
    held = len(parts) if isinstance(parts, list) else 0
    return held + isinstance(node.get("$ref"), str) + any(key in node for key in _HOLDING)


def _patterns(
    schema: Any, path: _Path, references: _Path, targets: Mapping[str, Any], look: Callable[[], None]
) -> Iterator[_Path]:
    """Where in the documents of a schema patterns and formats hold. ``references``: those that lead here."""
    look()
    if not isinstance(schema, Mapping):
        return
    yield from (path for key in ("pattern", "format") if key in schema)
    below: list[tuple[Any, _Path]] = []
    for key, step in (("anyOf", ()), ("oneOf", ()), ("allOf", ()), ("prefixItems", (ITEM,))):
        parts = schema.get(key)
        below += [(part, (*path, *step)) for part in parts] if isinstance(parts, list) else []
    below += [(schema.get("items"), (*path, ITEM)), (schema.get("additionalProperties"), (*path, ANY_NAME))]
    for key in ("properties", "patternProperties"):
        parts = schema.get(key)
        if isinstance(parts, Mapping):
            below += [(part, (*path, name if key == "properties" else ANY_NAME)) for name, part in parts.items()]
    for part, where in below:
        yield from _patterns(part, where, references, targets, look)
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in references:
        yield from _patterns(targets.get(reference), path, (*references, reference), targets, look)


def _most_on_one(found: Counter[_Path], look: Callable[[], None]) -> int:
    if not any(ANY_NAME in path for path in found):
        return max(found.values(), default=0)
    return max(sum(found[other] for other in found if _meet(path, other, look)) for path in found)


def _meet(one: _Path, other: _Path, look: Callable[[], None]) -> bool:
    """Whether both may lead to the same place."""
    look()
    return len(one) == len(other) and all(a == b or ANY_NAME in (a, b) for a, b in zip(one, other, strict=True))
