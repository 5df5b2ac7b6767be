"""The fields of a chat body, and those it shares with a plain completion's: what is read, ignored, refused. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import InvalidRequest
from .fields import (
    JSON,
    Absent,
    Choice,
    Either,
    Field,
    Flag,
    Ignored,
    Integer,
    ListOf,
    Number,
    Object,
    Text,
    check_length,
    refuse,
)
from .thinking import FIELDS as THINKING

SEED = 1 << 63
TOKENS = 1 << 53  # what every JSON parser reads as a whole number; the context bounds them anyway


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a body. ``vocab_size``: ids that the model knows; ``context``: tokens of prompt and answer; ``names``:
    what the model is called."""

    vocab_size: int
    context: int
    names: tuple[str, ...] = ()
    n: int = 8
    messages: int = 4096
    tools: int = 256
    prompts: int = 64


#: What SDKs send and what changes nothing here.
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "verbosity"),
)
HINTS = {
    "guided_json": "send response_format",
    "guided_regex": "only response_format with a JSON schema is",
    "guided_choice": "send response_format with an enum",
    "grammar": "only response_format with a JSON schema is",
    "json_schema": "send it as response_format",
    "num_predict": "send max_completion_tokens",
    "typical_p": "top_p, top_k and min_p are",
    "suffix": "the model continues a text, it fills none",
    "options": "sampling values stand in the body itself",
}


def shared_fields(limits: Limits) -> dict[str, Field]:
    """What chat and plain completions have in common."""
    tokens = Integer(1, TOKENS, note="tokens")
    return {
        "model": ModelName(limits.names),
        "stream": Flag(),
        "stream_options": Object({"include_usage": Flag(), "include_obfuscation": Ignored()}),
        "n": Integer(1, limits.n),
        "max_tokens": tokens,
        "temperature": Number(0, 100, note="0 is greedy, 0.6 is usual"),
        "top_p": Number(0, 1, open_low=True, note="1 turns it off"),
        "top_k": Integer(-1, limits.vocab_size, note="0 or -1 turns it off"),
        "min_p": Number(0, 1, note="0 turns it off"),
        "repetition_penalty": Number(0.01, 100, note="1 turns it off"),
        "presence_penalty": Number(-100, 100, note="0 turns it off"),
        "frequency_penalty": Number(-100, 100, note="0 turns it off"),
        "logit_bias": Bias(limits.vocab_size),
        "seed": Integer(-SEED, SEED - 1),
        "stop": Either("a string or a list of up to 4", {str: Text(1, 1024), list: ListOf(Text(1, 1024), most=4)}),
        **dict.fromkeys(IGNORED, Ignored()),
    }


@lru_cache(maxsize=8)
def chat_object(limits: Limits) -> Object:
    """The body of ``/v1/chat/completions``."""
    return Object(
        {
            "messages": Messages(limits.messages),
            **shared_fields(limits),
            "max_completion_tokens": Integer(1, TOKENS, note="tokens, those of the thought included"),
            "logprobs": Flag(),
            "top_logprobs": Integer(0, 20),
            "tools": Tools(limits.tools),
            "tool_choice": ToolChoices(),
            "parallel_tool_calls": Flag(),
            "response_format": ResponseFormat(),
            **THINKING,
            "modalities": ListOf(Choice("text"), 1, 1, 'the list ["text"]: this model writes text only'),
            "prediction": Absent("nothing is predicted here"),
            "audio": Absent("this model reads and writes text only"),
            "web_search_options": Absent("this server searches nothing; offer a tool"),
            "functions": Absent("it is the old form of tools: send tools"),
            "function_call": Absent("it is the old form of tool_choice: send tool_choice"),
        },
        required=("messages",),
        hints=HINTS,
    )


class ModelName:
    """The name of a model. Whether there is one of this name is another question, with another status."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._text = Text(1, 512)
        self.names = names

    @property
    def schema(self) -> JSON:
        return {"enum": list(self.names)} if self.names else self._text.schema

    def read(self, value: Any, where: str) -> str:
        return self._text.read(value, where)


class Bias:
    """``{"token id": number}``."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._value = Number(-1e9, 1e9)

    @property
    def schema(self) -> JSON:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^({numbers_below(self.vocab_size)})$"},
            "additionalProperties": self._value.schema,
            "maxProperties": 1024,
            "description": f"token ids (below {self.vocab_size}) and what is added to their logits",
        }

    def read(self, value: Any, where: str) -> dict[int, float]:
        if not isinstance(value, dict):
            raise refuse(where, "an object of token ids and numbers", value)
        check_length(tuple(value), where, 0, 1024)
        out = {}
        for name, number in value.items():
            token = int(name) if re.fullmatch("0|[1-9][0-9]{0,9}", name) else -1
            if not 0 <= token < self.vocab_size:
                raise refuse(f"{where}.{name[:20]}", f"named by a token id below {self.vocab_size:,}", name)
            out[token] = self._value.read(number, f"{where}.{name}")
        return out


