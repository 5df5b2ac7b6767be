"""From a bound socket to the end of the process: ready, signals, the parent's death, streams that finish first."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from . import log
from .app import App
from .connection import Bounds, connection_class
from .service import Service

PARENT_SECONDS = 0.25  # between two looks after the parent
LAST_SECONDS = 2.0  # for streams that were cancelled to say so


@dataclass(frozen=True, slots=True)
class Watch:
    """``ready``: called when requests are answered; ``parent``: a process whose end is ours too."""

    ready: Callable[[], None] = lambda: None
    parent: int | None = None


class Server(uvicorn.Server):
    """uvicorn's server with this one's way of ending: no new requests, ``grace`` seconds for those that run, then they
    are told. A second signal leaves out the grace."""

    def __init__(self, config: uvicorn.Config, service: Service, watch: Watch) -> None:
        super().__init__(config)
        self._service = service
        self._watch = watch
        self.signal: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handled: list[int] = []
        with contextlib.suppress(ValueError, RuntimeError):  # not on a thread
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop, number)
                handled.append(number)
        try:
            yield
        finally:
            for taken in handled:
                loop.remove_signal_handler(taken)

    def stop(self, number: int | None = None) -> None:
        """Ends the server; called again, without waiting for anybody. To be called on its event loop."""
        if self.should_exit:
            self._give_up()
        self.signal = self.signal or number
        self.should_exit = True

    def _give_up(self) -> None:
        """Tells all that run, and soon lets go of whoever does not listen, or is still sending its request."""
        self._service.cancel_all()
        asyncio.get_running_loop().call_later(LAST_SECONDS, self._drop)

    def _drop(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watch.ready()
        if self._watch.parent is not None:
            self._parents = asyncio.create_task(self._look_after(self._watch.parent))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service = self._service
        service.closing = True
        log.event("stopping", running=service.slots.taken)
        timer = asyncio.get_running_loop().call_later(service.settings.grace, self._give_up)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    async def _look_after(self, parent: int) -> None:
        ours = os.getppid() == parent
        while not self.should_exit:
            if (ours and os.getppid() != parent) or not _alive(parent):
                log.event("the parent has gone", parent=parent)
                self.stop()
                self._give_up()
                return
            await asyncio.sleep(PARENT_SECONDS)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make_server(service: Service, watch: Watch | None = None) -> Server:
    """The server of a service; ``await server.serve(sockets=[...])`` runs it until ``server.stop()`` or a signal."""
    settings = service.settings
    message_bytes = settings.header_bytes + 8 * settings.body_bytes  # chunks of a byte have borders of five
    bounds = Bounds(settings.header_bytes, message_bytes, settings.connections, settings.patience)
    options: dict[str, Any] = {
        "http": connection_class(bounds),
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 30,
        # By then all connections have been dropped; whatever still runs is cancelled.
        "timeout_graceful_shutdown": int(settings.grace + 2 * LAST_SECONDS),
    }
    return Server(uvicorn.Config(App(service), **options), service, watch or Watch())


def tell_ready(fd: int, document: dict[str, Any]) -> None:
    """Writes one line of JSON to a descriptor that whoever started us reads, and closes it."""
    with contextlib.suppress(OSError), os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(json.dumps(document) + "\n")
