"""What a request's answer has to be, as a grammar in the Lark dialect of llguidance.

An answer is JSON of a schema, a text that a regular expression matches as a whole, one of several texts, or tool calls
as Qwen3's template writes them: ``<tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>``, each on its own
lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import InvalidRequest
from ..types import Grammar, Request
from .schema import schema_text
from .tool_schema import parameter_schemas


class Rule(NamedTuple):
    """One line of a grammar, and the request's parameter that it says."""

    name: str
    body: str
    param: str


def rules(request: Request, call_open: int | None, call_close: int | None) -> list[Rule]:
    """The grammar of the answer, ``start`` last. With tools, calls may take the place of an answer that is constrained;
    ``must_call`` leaves nothing else. Raises InvalidRequest naming the parameter that is wrong.
    """
    found: list[Rule] = []
    ways: list[str] = []
    if names := request.must_call or tuple(parameter_schemas(request.tools)):
        if call_open is None or call_close is None:
            raise InvalidRequest("this checkpoint's vocabulary has no tokens for tool calls", param="tool_choice")
        found += _calls(request, names, call_open, call_close)
        ways.append('call ("\\n" call)*' if request.parallel_tool_calls else "call")
    if request.grammar is not None and not request.must_call:
        # A name in capitals: one lexeme, however many alternatives there are.
        name = "answer" if request.grammar.kind == "json_schema" else "ANSWER"
        found.append(Rule(name, _answer(request.grammar), "schema"))
        ways.append(name)
    return [*found, Rule("start", " | ".join(ways), found[-1].param)]


def text_of(rules: Iterable[Rule]) -> str:
    return "".join(f"{rule.name}: {rule.body}\n" for rule in rules)


def _answer(grammar: Grammar) -> str:
    if not isinstance(grammar.source, str):
        wrong = type(grammar.source).__name__
        raise InvalidRequest(f"a grammar is told by its text, not by {wrong}", param="schema")
    match grammar.kind:
        case "json_schema":
            return "%json " + schema_text(_parsed(grammar.source), "schema")
        case "regex":
            if "\x00" in grammar.source:
                raise InvalidRequest("a regular expression cannot hold the character U+0000", param="schema")
            return f"/{_in_slashes(grammar.source)}/"
        case "choice":
            texts = _parsed(grammar.source)
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise InvalidRequest("a choice needs one text or more", param="schema")
            return " | ".join(_literal(text) for text in texts)
    raise InvalidRequest(f"there is no grammar of the kind {grammar.kind!r:.80}", param="schema")


def _calls(request: Request, names: tuple[str, ...], call_open: int, call_close: int) -> Iterator[Rule]:
    schemas = parameter_schemas(request.tools)
    places = {name: i for i, name in enumerate(schemas)}
    for name in names:
        i = places[name]
        param = f"tools[{i}].function.parameters"
        yield Rule(f"arguments_{i}", "%json " + schema_text(_arguments(schemas[name], param), param), param)
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": '
        yield Rule(f"call_{i}", f'{_literal(head)} arguments_{i} "}}"', param)
    options = " | ".join(f"call_{places[name]}" for name in names)
    yield Rule("call", f'<[{call_open}]> "\\n" ({options}) "\\n" <[{call_close}]>', "tools")


def _arguments(parameters: Mapping[str, Any], param: str) -> Mapping[str, Any]:
    """A tool's parameters as the schema of an object; a tool that tells of none takes none."""
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest(f"a tool's arguments are an object, not {parameters['type']!r}", param=param)
    return {"type": "object", **parameters}


def _parsed(source: str) -> Any:
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the schema cannot be read: {type(error).__name__}", param="schema") from None


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_slashes(regex: str) -> str:
    """A regular expression between the slashes that Lark wants; a line break stands for itself in neither."""
    out, escaped = [], False
    for char in regex:
        if escaped or char not in "/\n":
            out.append("n" if escaped and char == "\n" else char)
        else:
            out.append("\\/" if char == "/" else "\\n")
        escaped = char == "\\" and not escaped
    return "".join(out)
