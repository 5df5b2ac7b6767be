"""Between ASGI and the rest: bodies in, JSON and event streams out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ..errors import InvalidRequest
from .errors import ApiError, described
from .inbox import Signal
from .runs import ClientGone, Run
from .wire import DONE, KEEP_ALIVE, Answer, sse

STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


async def read_json(scope: Scope, receive: Receive, limit: int, patience: float) -> Any:
    """The body as JSON. Raises ApiError for one that is too large, too slow or of another type, InvalidRequest for
    what is no JSON."""
    headers = Headers(scope=scope)
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, f"the body is {kind[:80]!r}: send JSON, with 'Content-Type: application/json'")
    body = await read_body(headers, receive, limit, patience)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if body else "it is empty"
        raise InvalidRequest(f"the body is no JSON: {error.msg} ({where})") from None


async def read_body(headers: Headers, receive: Receive, limit: int, patience: float) -> bytes:
    too_large = ApiError(413, f"the body is larger than the {limit:,} bytes that this server takes")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client has gone before its body had come")
                body += message.get("body", b"")
                if len(body) > limit:
                    raise too_large
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise ApiError(
            408, f"the body did not come within {patience:g} seconds", code="slow_body", headers={"connection": "close"}
        ) from None


@contextlib.asynccontextmanager
async def watching(receive: Receive, run: Run) -> AsyncIterator[None]:
    """Tells the run when its client goes away."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        run.signal(Signal.GONE)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


async def send_whole(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """An answer in one piece; JSON unless ``headers`` say otherwise."""
    named = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    await send({"type": "http.response.start", "status": status, "headers": raw(named)})
    await send({"type": "http.response.body", "body": body})


async def send_stream(run: Run, answer: Answer, send: Send, headers: Mapping[str, str], quiet: float) -> None:
    """Writes a run's events as they come, those that are there together in one go. What fails before the first of them
    is raised, and so can still have a status of its own; what fails later becomes an event of the stream."""
    loop = asyncio.get_running_loop()
    started, written = False, loop.time()
    timer = loop.call_later(quiet, run.signal, Signal.QUIET)
    try:
        while run.open:
            try:
                events = await run.more()
                data = answer.feed(events) if events else b""
            except ClientGone:
                raise
            except Exception as error:
                if not started:
                    raise
                data = sse(described(error)[1]) + DONE
                await send({"type": "http.response.body", "body": data})
                raise StreamFailed(error) from None
            if not events:
                timer = loop.call_later(quiet, run.signal, Signal.QUIET)
                data = KEEP_ALIVE if loop.time() - written >= quiet * 0.9 else b""
            if not run.open:
                data += answer.end(run.finished)
            if not started:
                await send(
                    {"type": "http.response.start", "status": 200, "headers": raw({**STREAM_HEADERS, **headers})}
                )
                started = True
            if data:
                written = loop.time()
                await send({"type": "http.response.body", "body": data, "more_body": bool(run.open)})
    finally:
        timer.cancel()


class StreamFailed(Exception):
    """The stream has told its client of an error; for the log."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


async def finish(run: Run) -> None:
    """Waits until all choices have come to their end."""
    while run.open:
        await run.more()


def raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
