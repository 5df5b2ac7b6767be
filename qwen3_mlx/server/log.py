"""The server's log: a line per request, as text or as JSON, on stderr. What clients write is never in it."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

logger = logging.getLogger("qwen3_mlx.server")

Format = Literal["text", "json"]


_PLAIN = re.compile(r"[!#-<>-~]+")  # ASCII without spaces, quotes and equals signs


def _shown(value: Any) -> str:
    """A field's value that ends where it seems to: what a client writes (a path) cannot pass for another field."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = getattr(record, "fields", {})
        line = " ".join([moment, record.getMessage(), *(f"{name}={_shown(value)}" for name, value in fields.items())])
        line = "".join(char if char.isprintable() else "?" for char in line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        out: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out, default=str)  # ASCII: some characters beyond it end a line, or steer a terminal


def set_up(form: Format, level: str) -> None:
    """Sends this server's log, and warnings of the HTTP library, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name, least in (("qwen3_mlx", level.upper()), ("uvicorn", "ERROR")):
        one = logging.getLogger(name)
        one.handlers[:] = [handler]
        one.setLevel(least)
        one.propagate = False


def event(message: str, **fields: Any) -> None:
    """One line about the server itself."""
    logger.info(message, extra={"fields": fields})


def request(fields: Mapping[str, Any], *, quiet: bool) -> None:
    """One line about a request; ``quiet`` ones are of interest to those who debug."""
    logger.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": fields})
