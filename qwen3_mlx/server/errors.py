"""The one place where an error becomes an HTTP status and OpenAI's error object."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import MemoryLimit, QwenError

logger = logging.getLogger("qwen3_mlx.server")

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(QwenError):
    """A refusal of the server's own: an HTTP status, a word for programs, the parameter, headers to go with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def busy(message: str, retry_after: int, status: int = 429, code: str = "queue_full") -> ApiError:
    """Nothing is wrong with the request: it can be sent again later."""
    return ApiError(status, message, code=code, headers={"retry-after": str(retry_after)})


def described(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """HTTP status, body and headers for an error. One that nobody foresaw tells nothing of itself: it is logged."""
    if not isinstance(error, QwenError):
        logger.error("a request failed", exc_info=error)
        return 500, error_object(500, "the server failed on this request; its log has the reason", "internal"), {}
    status = error.http_status
    code = getattr(error, "code", None) or ("out_of_memory" if isinstance(error, MemoryLimit) else None)
    headers = getattr(error, "headers", {})
    return status, error_object(status, str(error), code, getattr(error, "param", None)), headers


def error_object(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
