"""Where the server listens: an address, a Unix socket, or a socket that somebody else has opened. Pure."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Listen:
    """``uds``: the path of a Unix socket; ``fd``: a socket that listens already; else ``host`` and ``port``, where 0 is
    any that is free."""

    host: str = "127.0.0.1"
    port: int = 8080
    uds: str | None = None
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket, and what clients call it. ``file``: tells a Unix socket's file from others."""

    socket: socket.socket
    url: str
    uds: str | None = None
    file: tuple[int, int, int] | None = None

    @property
    def local(self) -> bool:
        """Whether nobody but this machine's users can reach it, as far as that can be told."""
        if self.socket.family == socket.AF_UNIX:
            return True
        return ipaddress.ip_address(self.socket.getsockname()[0].partition("%")[0]).is_loopback

    def close(self) -> None:
        """Also removes a Unix socket's file, unless it is that of a server that has taken its place: one may start
        while this one lets its last answers finish."""
        self.socket.close()
        if self.uds is not None:
            with contextlib.suppress(OSError):
                if _file(self.uds) == self.file:
                    os.unlink(self.uds)


def bind(listen: Listen) -> Bound:
    """Raises InvalidRequest for an address that cannot be had."""
    if listen.fd is not None:
        return _inherited(listen.fd)
    if listen.uds is not None:
        return _unix(Path(listen.uds))
    return _tcp(listen.host, listen.port)


def _tcp(host: str, port: int) -> Bound:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"--host {host!r} is no address of this machine: {error}", param="host") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise InvalidRequest(f"port {port} is taken: choose another with --port (0: any)", param="port") from None
        raise InvalidRequest(f"cannot listen at {host}, port {port}: {error.strerror}", param="host") from None
    name, number = bound.getsockname()[:2]
    return Bound(bound, f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}")


def _unix(path: Path) -> Bound:
    _clear(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # only its owner may connect, from the moment on that it is there
    try:
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise InvalidRequest(f"cannot listen at {path}: {error.strerror or error}", param="uds") from None
    finally:
        os.umask(mask)
    return Bound(bound, f"unix:{path}", str(path), _file(path))


def _file(path: str | Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns  # the number of a file that was removed is given again


def _clear(path: Path) -> None:
    """Removes a socket that nobody listens at any more."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidRequest(f"{path} is there already and is no socket: choose another path", param="uds")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise InvalidRequest(f"another server listens at {path}: stop it, or choose another path", param="uds")


def _inherited(fd: int) -> Bound:
    try:
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise InvalidRequest(f"--listen-fd {fd} is no socket: {error.strerror}", param="listen_fd") from None
    if inherited.type != socket.SOCK_STREAM:
        raise InvalidRequest(f"--listen-fd {fd} is no stream socket", param="listen_fd")
    name = inherited.getsockname()
    if _connected(inherited) or not name or not (inherited.family == socket.AF_UNIX or name[1]):
        raise InvalidRequest(f"--listen-fd {fd} has no address to listen at: bind it first", param="listen_fd")
    if inherited.family == socket.AF_UNIX:
        shown = name.decode(errors="replace") if isinstance(name, bytes) else name
        return Bound(inherited, f"unix:{shown}")
    return Bound(inherited, f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}")


def _connected(bound: socket.socket) -> bool:
    try:
        bound.getpeername()
    except OSError:
        return False
    return True
