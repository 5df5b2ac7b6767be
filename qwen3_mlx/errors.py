"""Typed, user-facing exceptions.

Everything a *user* can cause ends in one of these; mistakes of programmers are asserts. The message says what was
wrong, where, and what to do. Command lines map them to an exit status (``exit_code``), servers to an HTTP status
(``http_status``), each in one place.
"""

from __future__ import annotations

from pathlib import Path


class QwenError(Exception):
    """Base of every error a user can cause. ``str(error)`` is one line, ready to be shown."""

    exit_code = 2
    http_status = 400


class InvalidRequest(QwenError):
    """A request that cannot be served as asked: bad messages, sampling values, tools, an empty prompt.

    ``param`` names the offending parameter in the field's spelling (``temperature``, ``messages[2].content``).
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflow(InvalidRequest):
    """The prompt (plus what must be generated) does not fit in the context."""

    def __init__(self, prompt_tokens: int, context: int, param: str = "messages") -> None:
        super().__init__(
            f"the prompt is {prompt_tokens:,} tokens long, but the context holds {context:,} (one must be left to"
            " answer): shorten the prompt, drop old messages, or load the model with a larger context",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class TemplateError(InvalidRequest):
    """The chat template refused the conversation, is broken, or ran out of its time."""


class ModelNotFound(QwenError):
    """A model name that leads nowhere; the message lists what was tried and how to go on."""

    http_status = 404


class Unavailable(QwenError):
    """Something outside is needed and cannot be reached: network, a hub, an optional library."""

    http_status = 503


class UnsupportedModel(QwenError):
    """A checkpoint this runtime cannot honour: another architecture, or a config key it would have to ignore."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class CheckpointError(QwenError):
    """A damaged or incomplete checkpoint. Names the file and, where there is one, the tensor."""

    def __init__(self, problem: str, path: Path | str, tensor: str | None = None) -> None:
        where = f"{path}: tensor {tensor}" if tensor else f"{path}"
        super().__init__(f"{where}: {problem}")
        self.path = Path(path)
        self.tensor = tensor


class MemoryLimit(QwenError):
    """What was asked does not fit in this machine's memory; the message says what would."""

    http_status = 503


class OutputError(QwenError):
    """An output folder that exists already, cannot be written, or a disk too full to start."""


class EngineError(QwenError):
    """The model or the device failed under a request; the engine goes on with the next one."""

    exit_code = 1
    http_status = 500
