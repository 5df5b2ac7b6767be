"""An engine that plays what it is told, in the place of the real one: everything above it is the real thing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from qwen3_mlx import Qwen3, hub
from qwen3_mlx.cache.prefix import PrefixCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.engine.row import Sink
from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.defaults import Defaults
from qwen3_mlx.text.tokenizer import Tokenizer
from qwen3_mlx.types import Event, Finished, Request, Timings, Usage

Script = Callable[[Request], Iterable[Event | Exception | Callable[[], Any]]]
"""What an answer consists of; something that can be called is called, to wait for instance."""


def finished(reason: Any = "stop", **usage: Any) -> Finished:
    counts = {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 5, **usage}
    return Finished(reason, Usage(**counts), Timings(ttft_s=0.01, decode_tps=100.0))


class ScriptedTicket:
    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


class ScriptedEngine:
    """Plays ``script(request)`` on a thread for each request, one event after another; a cancelled one ends as the real
    engine ends it. ``requests``: all that were submitted; ``tickets``: theirs."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.tickets: list[ScriptedTicket] = []
        self.running = 0
        self._lock = threading.Lock()

    def submit(self, request: Request, sink: Sink) -> ScriptedTicket:
        ticket = ScriptedTicket()
        with self._lock:
            self.requests.append(request)
            self.tickets.append(ticket)
            self.running += 1
        threading.Thread(target=self._play, args=(request, sink, ticket), daemon=True).start()
        return ticket

    def _play(self, request: Request, sink: Sink, ticket: ScriptedTicket) -> None:
        for event in self.script(request):
            if ticket.cancelled.is_set():
                event = finished("cancelled")
            if callable(event):
                event()
                continue
            last = isinstance(event, Finished | Exception)
            if last:
                with self._lock:
                    self.running -= 1
            sink(event)
            if last:
                return
        raise AssertionError("a script ends with Finished or an exception")

    def expect(self, prompt: Any) -> None:
        pass

    def close(self) -> None:
        pass


def scripted_model(script: Script | Sequence[Any], context: int = 8192) -> tuple[Qwen3, ScriptedEngine]:
    """The demo's tokenizer, template and defaults on a scripted engine."""
    engine = ScriptedEngine(script if callable(script) else lambda request: script)
    folder = hub.resolve("demo")
    template = ChatTemplate.from_folder(folder)
    model: Any = None
    q = Qwen3(
        "demo",
        model,
        ModelConfig.from_folder(folder),
        Tokenizer.from_folder(folder),
        template,
        Defaults.from_folder(folder, hybrid=template.hybrid),
        engine,
        PrefixCache(0),
        context,
    )
    return q, engine
