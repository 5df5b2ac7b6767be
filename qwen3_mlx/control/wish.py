"""What a caller wants an answer to be, in the words of the library and of OpenAI's API: schema and tool_choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import InvalidRequest
from ..types import Grammar, Request
from .tool_schema import parameter_schemas

Tools = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any] | type | Grammar
"""A JSON schema, a pydantic model, or a ``Grammar``."""
ToolChoice = str | Mapping[str, Any]


def grammar_of(schema: Schema | None) -> Grammar | None:
    """What ``schema`` asks for. Raises InvalidRequest for what is none."""
    if schema is None or isinstance(schema, Grammar):
        return schema
    try:
        if isinstance(schema, Mapping):
            return Grammar.json_schema(schema)
        if isinstance(schema, type) and callable(describe := getattr(schema, "model_json_schema", None)):
            return Grammar.json_schema(describe())
    except Exception as error:  # a model may be anyone's
        reason = " ".join(str(error).split())[:300]
        raise InvalidRequest(f"schema cannot be written as JSON: {reason}", param="schema") from error
    raise InvalidRequest(
        f"schema must be a JSON schema as a dict, a pydantic model or a Grammar, not {schema!r:.80}", param="schema"
    )


def offered_tools(tools: Tools | None, choice: ToolChoice) -> Tools | None:
    """The tools that the prompt tells of."""
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        raise InvalidRequest(
            f"tool_choice must be auto, none, required or a function, not {choice!r:.80}", param="tool_choice"
        )
    return None if choice == "none" else tools


def with_calls(request: Request, choice: ToolChoice, parallel: bool) -> Request:
    """The request with what its answer has to call."""
    if not isinstance(parallel, bool):
        raise InvalidRequest(f"parallel_tool_calls must be a bool, not {parallel!r:.80}", param="parallel_tool_calls")
    if choice in ("auto", "none"):
        return replace(request, parallel_tool_calls=parallel)
    names = tuple(parameter_schemas(request.tools))
    if not names:
        raise InvalidRequest("tool_choice asks for a call, but there are no tools", param="tool_choice")
    if choice == "required":
        return replace(request, must_call=names, parallel_tool_calls=parallel)
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in names:
        raise InvalidRequest(
            f"tool_choice must name one of the tools ({', '.join(names)}) as"
            f' {{"type": "function", "function": {{"name": ...}}}}, not {choice!r:.80}',
            param="tool_choice",
        )
    return replace(request, must_call=(name,), parallel_tool_calls=False)
