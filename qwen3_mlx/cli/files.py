"""Reading what users hand to a command: prompts from stdin, conversations and tools from JSON files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")


def check_text(text: str, name: str = "the prompt") -> str:
    """The text itself; InvalidRequest when it is blank or holds what UTF-8 cannot (a terminal in another encoding)."""
    if not text.strip():
        raise InvalidRequest(f"{name} is empty: write something to answer", param="prompt")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not UTF-8 text: set a UTF-8 locale, or pipe it in", param="prompt") from None
    return text


def read_stdin() -> str:
    """All of standard input, without its last line's end."""
    if sys.stdin is None:
        return ""
    return decode(sys.stdin.buffer.read(), "stdin").removesuffix("\n").removesuffix("\r")


def read_json(path: str) -> Any:
    """A JSON file, or stdin for ``-``. InvalidRequest names file, line and column of a mistake."""
    name = "stdin" if path == "-" else path
    try:
        text = read_stdin() if path == "-" else decode(Path(path).read_bytes(), name)
    except OSError as error:
        raise InvalidRequest(f"{name}: cannot be read ({error.strerror or error}): check the path") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}, line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"{where}: not valid JSON ({error.msg}): correct it there") from None
    except RecursionError:
        raise InvalidRequest(f"{name}: JSON nested too deeply: flatten it") from None


def parse_messages(value: Any, name: str) -> list[dict[str, Any]]:
    """A conversation out of a JSON value: a list of messages, or an object that holds one under ``messages``.

    Only the outer shape is checked here; what a message may hold is the library's business.
    """
    if isinstance(value, dict):
        value = value.get("messages")
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f'{name}: expected a list of messages such as [{{"role": "user", "content": "Hi"}}]')
    for index, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise InvalidRequest(f"{name}: messages[{index}] must be an object whose role is one of {', '.join(ROLES)}")
    return value


def unmarked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as the model may see it: without `qwen3-mlx chat`'s mark of an answer that was stopped."""
    return [{key: value for key, value in message.items() if key != "interrupted"} for message in messages]


def parse_tools(value: Any, name: str) -> list[dict[str, Any]]:
    """Tool schemas in OpenAI's shape out of a JSON value: a list, or an object that holds one under ``tools``."""
    if isinstance(value, dict):
        value = value.get("tools")
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise InvalidRequest(f'{name}: expected a list of tools such as [{{"type": "function", "function": {{...}}}}]')
    return value


def decode(data: bytes, name: str) -> str:
    """UTF-8 bytes, with or without a byte order mark, as text; InvalidRequest names the place of what is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: not UTF-8 text (byte {error.start + 1}): convert it to UTF-8") from None
