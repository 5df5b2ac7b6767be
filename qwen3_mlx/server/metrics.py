"""What ``/metrics`` tells: counters and histograms in Prometheus' format. No text of anybody's, no keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .record import Record

if TYPE_CHECKING:
    from .slots import Slots

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """One server's numbers, in a registry of its own. ``paths``: those that are told apart; all others are one."""

    def __init__(self, slots: Slots, paths: frozenset[str]) -> None:
        self._paths = paths
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("qwen3_requests", "HTTP requests.", ("path", "status"), registry=registry)
        self._tokens = Counter("qwen3_tokens", "Tokens, by kind.", ("kind",), registry=registry)
        self._finishes = Counter("qwen3_choices", "Choices, by finish reason.", ("finish",), registry=registry)
        for name, told, of in (
            ("running", "Choices in the engine.", lambda: slots.taken - slots.waiting),
            ("waiting", "Choices that wait for their turn.", lambda: slots.waiting),
        ):
            Gauge(f"qwen3_{name}", told, registry=registry).set_function(of)
        self._seconds, self._queued, self._ttft = (
            Histogram(f"qwen3_{name}_seconds", told, buckets=SECONDS, registry=registry)
            for name, told in (
                ("request", "From a request's first byte to its last."),
                ("queue", "Until a request's turn came."),
                ("time_to_first_token", "From submission to the first token."),
            )
        )
        self._prefill, self._decode = (
            Histogram(f"qwen3_{name}_tokens_per_second", told, buckets=RATES, registry=registry)
            for name, told in (("prefill", "Of one prompt."), ("decode", "Of one choice."))
        )

    def note(self, record: Record) -> None:
        """Counts a request that is over."""
        path = record.path if record.path in self._paths else "other"
        self._requests.labels(path, str(record.status)).inc()
        if record.choices:
            self._seconds.observe(record.seconds())
        for event in record.finished:
            usage, timings = event.usage, event.timings
            self._finishes.labels(event.finish_reason).inc()
            for kind, count in (
                ("prompt", usage.prompt_tokens),
                ("cached", usage.cached_tokens),
                ("completion", usage.completion_tokens),
                ("reasoning", usage.reasoning_tokens),
            ):
                self._tokens.labels(kind).inc(count)
            self._queued.observe(timings.queued_s)
            if timings.ttft_s:
                self._ttft.observe(timings.ttft_s)
            if timings.prefill_tps:
                self._prefill.observe(timings.prefill_tps)
            if timings.decode_tps:
                self._decode.observe(timings.decode_tps)

    def text(self) -> bytes:
        return generate_latest(self._registry)