def numbers_below(bound: int) -> str:
    """A regular expression for the decimal numbers from 0 to ``bound`` - 1."""
    digits = str(bound)
    shorter = f"[1-9][0-9]{{0,{len(digits) - 2}}}" if len(digits) > 1 else ""
    ways = ["0", shorter]
    for at, digit in enumerate(digits):  # equal to the bound up to here, then smaller
        low = 0 if at else 1
        if int(digit) > low:
            ways.append(f"{digits[:at]}[{low}-{int(digit) - 1}][0-9]{{{len(digits) - at - 1}}}")
    return "|".join(way for way in ways if way)


_TEXT_PARTS: JSON = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"enum": ["text", "input_text", "output_text"]}, "text": {"type": "string"}},
        "required": ["type", "text"],
    },
}
_CONTENT: JSON = {
    "anyOf": [{"type": "string"}, _TEXT_PARTS],
    "description": "the last message of the user has to say something",
}
_CALLS: JSON = {
    "type": ["array", "null"],
    "items": {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "type": {"enum": ["function", None]},
            "function": {
                "type": "object",
                "properties": {"name": {"type": "string", "minLength": 1}, "arguments": {"type": ["string", "null"]}},
                "required": ["name"],
            },
        },
        "required": ["function"],
    },
}


class Messages:
    """A conversation. What stands in a message is read where conversations are (``text.messages``): here they are
    counted and described."""

    def __init__(self, most: int) -> None:
        self.most = most

    @property
    def schema(self) -> JSON:
        optional: JSON = {"type": ["string", "null"]}
        said = {
            "type": "object",
            "properties": {"role": {"enum": ["system", "developer", "user"]}, "content": _CONTENT, "name": optional},
            "required": ["role", "content"],
        }
        answered = {
            "type": "object",
            "properties": {
                "role": {"const": "assistant"},
                "content": {"anyOf": [{"type": "string"}, {"type": "null"}, _TEXT_PARTS]},
                "reasoning_content": optional,
                "reasoning": optional,
                "name": optional,
                "tool_calls": _CALLS,
            },
            "required": ["role"],
        }
        result = {
            "type": "object",
            "properties": {
                "role": {"const": "tool"},
                "content": {"anyOf": [{"type": "string"}, _TEXT_PARTS]},
                "tool_call_id": optional,
                "name": optional,
            },
            "required": ["role", "content"],
            "description": "follows the message with its call",
        }
        kinds = [said, answered, result]
        return {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": self.most}

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise refuse(where, "a list of messages", value)
        check_length(value, where, 1, self.most)
        return value


class Tools:
    """Functions that may be called; read in full where they are used (``text.messages``)."""

    def __init__(self, most: int) -> None:
        self.most = most

    @property
    def schema(self) -> JSON:
        function = {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1},
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"]},
                "strict": {"type": ["boolean", "null"]},
            },
            "required": ["name"],
        }
        tool = {
            "type": "object",
            "properties": {"type": {"const": "function"}, "function": function},
            "required": ["type", "function"],
        }
        return {"type": "array", "items": tool, "maxItems": self.most}

    def read(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise refuse(where, "a list of tools", value)
        check_length(value, where, 0, self.most)
        for i, tool in enumerate(value):
            function = tool.get("function") if isinstance(tool, Mapping) else None
            strict = function.get("strict") if isinstance(function, Mapping) else None
            if strict is not None and not isinstance(strict, bool):
                raise refuse(f"{where}[{i}].function.strict", "true or false", strict)
        return value


class ToolChoices:
    """``auto``, ``none``, ``required`` or a function's name."""

    _named = Object(
        {"type": Choice("function"), "function": Object({"name": Text(1)}, required=("name",))},
        required=("type", "function"),
    )
    _field = Either("auto, none, required or a function", {str: Choice("auto", "none", "required"), dict: _named})

    @property
    def schema(self) -> JSON:
        return self._field.schema

    def read(self, value: Any, where: str) -> Any:
        return self._field.read(value, where)


class ResponseFormat:
    """``text``, ``json_object`` or a JSON schema."""

    _described = Object(
        {"name": Text(0, 256), "description": Text(), "strict": Flag(), "schema": Object({}, open=True)},
        required=("schema",),
    )

    @property
    def schema(self) -> JSON:
        plain = {
            "type": "object",
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "required": ["type"],
            "additionalProperties": False,
        }
        described = {
            "type": "object",
            "properties": {"type": {"const": "json_schema"}, "json_schema": self._described.schema},
            "required": ["type", "json_schema"],
            "additionalProperties": False,
        }
        return {"anyOf": [plain, described]}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        kinds = Choice("text", "json_object", "json_schema")
        found = Object({"type": kinds, "json_schema": Ignored()}, required=("type",)).read(value, where)
        described = value.get("json_schema")
        if found["type"] != "json_schema":
            if described is not None:
                raise InvalidRequest(f"{where}.json_schema goes with the type json_schema", f"{where}.json_schema")
            return found
        if described is None:
            inner = f"{where}.json_schema"
            raise InvalidRequest(f'{inner} is missing: send {{"name": ..., "schema": {{...}}}}', param=inner)
        self._described.read(described, f"{where}.json_schema")
        return {"type": "json_schema", "json_schema": described}
