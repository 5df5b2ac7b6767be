"""Stand-ins for the hubs on loopback: the few endpoints their clients use, and the ways a real one goes wrong."""

from __future__ import annotations

import abc
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stand-in serves, how it misbehaves, and what it was asked."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: File name -> how many more times its transfer is cut in the middle.
    cuts: dict[str, int] = field(default_factory=dict)
    #: Files whose transfer stops in the middle without a word.
    stalls: set[str] = field(default_factory=set)
    #: Whether the files are said to be in Xet storage.
    xet: bool = False
    #: Another address that a file's request is redirected to, as to a storage server.
    storage: str = ""
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
        return sorted({re.split("/resolve/[^/]+/", path)[1] for path in paths})


@contextmanager
def serving(hub: Hub, handler: type[Handler] | None = None) -> Iterator[Hub]:
    """The stand-in (for Hugging Face, unless told) on a free port of 127.0.0.1; ``hub.url`` is its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (handler or HuggingFace,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler, abc.ABC):
    """What the stand-ins have in common: a log of requests, refusals, ranges, and transfers that are cut."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        self._begin()

    def do_POST(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, unquote(self.path), headers))
        if self.hub.refusal is not None:
            return self.send(self.hub.refusal[0], b"{}", {"X-Error-Code": self.hub.refusal[1]})
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        self.answer(urlsplit(self.path).path)

    @abc.abstractmethod
    def answer(self, path: str) -> None:
        """Answer a request that is neither refused nor lacks its token."""

    def send_json(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """A file, from where the request's range starts, and only half of it while it is to be cut."""
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.command == "GET" and self.hub.cuts.get(name, 0) > 0
        if cut:
            self.hub.cuts[name] -= 1
        stall = self.command == "GET" and name in self.hub.stalls
        self.send(206 if start else 200, content[start:], headers, cut=cut or stall)
        while stall and name in self.hub.stalls:
            time.sleep(0.02)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
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


class HuggingFace(Handler):
    """A model's information, the tree of a commit, and its files."""

    def answer(self, path: str) -> None:
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            return self._repo(match[1], self._info)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            return self._repo(match[1], self._tree)
        if path.startswith("/storage/"):
            repo, _, name = path.removeprefix("/storage/").strip("/").partition("/resolve/")
            return self.send_file(name, self.hub.repos[repo][name.partition("/")[2]], {})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(self.hub.repos.get(match[1], {}), unquote(match[2]))
        self.send(404, b"{}")

    def _repo(self, name: str, answer: Any) -> None:
        if name not in self.hub.repos:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        self.send_json(answer(name, self.hub.repos[name]))

    def _info(self, name: str, files: dict[str, bytes]) -> dict[str, Any]:
        sizes = {path: self.hub.announced.get(path, len(content)) for path, content in files.items()}
        siblings = [{"rfilename": path, "size": size} for path, size in sizes.items()]
        return {"id": name, "sha": COMMIT, "siblings": siblings}

    def _tree(self, name: str, files: dict[str, bytes]) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": etag(content)}
            for path, content in files.items()
        ]

    def _file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        tag = etag(files[path])
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        if self.hub.xet:
            headers |= {"X-Xet-Hash": tag, "Link": f'<{self.hub.url}/xet-auth>; rel="xet-auth"'}
        if self.hub.storage:
            headers |= {"Location": f"{self.hub.storage}/storage/{self.path}", "X-Linked-Etag": f'"{tag}"'}
            return self.send(302, b"", headers | {"X-Linked-Size": str(len(files[path]))})
        self.send_file(path, files[path], headers)


class ModelScope(Handler):
    """A repository's list of files, and the files."""

    def answer(self, path: str) -> None:
        match = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo(/files)?", path)
        files = self.hub.repos.get(match[1]) if match else None
        if match is None or files is None:
            return self.send_json({"Code": 10010205001, "Message": "not found", "Success": False}, 404)
        if match[2]:
            listed = [
                {"Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
                for path, content in files.items()
            ]
            return self.send_json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        name = parse_qs(urlsplit(self.path).query)["FilePath"][0]
        self.send_file(name, files[name], {})


class Kaggle(Handler):
    """The newest version of a model, and its files: asked for by POST, fetched where a redirect leads."""

    VERSION = 3

    def answer(self, path: str) -> None:
        if path.startswith("/storage/"):
            _, owner, model, framework, variation, name = path.removeprefix("/storage").split("/")
            return self.send_file(name, self.hub.repos["/".join((owner, model, framework, variation))][name], {})
        asked = json.loads(self.body)
        framework = asked["framework"].removeprefix("MODEL_FRAMEWORK_").lower()
        handle = "/".join((asked["ownerSlug"], asked["modelSlug"], framework, asked["instanceSlug"]))
        files = self.hub.repos.get(handle, {})
        if path == "/v1/models.ModelApiService/GetModelInstance" and files:
            return self.send_json({"versionNumber": self.VERSION, "slug": asked["instanceSlug"]})
        if path == "/v1/models.ModelApiService/DownloadModelInstanceVersion" and asked.get("path") in files:
            return self.send(302, b"", {"Location": f"/storage/{handle}/{asked['path']}"})
        self.send_json({"code": 404, "message": "not found"}, 404)


def etag(content: bytes) -> str:
    """As the real one tags large files: by their SHA-256."""
    return hashlib.sha256(content).hexdigest()
