"""Requests that share their steps, on the embedded checkpoints: each gives what it gives alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from qwen3_mlx import Grammar, Qwen3, SamplingParams
from qwen3_mlx.engine import batch as batches
from qwen3_mlx.engine import memory as memories
from qwen3_mlx.engine.batch import Batch
from qwen3_mlx.engine.memory import Memory
from qwen3_mlx.engine.streams import EventStream
from qwen3_mlx.types import Event, Finished
from tests.control.schemas import random_schema

WORDS = ("strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel")
Ask = Callable[[Qwen3], EventStream]


def asked(index: int) -> Ask:
    """A request of any kind: greedy and sampled, with penalties and logprobs, thinking or not, with budgets,
    with and without a grammar."""
    rng = random.Random(index)
    text = f"How many {rng.choice('abersp')} are in {rng.choice(WORDS)}?"
    if index % 3 == 0:
        text = f"What is {rng.randint(10, 999)} + {rng.randint(10, 999)}?"
    thinking = index % 4 != 3
    params = SamplingParams(
        temperature=rng.choice([0, 0.6, 1.0]),
        top_k=rng.choice([0, 1, 20]),
        top_p=rng.choice([0.95, 1.0]),
        min_p=rng.choice([0, 0.05]),
        presence_penalty=rng.choice([0, 0, 0.5]),
        repetition_penalty=rng.choice([1, 1, 1.1]),
        logprobs=rng.choice([None, None, 0, 3]),
        seed=index,
        max_tokens=rng.choice([1, 5, 40, 120]),
    )
    budget = rng.choice([None, None, 0, 3, 20]) if thinking else None
    schema = rng.choice([None, None, random_schema(rng), Grammar.regex(r"[a-z ]{2,30}\d+")])
    return lambda q: q.stream([{"role": "user", "content": text}], thinking, budget, schema=schema, params=params)


def said(events: list[Event]) -> list[Any]:
    """All but the times, and what was found in the cache."""
    *deltas, finished = events
    assert isinstance(finished, Finished)
    return [*deltas, finished.finish_reason, replace(finished.usage, cached_tokens=0)]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows took each step together."""
    seen: list[int] = []
    real = Batch.step

    def step(self: Batch) -> Any:
        seen.append(sum(row is not None for row in self.rows))
        return real(self)

    monkeypatch.setattr(Batch, "step", step)
    return seen


@pytest.fixture(scope="module", params=["demo", "demo-moe"])
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("cheap", [batches.CHEAP, 0], ids=["packed", "with holes"])
def test_every_request_gives_what_it_gives_alone(
    name: str, kv_bits: int | None, cheap: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts, tokens, log-probabilities to the bit, and usage; whatever is found of former prompts and answers, and
    whether there is memory for the places of rows that leave to be fed."""
    monkeypatch.setattr(batches, "CHEAP", cheap)
    monkeypatch.setattr(Memory, "spares", lambda *_: not cheap)
    count = 24
    with Qwen3.load(name, kv_bits=kv_bits, max_batch=1, prefix_cache_bytes=0) as q:
        alone = [said(list(asked(index)(q))) for index in range(count)]
    assert max(sizes) == 1
    with Qwen3.load(name, kv_bits=kv_bits, max_batch=7) as q:
        streams = [asked(index)(q) for index in range(count)]
        together = [said(list(stream)) for stream in streams]
    assert 4 < max(sizes) <= 7, "how many meet is a matter of time"
    for index in range(count):
        assert together[index] == alone[index], index


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_long_and_short_requests_lie_apart_and_give_what_they_give_alone(
    name: str, kv_bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones come and go beside prompts of 3,000 and 1,400 tokens, and some outgrow what was expected of them."""
    monkeypatch.setattr(memories, "ANSWER", 100)
    shapes, real = set[tuple[tuple[int, int], ...]](), Batch.step

    def step(self: Batch) -> Any:
        if self.cache is not None:
            shapes.add(tuple((group.batch, group.capacity) for group in self.cache.groups))
        return real(self)

    def endless(prompt: int, answer: int) -> Ask:
        def ask(q: Qwen3) -> EventStream:
            bias = {token: -100.0 for token in q.tokenizer.eos_ids}
            params = SamplingParams(temperature=1, seed=prompt, max_tokens=answer, logit_bias=bias, logprobs=0)
            return q.stream_raw("a b c d " * (prompt // 4), params=params)

        return ask

    asks = [
        asked(0),
        endless(3000, 160),
        asked(2),
        asked(5),
        endless(1400, 300),
        *map(asked, range(10, 26)),
        endless(30, 500),
    ]
    monkeypatch.setattr(Batch, "step", step)
    with Qwen3.load(name, kv_bits=kv_bits, max_batch=1, prefix_cache_bytes=0) as q:
        alone = [said(list(ask(q))) for ask in asks]
    assert all(len(shape) == 1 for shape in shapes)
    shapes.clear()
    with Qwen3.load(name, kv_bits=kv_bits, max_batch=6, stall=10) as q:  # prompts in whole chunks: they overlap
        streams = [ask(q) for ask in asks]
        assert [said(list(stream)) for stream in streams] == alone
    assert max(map(len, shapes)) >= 3
    assert not any(rows > 1 and capacity > 2000 for shape in shapes for rows, capacity in shape)


@pytest.mark.slow
def test_two_hundred_requests_in_any_company(sizes: list[int]) -> None:
    """Alone, two, eight and 32 at a time, and once more over all that these have left in the cache."""
    count, seen = 200, []
    for rows, budget in ((1, 0), (2, 0), (8, 0), (32, 1 << 30)):
        with Qwen3.load("demo", max_batch=rows, prefix_cache_bytes=budget) as q:
            for _ in range(2 if budget else 1):
                streams = [asked(index)(q) for index in range(count)]
                seen.append([said(list(stream)) for stream in streams])
        assert max(sizes) > rows // 2, "so many rows have been together"
    for others in seen[1:]:
        assert others == seen[0]
