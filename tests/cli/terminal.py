"""A program in a real pseudo-terminal, for tests of what a user sees and presses."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs `python ARGS` with a terminal as its standard streams; ``stdout`` alone may be a file instead."""

    def __init__(self, *args: str, stdout: int | None = None, columns: int = 80, rows: int = 24, **env: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, *args],
            cwd=ROOT,
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color", "LANG": "C.UTF-8", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.seen = b""
        self._searched = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def text(self) -> str:
        return self.seen.decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def type_line(self, line: str) -> None:
        self.press(line + "\r")

    def wait_for(self, *texts: str, timeout: float = 60.0) -> None:
        """Wait until one of ``texts`` appears after what the last call waited for."""
        deadline = time.monotonic() + timeout
        wanted = [text.encode() for text in texts]
        while not (ends := [at + len(w) for w in wanted if (at := self.seen.find(w, self._searched)) >= 0]):
            if not self._read(deadline):
                raise AssertionError(f"none of {texts} appeared; on the screen: {self.text[-2000:]!r}")
        self._searched = min(ends)

    def press_until(self, keys: str, text: str, timeout: float = 60.0) -> None:
        """Press ``keys``, every two seconds again, until ``text`` appears, as an impatient user would."""
        deadline = time.monotonic() + timeout
        while text.encode() not in self.seen[self._searched :]:
            assert time.monotonic() < deadline, f"{text!r} did not appear; on the screen: {self.text[-2000:]!r}"
            self.press(keys)
            self._read(time.monotonic() + 2)
        self.wait_for(text)

    def wait_exit(self, timeout: float = 60.0) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        return self.process.wait(timeout=max(deadline - time.monotonic(), 1))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux reports the end of a terminal as an error
            return False
        self.seen += data
        return bool(data)
