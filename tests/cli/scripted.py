"""A model that says what a test wrote down; also runs as a program, for tests that need a real process or terminal.

`python -m tests.cli.scripted generate|chat|... ARGS` is the command line with this model in the real one's place. The
environment variable SCRIPT holds turns as JSON: {"thinking": ..., "text": ..., "delay": seconds between pieces}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwen3_mlx.errors import QwenError
from qwen3_mlx.types import (
    Completion,
    Event,
    Finished,
    FinishReason,
    Request,
    TextDelta,
    ThinkingDelta,
    Timings,
    ToolCallDelta,
    Usage,
)


@dataclass
class Turn:
    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[str, str]] = ()
    reason: FinishReason = "stop"
    delay: float = 0.0
    budget_exhausted: bool = False
    resume: Request | None = None
    raises: QwenError | None = None  # after the pieces
    refuses: QwenError | None = None  # before any

    def events(self) -> Iterator[Event]:
        if self.refuses:
            raise self.refuses
        for piece in pieces(self.thinking):
            time.sleep(self.delay)
            yield ThinkingDelta(piece)
        for piece in pieces(self.text):
            time.sleep(self.delay)
            yield TextDelta(piece)
        for index, (name, arguments) in enumerate(self.calls):
            yield ToolCallDelta(index, f"call_{index}", name)
            for piece in pieces(arguments):
                yield ToolCallDelta(index, arguments=piece)
        if self.raises:
            raise self.raises
        thinking, text = len(pieces(self.thinking)), len(pieces(self.text))
        usage = Usage(7, 0, thinking + text, thinking, self.budget_exhausted)
        yield Finished(self.reason, usage, Timings(0.5, 0.0, 0.25, 100.0, 50.0), self.resume)


def pieces(text: str) -> list[str]:
    return [text[i : i + 3] for i in range(0, len(text), 3)]


@dataclass
class ScriptedModel:
    turns: list[Turn]
    opened: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    cancelled: int = 0

    def stream(self, messages: Any, **given: Any) -> Iterator[Event]:
        self.asked.append({"messages": json.loads(json.dumps(messages)), **given})
        return self._play()

    def stream_extend(self, completion: Completion, thinking_budget: int | None) -> Iterator[Event]:
        self.asked.append({"extend": completion.content, "thinking_budget": thinking_budget})
        return self._play()

    def stream_raw(self, prompt: str, **given: Any) -> Iterator[Event]:
        self.asked.append({"raw": prompt, **given})
        return self._play()

    def _play(self) -> Iterator[Event]:
        turn = self.turns.pop(0) if self.turns else Turn("(no turn left)")
        try:
            yield from turn.events()
        except GeneratorExit:
            self.cancelled += 1
            raise

    def close(self) -> None:
        self.closed = True


if __name__ == "__main__":
    from qwen3_mlx import cli
    from qwen3_mlx.cli import model

    turns = [Turn(**turn) for turn in json.loads(os.environ["SCRIPT"])]
    model.load = lambda options, once: ScriptedModel(turns)  # type: ignore[assignment]
    sys.exit(cli.main())
