"""Who may talk to the server: keys, and what a browser may be tricked into. Pure.

A web page can reach a server on its visitor's machine: through a name that its owner points at 127.0.0.1 (DNS
rebinding; the ``Host`` header gives it away), or across origins (``Origin`` gives that away).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from .errors import ApiError

OPEN_PATHS = ("/health",)


def check_key(given: str | None, keys: Sequence[str]) -> None:
    """Raises ApiError (401) unless ``given`` is one of ``keys``; takes as long for every wrong one."""
    if not keys:
        return
    if given is None:
        raise _unauthorized("no API key: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'")
    digest = _digest(given)
    matches = [hmac.compare_digest(digest, _digest(key)) for key in keys]
    if not any(matches):
        raise _unauthorized("this API key is not known here")


def key_of(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key that a request brings along."""
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    return x_api_key


def _digest(key: str) -> bytes:
    """Of equal length for all keys, so that a comparison does not tell theirs."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def check_host(host: str | None, allowed: Sequence[str]) -> None:
    """Raises ApiError (403) for a name that anybody could have pointed here. Addresses cannot be rebound."""
    name = host_name(host or "")
    if name == "localhost" or name.endswith(".localhost") or name in allowed or _is_address(name):
        return
    raise ApiError(
        403,
        f"the host {name[:80]!r} is not known here: use localhost, an address, or start the server with --allowed-host",
        code="host_not_allowed",
    )


def check_origin(origin: str | None, host: str | None, allowed: Sequence[str]) -> None:
    """Raises ApiError (403) for a web page of another origin, unless it is allowed; pages of this server may."""
    if origin is None or "*" in allowed or origin.lower() in allowed:
        return
    scheme, _, rest = origin.lower().partition("://")
    if scheme in ("http", "https") and rest and rest == (host or "").lower():
        return
    raise ApiError(
        403,
        f"web pages of {origin[:80]!r} may not use this server: start it with --cors-origin to let them",
        code="origin_not_allowed",
    )


def host_name(host: str) -> str:
    """A Host header without its port, brackets and final dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def cors_headers(origin: str | None, allowed: Sequence[str]) -> dict[str, str]:
    """What lets a page of ``origin`` read the answer; nothing unless it was asked for."""
    if origin is None or not ("*" in allowed or origin.lower() in allowed):
        return {}
    return {
        "access-control-allow-origin": "*" if "*" in allowed else origin,
        "access-control-expose-headers": "x-request-id, retry-after",
        "vary": "Origin",
    }


def preflight_headers(asked: str | None) -> dict[str, str]:
    """What a page may send; ``asked``: the headers it means to."""
    plain = "authorization, content-type, x-api-key"
    return {
        "access-control-allow-methods": "GET, POST, OPTIONS",
        "access-control-allow-headers": asked if asked is not None else plain,
        "access-control-max-age": "600",
    }
