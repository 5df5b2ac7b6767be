"""What is remembered of a request: the line in the log, the numbers in the metrics. No text of anybody's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..types import Finished


@dataclass(slots=True)
class Record:
    """One HTTP request. ``status`` 499: the client went away before its answer was whole."""

    id: str
    method: str
    path: str
    begun: float = field(default_factory=time.perf_counter)
    status: int = 0
    stream: bool = False
    choices: int = 0
    error: str | None = None
    finished: Sequence[Finished] = ()

    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def fields(self) -> dict[str, Any]:
        """What the log says of it."""
        out: dict[str, Any] = {
            "request": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "seconds": round(self.seconds(), 4),
        }
        if self.choices:
            out |= {"stream": self.stream, "choices": self.choices}
        if self.finished:
            out |= self._answer()
        if self.error is not None:
            out["error"] = self.error
        return out

    def _answer(self) -> dict[str, Any]:
        usages = [event.usage for event in self.finished]
        timings = [event.timings for event in self.finished]
        return {
            "prompt_tokens": usages[0].prompt_tokens,
            "cached": usages[0].cached_tokens,
            "completion_tokens": sum(usage.completion_tokens for usage in usages),
            "reasoning": sum(usage.reasoning_tokens for usage in usages),
            "finish": ",".join(event.finish_reason for event in self.finished),
            "queued_s": round(min(one.queued_s for one in timings), 4),
            "ttft_s": round(min(one.ttft_s for one in timings), 4),
            "prefill_tps": round(max(one.prefill_tps for one in timings), 1),
            "tokens_per_s": round(sum(one.decode_tps for one in timings), 1),
        }
