"""Pieces that all of OpenAI's answers are made of: usage, log-probabilities, server-sent events. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from ..types import Event, Finished, TokenLogprob

TokenBytes = Callable[[int], bytes]
"""The bytes that a token stands for."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in all parts of one answer."""

    id: str
    created: int
    model: str
    fingerprint: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class Answer(Protocol):
    """One dialect's way of writing the events of a request's choices. A choice is known by its index."""

    def feed(self, events: Sequence[tuple[int, Event]]) -> bytes:
        """What goes over the wire for events that came together, in their order."""
        ...

    def end(self, finished: Sequence[Finished]) -> bytes:
        """What follows when all choices have finished."""
        ...

    def whole(self, choices: Sequence[Sequence[Event]]) -> bytes:
        """The answer in one piece: a JSON document, from all events of each choice."""
        ...


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def sse(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"


def usage_of(finished: Sequence[Finished], prompts: int = 1) -> dict[str, Any]:
    """Usage of a request's choices together, which are in the order of its ``prompts``. A prompt is counted once, with
    what was cached for its first choice; completions are summed."""
    usages = [event.usage for event in finished]
    firsts = usages[:: max(len(usages) // prompts, 1)]
    prompt = sum(usage.prompt_tokens for usage in firsts)
    completion = sum(usage.completion_tokens for usage in usages)
    details: dict[str, Any] = {"reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)}
    if any(usage.budget_exhausted for usage in usages):
        details["budget_exhausted"] = True
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in firsts)},
        "completion_tokens_details": details,
    }


def logprob_entry(entry: TokenLogprob, token_bytes: TokenBytes) -> dict[str, Any]:
    """One token of OpenAI's ``logprobs.content``."""
    return {
        **_token(entry.token_id, entry.logprob, token_bytes),
        "top_logprobs": [_token(token, logprob, token_bytes) for token, logprob in entry.top],
    }


def _token(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    data = token_bytes(token)
    # JSON has no minus infinity; -9999 is what OpenAI's API says instead.
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}
