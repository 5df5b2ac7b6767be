"""What the routes share: the model, its slots, the requests that run."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidRequest
from .chat import ChatTask
from .chat_fields import Limits
from .completions import CompletionTask
from .errors import ApiError
from .inbox import Mailroom, Signal
from .metrics import Metrics
from .receipts import Receipts
from .runs import Prepared, Run, choices_of
from .settings import Settings
from .slots import Slots
from .wire import Head, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..config import ModelConfig
    from ..engine.engine import Engine
    from ..engine.streams import Then
    from ..text.tokenizer import Tokenizer
    from ..types import CacheReport, Request, SamplingParams


LONG_TEXT = 1 << 16  # characters
#: What counts as a path of its own in the metrics.
PATHS = frozenset(
    ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/debug/cache", "/health", "/metrics", "/openapi.json")
)


class Model(Protocol):
    """The part of ``qwen3_mlx.Qwen3`` that a server uses."""

    config: ModelConfig
    context: int

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def engine(self) -> Engine: ...

    def prepare(
        self,
        messages: Sequence[Mapping[str, Any]],
        thinking: bool,
        thinking_budget: int | None,
        tools: Sequence[Mapping[str, Any]] | None,
        schema: Any,
        params: SamplingParams,
        *,
        tool_choice: str | Mapping[str, Any],
        parallel_tool_calls: bool,
    ) -> tuple[Request, Then | None]: ...

    def prepare_raw(self, prompt: str | Sequence[int], params: SamplingParams) -> Request: ...

    def explain_cache(
        self, messages: Sequence[Mapping[str, Any]], thinking: bool, tools: Sequence[Mapping[str, Any]] | None
    ) -> CacheReport: ...


class Service:
    """Lives on one event loop, from ``open`` on."""

    def __init__(self, model: Model, settings: Settings, fingerprint: str) -> None:
        self.model = model
        self.settings = settings
        self.fingerprint = fingerprint
        self.created = int(time.time())
        self.slots = Slots(settings.running, settings.queue)
        self.runs: set[Run] = set()
        self.closing = False
        self.limits = Limits(
            model.config.vocab_size, model.context, settings.names, n=settings.choices, messages=settings.messages
        )
        self.metrics = Metrics(self.slots, PATHS)
        made_with = {"fingerprint": fingerprint, "model": settings.names[0], "versions": versions()}
        self.receipts = None if settings.dump is None else Receipts(settings.dump, made_with)
        self._mailroom: Mailroom | None = None

    def head(self, prefix: str, model: str | None) -> Head:
        return Head(new_id(prefix), int(time.time()), model or self.settings.names[0], self.fingerprint)

    def check_model(self, name: str | None) -> None:
        """Raises ApiError (404) for any name but those the server was started with."""
        if name is not None and name not in self.settings.names:
            known = ", ".join(self.settings.names)
            raise ApiError(
                404, f"there is no model {name[:80]!r} here: ask for {known}", code="model_not_found", param="model"
            )

    @contextlib.contextmanager
    def run(self, count: int) -> Iterator[Run]:
        """A run of ``count`` choices, with its deadline; cancelled at the end if it has not finished."""
        if self.closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers={"retry-after": "5"})
        if count > self.slots.running + self.slots.queue:
            raise InvalidRequest(f"{count} choices are more than this server can hold at a time", param="n")
        loop = asyncio.get_running_loop()
        if self._mailroom is None:
            self._mailroom = Mailroom(loop)
        run = Run(self._mailroom, self.slots, count)
        self.runs.add(run)
        deadline = loop.call_later(self.settings.deadline, run.signal, Signal.LATE)
        try:
            yield run
        finally:
            deadline.cancel()
            self.runs.discard(run)
            run.cancel()

    def cancel_all(self) -> None:
        for run in list(self.runs):
            run.signal(Signal.CLOSING)

    def chat_requests(self, task: ChatTask) -> Callable[[], Prepared]:
        """Makes the engine's requests of a task, on whichever thread it is called."""
        return partial(self._prepare_chat, task)

    def _prepare_chat(self, task: ChatTask) -> Prepared:
        self._check_length(characters(task.messages), "messages")
        if task.tool_choice != "none":
            self._check_length(characters(task.tools), "tools")
        thinking, budget = self.thinking(task)
        params = task.params
        if task.total is not None and budget is None:  # with a budget the two bound different things
            params = replace(params, max_tokens=None)
        request, then = self.model.prepare(
            task.messages,
            thinking,
            budget,
            task.tools,
            task.grammar,
            params,
            tool_choice=task.tool_choice,
            parallel_tool_calls=task.parallel_tool_calls,
        )
        if task.total is not None:
            request = replace(request, max_completion_tokens=task.total)
        return [(one, then) for one in choices_of(request, task.n, _seed(task.params.seed))]

    def completion_requests(self, task: CompletionTask) -> Callable[[], Prepared]:
        """The same for plain completions."""
        return partial(self._prepare_completion, task)

    def _prepare_completion(self, task: CompletionTask) -> Prepared:
        prepared: list[tuple[Request, Then | None]] = []
        for at, prompt in enumerate(task.prompts):
            try:
                self._check_length(len(prompt), "prompt")
                request = replace(self.model.prepare_raw(prompt, task.params), echo=task.echo)
            except InvalidRequest as error:
                if error.param == "prompt" and len(task.prompts) > 1:
                    raise InvalidRequest(str(error), param=f"prompt[{at}]") from None
                raise
            prepared += [(one, None) for one in choices_of(request, task.n, _seed(task.params.seed))]
        return prepared

    def _check_length(self, characters: int, param: str) -> None:
        """Refuses what cannot fit, whatever its tokens are, before they are counted: that takes a second a megabyte."""
        context = self.model.context
        if characters > LONG_TEXT and characters > context * self._longest_token:
            raise InvalidRequest(
                f"{param} has {characters:,} characters, which is more than a context of {context:,} tokens can hold",
                param=param,
            )

    @cached_property
    def _longest_token(self) -> int:
        """Bytes, and so the most characters that a token stands for."""
        token_bytes = self.model.tokenizer.token_bytes
        return max(len(token_bytes(token)) for token in range(self.model.tokenizer.vocab_size))

    def explain(self, task: ChatTask) -> CacheReport:
        """Where the prompt of a task leaves what is cached."""
        tools = None if task.tool_choice == "none" else task.tools
        self._check_length(characters(task.messages), "messages")
        self._check_length(characters(tools), "tools")
        return self.model.explain_cache(task.messages, self.thinking(task)[0], tools)

    def thinking(self, task: ChatTask) -> tuple[bool, int | None]:
        """Whether a task's answer begins with a thought, and its budget: the server's own where the task says
        nothing."""
        enabled = self.settings.thinking if task.thinking is None else task.thinking
        budget = task.thinking_budget if task.thinking is not None else self.settings.thinking_budget
        return enabled, budget if enabled else None


def characters(conversation: Any) -> int:
    """Of all texts in a conversation, whatever its shape and depth."""
    count, waiting = 0, [conversation]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return count


def versions() -> dict[str, str]:
    """Of whatever may change an answer."""
    return {name: version(name) for name in ("qwen3-mlx", "mlx", "tokenizers", "llguidance")}


def _seed(given: int | None) -> int:
    """Drawn here where the client gives none, so that a receipt can tell it."""
    return secrets.randbits(63) if given is None else given


#: What the library calls by other names than a body.
_NAMES = {"schema": "response_format.json_schema.schema"}


def renamed(error: InvalidRequest) -> InvalidRequest:
    """The error with the parameter's name in a body."""
    if error.param in _NAMES:
        name = _NAMES[error.param]
        return InvalidRequest(str(error).replace(error.param, name, 1), param=name)
    return error
