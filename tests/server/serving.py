"""A server on a real socket, in a thread of this process, and what tests ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from qwen3_mlx.server.lifecycle import Watch, make_server
from qwen3_mlx.server.service import Service
from qwen3_mlx.server.settings import Settings
from qwen3_mlx.server.sockets import Bound, Listen, bind

HELLO = [{"role": "user", "content": "Hello"}]


class Running:
    """A server that runs, and a client of it."""

    def __init__(self, service: Service, bound: Bound) -> None:
        self.service = service
        self.bound = bound
        self.url = bound.url
        ready = threading.Event()
        self.server = make_server(service, Watch(ready.set))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert ready.wait(20), "the server does not start"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            self.loop = runner.get_loop()
            runner.run(self.server.serve(sockets=[self.bound.socket]))

    def stop(self) -> None:
        self.client.close()
        self.loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the server does not end"

    def chat(self, messages: Any = None, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"messages": messages or HELLO, **fields})

    def chat_stream(self, messages: Any = None, **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a streamed answer."""
        return chunks(self.chat(messages, stream=True, **fields))

    def raw(self, data: bytes = b"") -> socket.socket:
        """A connection of its own, on which ``data`` has been sent."""
        host, port = self.bound.socket.getsockname()[:2]
        connection = socket.create_connection((host, port), timeout=20)
        connection.sendall(data)
        return connection

    def idle(self, seconds: float = 10) -> None:
        """Waits until no slot is taken."""
        eventually(lambda: self.service.slots.taken == 0, seconds)


@contextlib.contextmanager
def serving(model: Any, **settings: Any) -> Iterator[Running]:
    bound = bind(Listen(port=0))
    service = Service(model, Settings(**{"names": ("demo",), "grace": 2.0, **settings}), "fp_test")
    running = Running(service, bound)
    try:
        yield running
    finally:
        running.stop()
        bound.close()


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.005)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, which must be well-formed and end with [DONE]."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == "" and blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a refusal."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/json"
    (name,) = response.json()
    error: dict[str, Any] = response.json()[name]
    assert name == "error" and set(error) == {"message", "type", "param", "code"} and error["message"]
    return error
