"""A model server of one's own: started as a child, asked over a Unix socket, gone with its parent.

The standard library is enough for all of it.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class ServerError(Exception):
    """The server did not start, or refused a request. The message can be shown."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


class LocalServer:
    """``qwen3-mlx serve`` as a child of this process. ``extra``: further options of the command."""

    def __init__(self, model: str, *extra: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="qwen3-")  # short: a socket's path has 104 bytes on macOS
        self.path = str(Path(self._folder.name) / "s")
        self._ready, write = os.pipe()
        command = [sys.executable, "-m", "qwen3_mlx.server", "--model", model, "--uds", self.path]
        options = ["--parent-pid", str(os.getpid()), "--ready-fd", str(write), "--log-level", "warning", *extra]
        # A pipe that nobody reads would stop the server one day.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the server)
        self._process = subprocess.Popen(
            [*command, *options], pass_fds=(write,), stdout=subprocess.DEVNULL, stderr=self._log
        )
        os.close(write)

    def ready(self, seconds: float = 0) -> bool:
        """Whether it can be asked; waits for that up to ``seconds``. Raises ServerError if it has failed to start."""
        if self._ready < 0:
            return True
        if not select.select([self._ready], [], [], seconds)[0]:
            return False
        line = os.read(self._ready, 4096)
        os.close(self._ready)
        self._ready = -1
        if not line:  # closed without a word
            self._process.wait(20)
            self._log.seek(0)
            raise ServerError(self._log.read().strip() or "the server did not start")
        return True

    def ask(self, messages: list[dict[str, Any]], **fields: Any) -> Iterator[str]:
        """The answer, piece by piece. Dropping the iterator stops the generation."""
        connection = _UnixConnection(self.path)
        try:
            body = json.dumps({"messages": messages, "stream": True, **fields})
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise ServerError(json.loads(response.read())["error"]["message"])
            for line in response:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise ServerError(event["error"]["message"])
                    for choice in event["choices"]:
                        if text := choice["delta"].get("content"):
                            yield text
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"the server has gone: {error}") from error
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends the server and removes its socket. Answers that run are let finish for some seconds."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._folder.cleanup()
