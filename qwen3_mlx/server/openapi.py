"""``/openapi.json``: what this server takes and gives, from the same table of fields that reads bodies. Pure."""

from __future__ import annotations

from typing import Any

from .chat_fields import Limits, chat_object
from .completions import completion_object
from .fields import JSON

_TEXT: JSON = {"type": "string"}
_MAYBE: JSON = {"type": ["string", "null"]}
_COUNT: JSON = {"type": "integer", "minimum": 0}


def _object(properties: JSON, *, optional: tuple[str, ...] = ()) -> JSON:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


ERROR = _object(
    {
        "error": {
            **_object({"message": {"type": "string", "minLength": 1}, "type": _TEXT, "param": _MAYBE, "code": _MAYBE}),
            "additionalProperties": False,
        }
    }
)
USAGE = _object(
    {
        "prompt_tokens": _COUNT,
        "completion_tokens": _COUNT,
        "total_tokens": _COUNT,
        "prompt_tokens_details": _object({"cached_tokens": _COUNT}),
        "completion_tokens_details": _object(
            {"reasoning_tokens": _COUNT, "budget_exhausted": {"type": "boolean"}}, optional=("budget_exhausted",)
        ),
    }
)
_FINISH: JSON = {"enum": ["stop", "length", "tool_calls"]}
_MESSAGE = _object(
    {
        "role": {"const": "assistant"},
        "content": _MAYBE,
        "refusal": {"type": "null"},
        "reasoning_content": _TEXT,
        "reasoning": _TEXT,
        "tool_calls": {
            "type": "array",
            "items": _object(
                {
                    "id": _TEXT,
                    "type": {"const": "function"},
                    "function": _object({"name": _TEXT, "arguments": _TEXT}),
                }
            ),
        },
    },
    optional=("reasoning_content", "reasoning", "tool_calls"),
)
_HEAD: JSON = {"id": _TEXT, "created": _COUNT, "model": _TEXT, "system_fingerprint": _TEXT}
_LOGPROBS: JSON = {"type": ["object", "null"]}


def _answer(kind: str, choice: JSON) -> JSON:
    choices = {"type": "array", "items": _object(choice), "minItems": 1}
    return _object({**_HEAD, "object": {"const": kind}, "choices": choices, "usage": USAGE})


CHAT = _answer(
    "chat.completion", {"index": _COUNT, "message": _MESSAGE, "logprobs": _LOGPROBS, "finish_reason": _FINISH}
)
COMPLETION = _answer(
    "text_completion", {"index": _COUNT, "text": _TEXT, "logprobs": _LOGPROBS, "finish_reason": _FINISH}
)
MODEL = _object(
    {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": _TEXT,
        "context_length": _COUNT,
    }
)
CACHE = _object(
    {
        "prompt_tokens": _COUNT,
        "cached_tokens": _COUNT,
        "diverges_at": {"type": ["integer", "null"]},
        "stored": _TEXT,
        "asked": _TEXT,
        "reason": _TEXT,
    }
)
#: One event of a stream; the last one's data is [DONE]. A comment comes when nothing else has for a while.
EVENT = _object({"data": {"type": "string", "contentMediaType": "application/json"}})
_REFUSALS = {
    "400": "the request is wrong; `param` says where",
    "401": "no API key, or an unknown one",
    "403": "this host or origin is not allowed",
    "404": "there is no such model",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "415": "the body is no JSON",
    "429": "the queue is full; see Retry-After",
    "500": "the server failed",
    "503": "shutting down, or out of memory",
    "504": "the request took longer than this server allows",
}


def document(limits: Limits, version: str, *, auth: bool, debug: bool) -> JSON:
    """The OpenAPI document of a server with these limits; ``auth``: keys are asked for."""
    named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    chat, completion = chat_object(limits).schema, completion_object(limits).schema
    paths: JSON = {
        "/v1/chat/completions": _post("Answer a conversation.", "Chat", chat, CHAT, stream=True),
        "/v1/completions": _post("Continue a text.", "Completion", completion, COMPLETION, stream=True),
        "/v1/models": _get("The models that can be asked for.", _list_of(MODEL)),
        "/v1/models/{name}": {**_get("One of them.", MODEL, "404"), "parameters": [named]},
        "/health": _get("Whether the server answers, and how busy it is.", _health()),
        "/metrics": {"get": _operation("Numbers for Prometheus.", {"text/plain": {"schema": _TEXT}}, ())},
    }
    if debug:
        told = "How much of this conversation is in the cache, and why not more."
        paths["/v1/debug/cache"] = _post(told, "Chat", chat, CACHE, stream=False)
    schemes = {"bearer": {"type": "http", "scheme": "bearer"}}
    secured: JSON = {"security": [{"bearer": []}]} if auth else {}
    if auth:
        paths["/health"]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {"title": "qwen3-mlx", "version": version, "description": "OpenAI's API on a local Qwen3."},
        "paths": paths,
        "components": {"schemas": {"Chat": chat, "Completion": completion}, "securitySchemes": schemes},
        **secured,
    }


def _post(told: str, name: str, body: JSON, answer: JSON, *, stream: bool) -> JSON:
    content: JSON = {"application/json": {"schema": answer}}
    if stream:
        content["text/event-stream"] = {"schema": EVENT}
    operation = _operation(told, content, tuple(_REFUSALS))
    asked = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {"post": {**operation, "requestBody": {"required": True, "content": asked}}}


def _get(told: str, answer: JSON, *refusals: str) -> JSON:
    return {"get": _operation(told, {"application/json": {"schema": answer}}, refusals)}


def _operation(told: str, content: JSON, refusals: tuple[str, ...]) -> JSON:
    wrong = {"application/json": {"schema": ERROR}}
    statuses = sorted({*refusals, "400", "401", "403"})
    responses: dict[str, Any] = {"200": {"description": "the answer", "content": content}}
    responses |= {status: {"description": _REFUSALS[status], "content": wrong} for status in statuses}
    return {"summary": told, "responses": responses}


def _list_of(item: JSON) -> JSON:
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": item, "minItems": 1}})


def _health() -> JSON:
    return _object({"status": {"const": "ok"}, "running": _COUNT, "waiting": _COUNT})
