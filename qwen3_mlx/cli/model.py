"""Where the commands get their model: one function opens it, and tests put a scripted one in its place."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..types import Completion, Event, SamplingParams
from .options import Options
from .terminal import notice

SUGGESTED = "qwen3:0.6b"
STATUS_AFTER = 2.0  # seconds of loading that pass without a word


class ChatModel(Protocol):
    """The part of ``qwen3_mlx.Qwen3`` that commands use. Closing an iterator of events cancels its request."""

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool,
        thinking_budget: int | None,
        tools: Sequence[Mapping[str, Any]] | None,
        params: SamplingParams,
    ) -> Iterator[Event]: ...

    def stream_extend(self, completion: Completion, thinking_budget: int | None) -> Iterator[Event]: ...

    def stream_raw(self, prompt: str, *, params: SamplingParams) -> Iterator[Event]: ...

    def close(self) -> None: ...


def load(options: Options, once: bool) -> ChatModel:
    """The real model. The import is here because it brings mlx with it. ``once``: for one answer, so nothing is kept
    for a next one."""
    from ..api import Qwen3

    return Qwen3.load(
        options.model or "demo",
        bits=options.bits,
        kv_bits=options.kv_bits,
        context=options.context,
        kernels=options.kernels or "auto",
        deterministic=options.deterministic,
        prefix_cache_bytes=0 if once else None,
    )


@contextlib.contextmanager
def open_model(options: Options, *, once: bool = False) -> Iterator[ChatModel]:
    """Load for the length of a ``with`` block, ``once`` for a single answer; a load that takes long says so on
    stderr."""
    if options.model is None:
        notice(f"no --model given: the tiny embedded demo answers; for a real one try --model {SUGGESTED}")
    with _status(f"loading {options.model or 'demo'} ..."):
        model = load(options, once)
    try:
        yield model
    finally:
        model.close()


@contextlib.contextmanager
def _status(text: str) -> Iterator[None]:
    timer = threading.Timer(STATUS_AFTER, notice, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        sys.stderr.flush()
