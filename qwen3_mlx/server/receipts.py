"""Requests and their answers as files, for those who ask for them with ``--dump-requests``. Pure but for the files.

A receipt holds what is needed to get the same answer again: the body, the tokens of the prompt, every sampling value
with its seed, and what it was computed with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ..errors import InvalidRequest
from ..types import Event, Finished, Request, TextDelta, ThinkingDelta, ToolCallDelta
from .log import logger


class Receipts:
    """Writes into ``folder``, which only its owner may read. ``made_with``: what all receipts of this server share."""

    def __init__(self, folder: str, made_with: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        self._made_with = dict(made_with)
        make_folder(folder)

    def write(self, name: str, body: Any, requests: Sequence[Request], choices: Sequence[Sequence[Event]]) -> None:
        """One request's receipt. A full disk costs the receipt, not the answer."""
        document = {
            "id": name,
            "time": time.time(),
            **self._made_with,
            "body": body,
            "choices": [_choice(one, events) for one, events in zip(requests, choices, strict=False)],
        }
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}.json"
        try:
            data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    out.write(data)
            except OSError:
                path.unlink(missing_ok=True)  # half a receipt is none
                raise
        except (OSError, TypeError) as error:
            logger.warning("a receipt was not written", extra={"fields": {"path": path, "reason": error}})


def make_folder(folder: str) -> None:
    """Raises InvalidRequest if there can be none of this name."""
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"--dump-requests {folder}: {error.strerror}", param="dump_requests") from None


def _choice(request: Request, events: Sequence[Event]) -> dict[str, Any]:
    last = events[-1] if events else None
    calls = [asdict(event) for event in events if isinstance(event, ToolCallDelta)]
    out: dict[str, Any] = {
        "prompt": list(request.prompt),
        "params": asdict(request.params),
        "thinking": request.thinking,
        "thinking_budget": request.thinking_budget,
        "max_completion_tokens": request.max_completion_tokens,
        "reasoning": "".join(event.text for event in events if isinstance(event, ThinkingDelta)),
        "text": "".join(event.text for event in events if isinstance(event, TextDelta)),
        "tool_calls": calls,
    }
    if isinstance(last, Finished):
        out |= {"finish_reason": last.finish_reason, "usage": asdict(last.usage), "timings": asdict(last.timings)}
    return out
