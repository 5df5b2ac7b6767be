"""Conversations and tool lists as people send them -> the one shape chat templates are written for.

Accepts OpenAI's dicts and ``types.Message``. What comes out: plain new dicts with ``role`` (system, user, assistant or
tool), a string ``content``, and where given ``reasoning_content``, ``tool_calls``, ``tool_call_id`` and ``name``.
Whatever cannot be honoured is an InvalidRequest whose ``param`` is the path to it (``messages[2].content[0]``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidRequest
from ..types import Message, ToolCall
from .tokenizer import plain_text

ROLES = ("system", "user", "assistant", "tool")
TEXT_PARTS = ("text", "input_text", "output_text")
OPEN_RESULT, CLOSE_RESULT = "<tool_response>", "</tool_response>"


def normalize_messages(messages: Sequence[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked, flattened copies of ``messages``. The last user message must say something."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        kind = type(messages).__name__
        raise InvalidRequest(f"messages must be a list of messages, not {kind}", param="messages")
    if not messages:
        raise InvalidRequest("messages is empty: send at least one message", param="messages")
    out = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    for i in range(len(out) - 1, -1, -1):
        if out[i]["role"] == "user":
            if not out[i]["content"].strip():
                raise InvalidRequest("the prompt is empty: write something to answer", param=f"messages[{i}].content")
            break
    return out


def normalize_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Checked copies of OpenAI's ``{"type": "function", "function": {name, description?, parameters?}}``."""
    if tools is None:
        return []
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Sequence):
        raise InvalidRequest(f"tools must be a list of tools, not {type(tools).__name__}", param="tools")
    seen: dict[str, int] = {}
    out = []
    for i, tool in enumerate(tools):
        out.append(_tool(tool, f"tools[{i}]"))
        name = out[i]["function"]["name"]
        if name in seen:
            where = f"tools[{i}].function.name"
            raise InvalidRequest(f"{where} is {name!r}, the name of tools[{seen[name]}] already", param=where)
        seen[name] = i
    return out


def is_tool_result(text: str) -> bool:
    """Is this user text, as a whole, a ``<tool_response>…</tool_response>`` wrapper?"""
    return text.startswith(OPEN_RESULT) and text.endswith(CLOSE_RESULT)


# The switches as words of their own: not the end of a path (src/think), not the start of one (/think/it, /think.py).
_SWITCH = re.compile(r"(?<![A-Za-z0-9_./~-])/(no_)?think(?![A-Za-z0-9_/-]|\.[A-Za-z0-9])")


def thinking_requested(messages: Sequence[Message | Mapping[str, Any]], thinking: bool) -> bool:
    """The mode a conversation ends up in: in thinking mode the latest ``/think`` or ``/no_think`` in user or system
    text wins; with ``thinking=False`` the switches do nothing. Tool results sent as user messages do not count.
    """
    if not thinking:
        return False
    for message in reversed(normalize_messages(messages)):
        text = message["content"]
        if message["role"] in ("user", "system") and not (message["role"] == "user" and is_tool_result(text)):
            switches = _SWITCH.findall(text)
            if switches:
                return switches[-1] != "no_"
    return True


def parse_arguments(messages: list[dict[str, Any]]) -> None:
    """Decodes tool-call arguments given as JSON text, in place: for templates that walk them as a mapping."""
    for i, message in enumerate(messages):
        for j, call in enumerate(message.get("tool_calls", ())):
            function = call["function"]
            if not isinstance(function["arguments"], str):
                continue
            where = f"messages[{i}].tool_calls[{j}].function.arguments"
            try:
                value = json.loads(function["arguments"] or "{}")
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise InvalidRequest(f"{where} must be a JSON object: this model's template needs one", param=where)
            function["arguments"] = value


def _message(message: Any, where: str) -> dict[str, Any]:
    if isinstance(message, Message):
        message = message.to_dict()
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} must be an object with role and content", param=where)
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in ROLES:
        got = "missing" if role is None else f"{role!r}"
        raise InvalidRequest(f"{where}.role is {got}; it must be one of {', '.join(ROLES)}", param=f"{where}.role")
    content = _content(message.get("content"), f"{where}.content")
    if content is None:
        if role != "assistant":
            raise InvalidRequest(f"{where}.content is missing: a {role} message needs text", param=f"{where}.content")
        content = ""
    out: dict[str, Any] = {"role": ROLES[ROLES.index(role)], "content": content}
    if role == "assistant":
        _assistant_fields(message, where, out)
    elif message.get("tool_calls"):
        raise InvalidRequest(f"{where}.tool_calls: only an assistant calls tools", param=f"{where}.tool_calls")
    for key in ("tool_call_id", "name"):
        value = _optional_text(message.get(key), f"{where}.{key}")
        if value is not None:
            out[key] = value
    return out


