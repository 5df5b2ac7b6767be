"""uvicorn's HTTP connection with the bounds that it lacks: headers, their time, slow readers, how many there are."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from .errors import error_object

PIPELINED = 16  # requests that a connection may send ahead


@dataclass(frozen=True, slots=True)
class Bounds:
    """``header_bytes`` of one request, ``message_bytes`` of all of it as it comes over the wire (chunks have borders,
    and may have trailers), ``connections`` at a time, ``patience`` in seconds."""

    header_bytes: int
    message_bytes: int
    connections: int
    patience: float


class Connection(HttpToolsProtocol):
    """Closes on headers that are too large or do not come, and on a client that does not read."""

    def __init__(self, *args: Any, bounds: Bounds, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._header_bytes = 0
        self._message_bytes = 0
        self._in_headers = True
        self._headers_due: asyncio.TimerHandle | None = None
        self._reader_due: asyncio.TimerHandle | None = None
        self._rest_due: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None  # the one that runs; uvicorn's ``cycle`` is the last to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            self._refuse(503, "too many connections: close some, or try again later")
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._headers_due)
        self._stop(self._reader_due)
        self._stop(self._rest_due)
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self.parser is None:
            return
        if self._in_headers:
            self._await_headers()
            self._header_bytes += len(data)
        self._message_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._message_bytes > self._bounds.message_bytes:
            self._refuse(413, f"the request is larger than {self._bounds.message_bytes:,} bytes")
        elif self._in_headers and self._header_bytes > self._bounds.header_bytes:
            self._refuse(431, f"the headers are larger than {self._bounds.header_bytes:,} bytes")
        elif len(self.pipeline) > PIPELINED:
            self._refuse(429, f"more than {PIPELINED} requests were sent ahead on one connection")
        elif self.pipeline and len(self.cycle.body) > HIGH_WATER_LIMIT:
            self._refuse(413, f"a request that is sent ahead may have {HIGH_WATER_LIMIT:,} bytes until its turn comes")

    def _feed(self, data: bytes) -> None:
        """Has the parser read. A client that asks for another protocol (Java's, for HTTP/2) gets an answer in this one:
        the parser would drop the body of its request, and is told of one that does not ask."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._upgrades:
                    return  # CONNECT
                version = self.parser.get_http_version().encode()
                lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
                lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
                data = b"\r\n".join([*lines, b"", data[upgrade.args[0] :]])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            except httptools.HttpParserError:
                self.send_400_response("")
                return
            else:
                return

    @property
    def _upgrades(self) -> bool:
        """Whether the request asks for another protocol."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > 200:
            raise ValueError("too many headers")  # becomes a 400

    def on_headers_complete(self) -> None:
        if self._upgrades:
            return
        self._in_headers = False
        self._header_bytes = 0
        self._stop(self._headers_due)
        self._headers_due = None
        super().on_headers_complete()
        if self.pipeline:
            self.flow.resume_reading()  # else nobody would see that the client goes
        else:
            self._answered = self.cycle

    def on_message_complete(self) -> None:
        if self._upgrades:
            return
        super().on_message_complete()
        self._in_headers = True
        self._message_bytes = 0
        self._stop(self._rest_due)

    def on_response_complete(self) -> None:
        following = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        self._answered = following or self._answered
        if not self._in_headers and not self.transport.is_closing():
            # Answered before its body had come: it is thrown away, so that the client can read why; but not for ever.
            self._rest_due = self.loop.call_later(self._bounds.patience, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        # What was written is thrown away, and the client counts as gone.
        self._reader_due = self.loop.call_later(self._bounds.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop(self._reader_due)
        self._reader_due = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request that can be understood")

    def _slow_headers(self) -> None:
        if self._header_bytes:
            self._refuse(408, f"the headers did not come within {self._bounds.patience:g} seconds")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """An error object, where an answer can still be written, and the end of the connection."""
        if not self.transport.is_closing():
            cycle = self._answered
            if cycle is None or not cycle.response_started or (cycle.response_complete and self._in_headers):
                body = json.dumps(error_object(status, message)).encode()
                head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
                self.transport.write(STATUS_LINE[status] + head + body)
            self._leave()
            self.transport.close()

    def _leave(self) -> None:
        """Tells the request that runs that nobody reads its answer: what it still writes goes nowhere."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _await_headers(self) -> None:
        if self._headers_due is None:
            self._headers_due = self.loop.call_later(self._bounds.patience, self._slow_headers)

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def connection_class(bounds: Bounds) -> Any:
    """What uvicorn makes for each connection."""
    return partial(Connection, bounds=bounds)
