"""A stand-in for Hugging Face on loopback: the few endpoints its client uses, and the ways a real one goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stand-in serves, how it misbehaves, and what it was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: File name -> how many more times its transfer is cut in the middle.
    cuts: dict[str, int] = field(default_factory=dict)
    #: File name -> a size to announce instead of the true one.
    announced: dict[str, int] = field(default_factory=dict)
    #: A status for every request, with the hub's error code; None answers truly.
    refusal: tuple[int, str] | None = None
    #: A token without which nothing is served; None serves anybody.
    token: str | None = None
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> list[str]:
        """The names of the files whose bytes were asked for, each once."""
        paths = {path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}
        return sorted(unquote(path.split(f"/{COMMIT}/", 1)[1]) for path in paths)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The stand-in listening on a free port of 127.0.0.1; ``hub.url`` is its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        if hub.refusal is not None:
            return self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self._repo(match[1], self._info)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            return self._repo(match[1], self._tree)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(hub.repos.get(match[1], {}), unquote(match[2]))
        self._send(404, b"{}")

    def _repo(self, name: str, answer: Any) -> None:
        if name not in self.hub.repos:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        body = json.dumps(answer(name, self.hub.repos[name])).encode()
        self._send(200, body, {"Content-Type": "application/json"})

    def _size(self, path: str, content: bytes) -> int:
        return self.hub.announced.get(path, len(content))

    def _info(self, name: str, files: dict[str, bytes]) -> dict[str, Any]:
        siblings = [{"rfilename": path, "size": self._size(path, content)} for path, content in files.items()]
        return {"id": name, "sha": COMMIT, "siblings": siblings}

    def _tree(self, name: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
            for path, content in files.items()
        ]

    def _file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = files[path]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.command == "GET" and self.hub.cuts.get(path, 0) > 0
        if cut:
            self.hub.cuts[path] -= 1
        self._send(206 if start else 200, content[start:], headers, cut=cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