def _assistant_fields(message: Mapping[str, Any], where: str, out: dict[str, Any]) -> None:
    for key in ("reasoning_content", "reasoning"):
        reasoning = _optional_text(message.get(key), f"{where}.{key}")
        if reasoning is not None:
            out["reasoning_content"] = reasoning
            break
    for key in ("prefix", "partial"):
        if message.get(key):
            where = f"{where}.{key}"
            raise InvalidRequest(f"{where} is not supported: an answer begins anew, it continues none", param=where)
    if message.get("function_call"):
        where = f"{where}.function_call"
        raise InvalidRequest(f"{where} is the old form of a call: send tool_calls", param=where)
    calls = message.get("tool_calls")
    if calls is None:
        return
    where = f"{where}.tool_calls"
    if isinstance(calls, (str, bytes, Mapping)) or not isinstance(calls, Sequence):
        raise InvalidRequest(f"{where} must be a list of calls", param=where)
    if calls:
        out["tool_calls"] = [_tool_call(call, f"{where}[{j}]") for j, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, ToolCall):
        call = call.to_dict()
    if not isinstance(call, Mapping):
        raise InvalidRequest(f"{where} must be an object with a function", param=where)
    if call.get("type", "function") not in ("function", None):
        raise InvalidRequest(f"{where}.type is {call['type']!r}; it must be 'function'", param=f"{where}.type")
    function = call.get("function")
    if function is None and "name" in call:
        function = call  # the flat form, which the official template accepts as well
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"{where}.function must be an object with name and arguments", param=f"{where}.function")
    name = function.get("name")
    where_name = f"{where}.function.name"
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where_name} must be the name of a function", param=where_name)
    name = plain_text(name, where_name)
    out: dict[str, Any] = {"type": "function"}
    call_id = _optional_text(call.get("id"), f"{where}.id")
    if call_id is not None:
        out["id"] = call_id
    out["function"] = {"name": name, "arguments": _arguments(function.get("arguments"), f"{where}.function.arguments")}
    return out


def _arguments(value: Any, where: str) -> str | dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, str):
        return plain_text(value, where)
    if isinstance(value, Mapping):
        copy: dict[str, Any] = json_copy(value, where)
        return copy
    raise InvalidRequest(f"{where} must be an object or its JSON text", param=where)


def _content(value: Any, where: str) -> str | None:
    """A string as it is; text parts joined with nothing between them, as the parts of one text."""
    if value is None:
        return None
    if isinstance(value, str):
        return plain_text(value, where)
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Sequence):
        raise InvalidRequest(f"{where} must be text or a list of text parts", param=where)
    return "".join(_part(part, f"{where}[{j}]") for j, part in enumerate(value))


def _part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f'{where} must be a part such as {{"type": "text", "text": …}}', param=where)
    kind = part.get("type")
    if kind not in TEXT_PARTS:
        raise InvalidRequest(f"{where} has type {kind!r}: this model reads text only", param=where)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be text", param=f"{where}.text")
    return plain_text(text, f"{where}.text")


def _optional_text(value: Any, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be text", param=where)
    return plain_text(value, where)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise InvalidRequest(f'{where} must be an object: {{"type": "function", "function": {{…}}}}', param=where)
    if tool.get("type") != "function":
        raise InvalidRequest(f"{where}.type is {tool.get('type')!r}; it must be 'function'", param=f"{where}.type")
    function = tool.get("function")
    where_function = f"{where}.function"
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"{where_function} must be an object with a name", param=where_function)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{where_function}.name must be the name of a function", param=f"{where_function}.name")
    _optional_text(function.get("description"), f"{where_function}.description")
    if not isinstance(function.get("parameters"), (Mapping, type(None))):
        where = f"{where_function}.parameters"
        raise InvalidRequest(f"{where} must be a JSON schema object", param=where)
    copy: dict[str, Any] = json_copy(tool, where)
    return copy


#: Where a value stands: the path in front of its last part, and that part. Spelled out only for an error: names can be
#: long, and below one there can be many values.
_Path = tuple["_Path", str] | tuple[()]


def json_copy(value: Any, where: str, path: _Path = (), depth: int = 0) -> Any:
    """A deep copy of a JSON value as plain dicts and lists; InvalidRequest for anything JSON cannot hold."""
    if isinstance(value, str):
        return _copied_text(value, where, path)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if depth >= 100:
        at = _spelled(where, path)
        raise InvalidRequest(f"{at} is nested more than 100 levels deep", param=at)
    if isinstance(value, Mapping):
        out = {}
        for key, item in value.items():
            if not isinstance(key, str):
                at = _spelled(where, path)
                raise InvalidRequest(f"{at} has the key {key!r}; keys of JSON objects are text", param=at)
            out[_copied_text(key, where, path)] = json_copy(item, where, (path, f".{key}"), depth + 1)
        return out
    if isinstance(value, (list, tuple)):
        return [json_copy(item, where, (path, f"[{i}]"), depth + 1) for i, item in enumerate(value)]
    at = _spelled(where, path)
    raise InvalidRequest(f"{at} holds a {type(value).__name__}, which JSON has no word for", param=at)


def _copied_text(text: str, where: str, path: _Path) -> str:
    try:
        return plain_text(text)
    except InvalidRequest:
        return plain_text(text, _spelled(where, path))  # raises again, and says where


def _spelled(where: str, path: _Path) -> str:
    parts: list[str] = []
    while path:
        path, part = path
        parts.append(part)
    return (where + "".join(reversed(parts)))[:200]
