"""The routes, as an ASGI application: who may come in, what each path does, one log line for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from ..errors import InvalidRequest
from . import log, security
from .chat import ChatAnswer, chat_task
from .completions import CompletionAnswer, completion_task
from .errors import ApiError, described
from .metrics import CONTENT_TYPE
from .openapi import document
from .record import Record
from .runs import ClientGone, Prepared, Run
from .service import Service, renamed
from .transport import StreamFailed, finish, read_json, send_stream, send_whole, watching
from .wire import Answer, new_id

Handler = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the way back to its client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Record, headers: dict[str, str]) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.record = record
        self.body: Any = None
        self.headers = headers
        self.started = False
        self._held: list[Message] | None = [] if scope["http_version"] == "1.0" else None

    async def send(self, message: Message) -> None:
        """Passes on to the client; HTTP/1.0 knows no chunks, so there a stream goes out in one piece."""
        if message["type"] == "http.response.start":
            self.started = True
            self.record.status = message["status"]
        if self._held is None:
            await self._send(message)
            return
        self._held.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            body = b"".join(part.get("body", b"") for part in self._held[1:])
            start = self._held[0]
            if not any(name == b"content-length" for name, _ in start["headers"]):
                start["headers"] = [*start["headers"], (b"content-length", str(len(body)).encode())]
            await self._send(start)
            await self._send({"type": "http.response.body", "body": body})

    async def reply(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        await send_whole(self.send, status, body, {**self.headers, **(headers or {})})


class App:
    """The ASGI application of a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._router = Router(
            [
                _route("/v1/chat/completions", self.chat, "POST"),
                _route("/v1/completions", self.completion, "POST"),
                _route("/v1/models", self.models, "GET"),
                _route("/v1/models/{name:path}", self.one_model, "GET"),
                _route("/health", self.health, "GET"),
                _route("/metrics", self.metrics, "GET"),
                _route("/openapi.json", self.openapi, "GET"),
                *([_route("/v1/debug/cache", self.debug_cache, "POST")] if service.settings.debug else []),
            ],
            redirect_slashes=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        record = Record(new_id("req"), scope["method"], scope["path"])
        exchange = Exchange(scope, receive, send, record, {"x-request-id": record.id})
        try:
            await self._serve(exchange)
        except ClientGone:
            record.status = 499
        except StreamFailed as failed:
            record.error = type(failed.error).__name__
        except HTTPException as error:
            message = {404: "there is nothing at this path", 405: "this path has no such method"}
            told = message.get(error.status_code, str(error.detail))
            await self._refuse(
                exchange, ApiError(error.status_code, f"{told}: see /openapi.json", headers=error.headers)
            )
        except Exception as error:
            await self._refuse(exchange, error)
        self.service.metrics.note(record)
        log.request(record.fields(), quiet=record.path in ("/health", "/metrics"))

    async def _serve(self, exchange: Exchange) -> None:
        scope, settings = exchange.scope, self.service.settings
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host")
        if len(headers.getlist("host")) > 1 or len(headers.getlist("origin")) > 1:
            raise ApiError(400, "the request has more than one Host or Origin header")  # which of them holds?
        if settings.check_host:
            if host is None and scope["http_version"] != "1.0":
                raise ApiError(400, "the request has no Host header")
            if host is not None:
                security.check_host(host, settings.allowed_hosts)
        exchange.headers |= security.cors_headers(origin, settings.origins)
        security.check_origin(origin, host, settings.origins)
        if scope["method"] == "OPTIONS" and origin is not None:
            asked = security.preflight_headers(headers.get("access-control-request-headers"))
            await send_whole(exchange.send, 204, b"", {**exchange.headers, **asked})
            return
        if scope["path"] not in security.OPEN_PATHS:
            key = security.key_of(headers.get("authorization"), headers.get("x-api-key"))
            security.check_key(key, settings.api_keys)
        scope["app"], scope["exchange"] = self, exchange
        await self._router(scope, exchange.receive, exchange.send)

    async def _refuse(self, exchange: Exchange, error: Exception) -> None:
        status, document, headers = described(error)
        exchange.record.status = status
        exchange.record.error = type(error).__name__
        if not exchange.started:
            await exchange.reply(status, document, headers)

    # -- routes --------------------------------------------------------------------------------------------------

    async def chat(self, exchange: Exchange) -> None:
        body = await self._body(exchange)
        service = self.service
        task = chat_task(body, service.limits)
        service.check_model(task.model)
        head = service.head("chatcmpl", task.model)
        answer = ChatAnswer(head, task, service.model.tokenizer.token_bytes)
        await self._answer(exchange, answer, task.n, service.chat_requests(task), task.stream)

    async def completion(self, exchange: Exchange) -> None:
        body = await self._body(exchange)
        service = self.service
        task = completion_task(body, service.limits)
        service.check_model(task.model)
        answer = CompletionAnswer(service.head("cmpl", task.model), task, service.model.tokenizer.token_bytes)
        await self._answer(exchange, answer, task.choices, service.completion_requests(task), task.stream)

    async def models(self, exchange: Exchange) -> None:
        listed = [self._described(name) for name in self.service.settings.names]
        await exchange.reply(200, {"object": "list", "data": listed})

    async def one_model(self, exchange: Exchange) -> None:
        name = exchange.scope["path_params"]["name"]
        self.service.check_model(name)
        await exchange.reply(200, self._described(name))

    async def health(self, exchange: Exchange) -> None:
        slots = self.service.slots
        await exchange.reply(200, {"status": "ok", "running": slots.taken - slots.waiting, "waiting": slots.waiting})

    async def metrics(self, exchange: Exchange) -> None:
        await exchange.reply(200, self.service.metrics.text(), {"content-type": CONTENT_TYPE})

    async def openapi(self, exchange: Exchange) -> None:
        service, settings = self.service, self.service.settings
        auth, debug = bool(settings.api_keys), settings.debug
        await exchange.reply(200, document(service.limits, version("qwen3-mlx"), auth=auth, debug=debug))

    async def debug_cache(self, exchange: Exchange) -> None:
        task = chat_task(await self._body(exchange), self.service.limits)
        self.service.check_model(task.model)
        report = asdict(await asyncio.to_thread(self.service.explain, task))
        if not self.service.settings.debug_text:
            report["stored"] = ""
        await exchange.reply(200, report)

    def _described(self, name: str) -> dict[str, Any]:
        service = self.service
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "qwen3-mlx",
            "context_length": service.model.context,
        }

    # -- inside --------------------------------------------------------------------------------------------------

    async def _body(self, exchange: Exchange) -> Any:
        settings = self.service.settings
        exchange.body = await read_json(exchange.scope, exchange.receive, settings.body_bytes, settings.patience)
        return exchange.body

    async def _answer(
        self, exchange: Exchange, answer: Answer, count: int, prepare: Callable[[], Prepared], stream: bool
    ) -> None:
        service, record = self.service, exchange.record
        record.stream, record.choices = stream, count
        with service.run(count) as run:
            async with watching(exchange.receive, run):
                try:
                    await self._write(exchange, run, answer, prepare, stream)
                finally:
                    record.finished = run.finished
                    if service.receipts is not None:
                        service.receipts.write(record.id, exchange.body, run.requests, run.events)

    async def _write(
        self, exchange: Exchange, run: Run, answer: Answer, prepare: Callable[[], Prepared], stream: bool
    ) -> None:
        service = self.service
        try:
            await run.start(service.model.engine, prepare)
        except InvalidRequest as error:
            raise renamed(error) from error
        if stream:
            await send_stream(run, answer, exchange.send, exchange.headers, service.settings.keep_alive)
        else:
            await finish(run)
            await exchange.reply(200, answer.whole(run.events))


class _Endpoint:
    """A handler as the ASGI application that a router wants."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope["exchange"])


def _route(path: str, handler: Handler, method: str) -> Route:
    return Route(path, _Endpoint(handler), methods=[method])
