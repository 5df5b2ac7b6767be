"""Servers under measurement: started for a while, on a port of this machine that is free."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from qwen3_mlx.errors import Unavailable

SECONDS = 600.0  # a large checkpoint takes its time
CONNECT = 0.1


@contextmanager
def served(module: str, folder: str, options: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """The port and the process of ``python -m module`` with a checkpoint. Raises Unavailable, with the last that it
    wrote to stderr, if it ends or does not listen in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", module, "--model", folder, "--port", str(port), *options]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            if not _listens(process, port):
                said.seek(0)
                lines = said.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "it wrote nothing")
                raise Unavailable(f"{module} does not start with {folder}: {last[:500]}")
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(30)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it does so before it ends or its time is over."""
    until = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return True
        time.sleep(CONNECT)
    return False
