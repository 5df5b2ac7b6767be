"""Who may run in the memory there is: decisions alone, and on an engine that has little of it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import admission
from qwen3_mlx import Finished, MemoryLimit, Qwen3, SamplingParams, TextDelta
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.costs import CACHE_STEP, Footprint, kv_bytes_per_token
from qwen3_mlx.engine import memory as memories
from qwen3_mlx.engine.grouping import WORTH, groups
from qwen3_mlx.engine.memory import ANSWER, LEAST_CHUNK, Memory, expected, planned
from qwen3_mlx.engine.runner import Runner
from tests.released import RELEASED

CONFIG = ModelConfig.from_dict(RELEASED["Qwen3-8B"])
FOOTPRINT = Footprint(CONFIG, 4_600_000_000, unpacked=32768)
PER_TOKEN = kv_bytes_per_token(CONFIG)
GREEDY = SamplingParams(temperature=0)


@dataclass
class Row:
    prompt: int
    bound: int = 40_960
    length: int = 0

    def __post_init__(self) -> None:
        self.length = self.length or self.prompt


@dataclass
class Prefixes:
    nbytes: int = 0
    budget: int = 2_000_000_000
    dropped: int = 0

    def shrink(self, count: int) -> int:
        freed = min(count, self.nbytes)
        self.nbytes -= freed
        self.dropped += freed
        return freed


@dataclass
class Told:
    memory: Memory
    prefixes: Prefixes
    log: list[str] = field(default_factory=list)
    released: int = 0


def told(limit: int, kept: int = 0, footprint: Footprint = FOOTPRINT) -> Told:
    prefixes = Prefixes(kept)
    told = Told(Memory(footprint, limit, 512, prefixes), prefixes)
    told.memory.log = told.log.append

    def release() -> None:
        told.released += 1

    told.memory.release = release
    return told


def for_rows(rows: int, capacity: int, chunk: int = 512) -> int:
    """A limit in which just that fits."""
    return FOOTPRINT.peak([(rows, capacity)], chunk)


# -- what a row is planned with ------------------------------------------------------------------------------------


def test_what_a_row_is_expected_to_come_to() -> None:
    assert expected(Row(100, bound=40_000)) == 100 + ANSWER, "not the whole context"
    assert expected(Row(100, bound=150)) == 150
    assert expected(Row(100, bound=40_000, length=5000)) == 5001, "it has outgrown that"
    assert expected(Row(100, bound=150, length=150)) == 151, "the next token is fed before the last is judged"


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_refusal_says_what_would_fit() -> None:
    memory = told(8_000_000_000).memory
    memory.check(Row(memory.fits() - ANSWER))
    with pytest.raises(MemoryLimit) as caught:
        memory.check(Row(30_000))
    message = str(caught.value)
    found = re.search(r"fits ([\d,]+) tokens; with 8-bit KV ([\d,]+)$", message)
    assert found and "8.0 GB may be used" in message and "30,000 tokens" in message
    plain, packed = (int(number.replace(",", "")) for number in found.groups())
    assert 20_000 < plain == memory.fits() < 25_000 and 1.7 * plain < packed < 1.95 * plain


def test_a_packed_cache_is_not_told_to_pack() -> None:
    memory = told(5_000_000_000, footprint=replace(FOOTPRINT, kv_bits=8)).memory
    with pytest.raises(MemoryLimit, match=r"fits [\d,]+ tokens$"):
        memory.check(Row(30_000))


@given(limit=st.integers(4_600_000_000, 40_000_000_000), prompt=st.integers(1, 39_000), bound=st.integers(1, 40_960))
def test_what_is_not_refused_fits_alone(limit: int, prompt: int, bound: int) -> None:
    memory, row = told(limit).memory, Row(prompt, max(bound, prompt + 1))
    capacity = planned(row)
    try:
        memory.check(row)
    except MemoryLimit:
        assert FOOTPRINT.peak([(1, capacity)], LEAST_CHUNK) > limit
    else:
        assert FOOTPRINT.peak([(1, capacity)], LEAST_CHUNK) <= limit
        assert memory.admits(row, [])
        assert FOOTPRINT.peak([(1, capacity)], memory.chunk) <= limit


# -- the ladder ----------------------------------------------------------------------------------------------------


def test_what_fits_is_let_in_without_a_word() -> None:
    at = told(for_rows(2, 2048) + 1000, kept=1000)
    assert at.memory.admits(Row(1000), [2048])
    assert not at.log and at.memory.chunk == 512 and at.prefixes.nbytes == 1000


def test_prefixes_go_first_and_no_more_of_them_than_needed() -> None:
    at = told(for_rows(2, 2048) + 100_000_000, kept=300_000_000)
    assert at.memory.admits(Row(1000), [2048])
    assert at.prefixes.dropped == 200_000_000 and at.prefixes.budget == 100_000_000
    assert at.log == ["200 MB of kept prefixes were dropped"] and at.released == 1
    assert at.memory.chunk == 512


def test_then_chunks_shrink() -> None:
    assert for_rows(2, 2048, 128) < for_rows(2, 2048, 256)
    at = told(for_rows(2, 2048, 128), kept=300_000_000)
    assert at.memory.admits(Row(1000), [2048])
    assert at.memory.chunk == 128 and at.prefixes.nbytes == 0
    assert at.log[1:] == ["prompts go in chunks of 128 tokens instead of 512"]


def test_then_who_comes_waits_and_nothing_is_dropped_for_nothing() -> None:
    at = told(for_rows(2, 2048, LEAST_CHUNK) - 1, kept=300)
    for _ in range(3):
        assert not at.memory.admits(Row(1000), [2048])
    assert at.log == ["a request of 1,000 tokens waits until others have finished"], "once"
    assert at.prefixes.nbytes == 300 and at.memory.chunk == 512
    assert at.memory.admits(Row(1000), [])
    assert not at.memory.admits(Row(1000), [2048]) and len(at.log) > 1


def test_a_short_row_beside_a_long_one_takes_what_it_takes_alone() -> None:
    """Fifteen rows of 500 tokens and one of 30,000, in the memory of two of 30,000, in any order."""
    short, long = Row(500, 600), Row(30_000, 30_100)
    assert [planned(short), planned(long)] == [768, 30_208]
    at = told(for_rows(2, 30_208))
    assert at.memory.admits(short, [30_208, *[768] * 14]) and at.memory.admits(long, [768] * 15)
    assert at.memory.chunk == 512
    exact = FOOTPRINT.peak([(1, 30_208), (15, 768)], LEAST_CHUNK) + WORTH * PER_TOKEN
    assert told(exact).memory.admits(short, [30_208, *[768] * 14])
    assert not told(exact - 1).memory.admits(short, [30_208, *[768] * 14])


def test_places_that_were_left_and_a_capacity_that_was_grown_count() -> None:
    at = told(for_rows(3, 2048))
    assert at.memory.admits(Row(1000), [2048])
    assert not at.memory.admits(Row(1000), [2048] * 7)
    assert not at.memory.admits(Row(1000), [8192])


@given(rows=st.lists(st.tuples(st.integers(1, 160).map(lambda n: n * CACHE_STEP), st.booleans()), max_size=9))
def test_what_is_planned_for_all_is_enough_whoever_has_come(rows: list[tuple[int, bool]]) -> None:
    """Rows of these sizes, of which some have joined and lie together as is best for them."""
    sizes, memory = [size for size, _ in rows], told(1 << 50).memory
    alone = FOOTPRINT.cache([(1, size) for size, joined in rows if not joined])
    together = groups([size for size, joined in rows if joined])
    spare = memory.peak(sizes, 512) - FOOTPRINT.peak(groups(sizes), 512)
    assert FOOTPRINT.cache(together) + alone <= FOOTPRINT.cache(groups(sizes)) + spare


def test_what_can_be_done_without_takes_none_of_the_steps() -> None:
    at = told(for_rows(2, 2048) + 50_000_000, kept=50_000_000)
    assert at.memory.spares([2048, 2048]) and at.prefixes.budget == 50_000_000
    at.prefixes.nbytes += 1
    assert not at.memory.spares([2048, 2048])
    assert at.prefixes.dropped == 0 and at.memory.chunk == 512 and not at.log
    tight = told(for_rows(2, 2048) - 1)
    assert not tight.memory.spares([2048, 2048]), "a smaller chunk would do"
    assert tight.memory.chunk == 512 and not tight.log


def test_what_was_saved_comes_back_when_rows_have_gone() -> None:
    at = told(for_rows(2, 2048, 128), kept=300_000_000)
    at.memory.admits(Row(1000), [2048])
    assert at.prefixes.budget < 2_000_000_000
    at.memory.settle([1024])
    assert at.memory.chunk == 512 and at.prefixes.budget > 100_000_000
    at.memory.settle([])
    assert at.prefixes.budget == min(2_000_000_000, at.memory.limit - for_rows(0, 0))


def test_what_nobody_asked_for_takes_only_what_is_free() -> None:
    at = told(for_rows(1, 2048, LEAST_CHUNK), kept=50_000_000)
    assert not at.memory.alone(2048) and at.prefixes.nbytes == 50_000_000
    assert at.memory.alone(2047) and at.prefixes.nbytes == 0


def test_rows_grow_as_far_as_there_is_memory() -> None:
    endless, bound = Row(900, length=2048), Row(900, 2100, length=2048)
    assert told(for_rows(2, 8192)).memory.grow([endless], [2048]) == [3072]
    tight = told(for_rows(2, 2304))
    assert tight.memory.grow([endless], [2048]) == [2304], "a little, where half as much again is too much"
    assert told(for_rows(2, 2304, LEAST_CHUNK) - 1).memory.grow([endless], [2048]) == []
    assert told(for_rows(8, 8192)).memory.grow([bound, endless], []) == [2304, 3072], "not beyond any bound"
    young = Row(900, length=1024)
    assert told(for_rows(1, 8192)).memory.grow([young], []) == [1536]
    young.length = 1536
    assert told(for_rows(1, 8192)).memory.grow([young], []) == [2048], "first to what was expected"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc_or_wait] Unable to allocate 4 bytes.")])
def test_running_out_is_told_from_other_failures(error: Exception) -> None:
    assert memories.ran_out(error) and not memories.ran_out(RuntimeError("shapes do not match"))


# -- predictions against what MLX measures -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        admission.Point("0.6B", (1020,), 6, "float32"),
        admission.Point("30B-A3B", (500, 70), 6, "float32"),
        admission.Point("8B", (500,), 14, "bf16"),
        admission.Point("0.6B", (600, 600), 4, "8"),
        admission.Point("0.6B", (100, 100, 100, 2000), 12, "bf16"),
    ],
    ids=str,
)
def test_peaks_are_as_predicted_and_never_more(point: admission.Point) -> None:
    """Within a tenth; the benchmark has the whole grid."""
    peak = admission.measure(point)
    assert peak.measured <= peak.predicted < 1.1 * peak.measured


@pytest.mark.parametrize("prompts", [(400, 70), (300,) * 5])
def test_rows_in_two_parts_take_no_more_than_was_planned(prompts: tuple[int, ...]) -> None:
    peak = admission.measure(admission.Point("0.6B", prompts, 4, "float32"), beside=True)
    assert peak.measured <= peak.predicted


# -- on an engine --------------------------------------------------------------------------------------------------


def engine_memory(q: Qwen3) -> Memory:
    engine: Any = q._engine
    memory: Memory = engine._memory
    return memory


@pytest.fixture(scope="module")
def footprint() -> Footprint:
    with Qwen3.load("demo") as q:
        return engine_memory(q).footprint


def test_weights_that_do_not_fit_are_refused_before_they_are_read() -> None:
    with pytest.raises(MemoryLimit, match="5 MB may be used"):
        Qwen3.load("demo", memory_limit=5_000_000)


def test_weights_that_leave_no_room_to_work_are_refused(footprint: Footprint) -> None:
    with pytest.raises(MemoryLimit):
        Qwen3.load("demo", memory_limit=footprint.weights + 1_000_000)


def test_a_request_is_refused_at_once_and_names_what_fits(footprint: Footprint) -> None:
    with Qwen3.load("demo", memory_limit=footprint.peak([(1, 1024)], LEAST_CHUNK)) as q:
        with pytest.raises(MemoryLimit, match=r"fits 1,024 tokens; with 8-bit KV [\d,]+"):
            q.stream("word " * 1500, params=GREEDY)
        answer = q.generate("Hi", thinking=False, params=SamplingParams(temperature=0, max_tokens=20))
        assert answer.content and answer.finish_reason in ("stop", "length")


def test_a_row_that_cannot_grow_ends_and_the_others_go_on(
    footprint: Footprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are let in with few tokens expected; none can end by itself."""
    monkeypatch.setattr(memories, "ANSWER", 16)
    limit = footprint.peak([(3, 512)], LEAST_CHUNK)
    with Qwen3.load("demo", memory_limit=limit, prefix_cache_bytes=0) as q:
        endless = {token: -100.0 for token in q.tokenizer.eos_ids}
        prompts = ["a b c d " * n for n in (25, 20, 4)]
        params = [SamplingParams(temperature=0, logit_bias=endless, max_tokens=n) for n in (None, None, 600)]
        streams = [q.stream_raw(text, params=p) for text, p in zip(prompts, params, strict=True)]
        ends: list[Any] = []
        for stream in streams:
            tokens = 0
            try:
                for event in stream:
                    tokens += len(event.token_ids) if isinstance(event, TextDelta) else 0
                    if isinstance(event, Finished):
                        ends.append(event.finish_reason)
            except MemoryLimit as error:
                assert tokens > 300, "what was said until then has been sent"
                ends.append(str(error))
        assert "the answer ends here, at 512 tokens" in ends[0], "the longest first"
        assert ends[2] == "length", "one goes on to its end"
        assert engine_memory(q).limit == limit
        assert q.generate("Hi", thinking=False, params=GREEDY).content, "and the engine serves on"


def test_rows_wait_for_memory_and_are_all_served(footprint: Footprint) -> None:
    """There is memory for two rows at a time where eight may run; MLX never has more than the limit."""
    asked = [(f"What is {n} + {n}?", SamplingParams(temperature=0, max_tokens=150)) for n in range(10, 22)]
    with Qwen3.load("demo", prefix_cache_bytes=0) as q:
        free = [q.generate(text, params=params).content for text, params in asked]
    limit = footprint.peak([(2, 256)], LEAST_CHUNK)
    with Qwen3.load("demo", memory_limit=limit, prefix_cache_bytes=1 << 30) as q:
        lines: list[str] = []
        engine_memory(q).log = lines.append
        mx.clear_cache()
        others = mx.get_active_memory() - footprint.weights
        mx.reset_peak_memory()
        streams = [q.stream(text, params=params) for text, params in asked]
        texts = ["".join(e.text for e in stream if isinstance(e, TextDelta)) for stream in streams]
        assert mx.get_peak_memory() - others <= limit
    assert texts == [text or "" for text in free]
    assert any("waits" in line for line in lines)


def test_a_short_request_need_not_wait_for_a_long_one(footprint: Footprint) -> None:
    """There is no memory for two places as long as the long one's; MLX never has more than the limit."""
    limit = footprint.peak([(1, 4096), (1, 256)], LEAST_CHUNK) + footprint.cache([(1, WORTH)])
    assert limit < footprint.peak([(2, 4096)], LEAST_CHUNK)
    with Qwen3.load("demo", memory_limit=limit, prefix_cache_bytes=0) as q:
        lines: list[str] = []
        engine_memory(q).log = lines.append
        endless = {token: -100.0 for token in q.tokenizer.eos_ids}
        mx.clear_cache()
        others = mx.get_active_memory() - footprint.weights
        mx.reset_peak_memory()
        long = q.stream_raw("a b c d " * 750, params=SamplingParams(temperature=0, max_tokens=1000, logit_bias=endless))
        next(long)
        for _ in range(3):
            short = q.generate("Hi", thinking=False, params=SamplingParams(temperature=0, max_tokens=30))
            assert short.content
        *_, finished = long
        assert isinstance(finished, Finished) and finished.usage.completion_tokens == 1000
        assert mx.get_peak_memory() - others <= limit
    assert not any("waits" in line for line in lines)


def test_a_row_that_leaves_to_be_fed_counts_with_the_capacity_it_has_grown_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it takes the batch's own buffers along, a third of which may be spare."""
    monkeypatch.setattr(memories, "ANSWER", 16)
    seen, hand_out = list[tuple[int, int]](), Runner.hand_out

    def watched(self: Runner, *, keep: bool) -> None:
        (row,) = self._batch._leaving
        hand_out(self, keep=keep)
        seen.append((self.held([row])[0], row.cache.capacity))  # type: ignore[union-attr]

    monkeypatch.setattr(Runner, "hand_out", watched)
    with Qwen3.load("demo", prefix_cache_bytes=0) as q:
        ends = {*q.tokenizer.eos_ids, q.tokenizer.control.think_close}
        params = SamplingParams(temperature=0, max_tokens=1000, logit_bias={token: -100.0 for token in ends})
        stream = q.stream("a b c d " * 180, thinking_budget=60, params=params)
        while not seen:
            next(stream)
        stream.close()
    assert seen == [(1280, 1280)]


def test_tokens_that_are_forced_at_once_are_asked_for(footprint: Footprint) -> None:
    """Far more than the row was let in with; in a batch and before its first token."""
    letters = "".join(random.Random(1).choices("abcdefgh ", k=3000))
    properties = {"a": {"const": letters}, "b": {"enum": [1, 2]}}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": ["a", "b"]}
    params = SamplingParams(temperature=0, max_tokens=3100)
    limit = footprint.peak([(1, 1280)], LEAST_CHUNK)
    with Qwen3.load("demo", memory_limit=limit, prefix_cache_bytes=0) as q:
        with pytest.raises(MemoryLimit, match="the answer ends here"):
            q.generate("Hi", thinking=False, schema=schema, params=params)
        schema["properties"] = {"c": {"type": "string", "pattern": "^[a-z]{20}$"}, **properties}
        schema["required"] = [*schema["properties"]]
        with pytest.raises(MemoryLimit, match="the answer ends here"):
            q.generate("Hi", thinking=False, schema=schema, params=params)
        assert q.generate("Hi", thinking=False, params=GREEDY).content


@pytest.mark.parametrize(("answer", "budget"), [(255, 220), (330, 300)])
def test_thoughts_that_are_closed_together_go_on(
    footprint: Footprint, monkeypatch: pytest.MonkeyPatch, answer: int, budget: int
) -> None:
    """In no more than was planned for them: the places that they leave for a moment are nobody's reason to end, and
    take no memory that nobody has asked for."""
    monkeypatch.setattr(memories, "ANSWER", answer)
    limit, force, prefill, most = footprint.peak([(8, 512)], LEAST_CHUNK), Runner.force, Runner.prefill, 0

    def watched(real: Any) -> Any:
        def call(self: Runner, row: Any, given: Any) -> None:
            nonlocal most
            real(self, row, given)
            caches = [one.cache for one in engine._loop._scheduler.running if one.cache is not None]
            most = max(most, sum(cache.nbytes for cache in filter(None, [self._batch.cache, *caches])))

        return call

    monkeypatch.setattr(Runner, "force", watched(force))
    monkeypatch.setattr(Runner, "prefill", watched(prefill))
    with Qwen3.load("demo", memory_limit=limit, prefix_cache_bytes=0) as q:
        engine: Any = q._engine
        mx.clear_cache()
        others = mx.get_active_memory() - footprint.weights
        mx.reset_peak_memory()
        ends = {*q.tokenizer.eos_ids, q.tokenizer.control.think_close}
        params = SamplingParams(temperature=0, max_tokens=9, logit_bias={token: -100.0 for token in ends})
        streams = [q.stream("a" * n, thinking_budget=budget, params=params) for n in range(1, 9)]
        for stream in streams:
            *_, finished = stream
            assert isinstance(finished, Finished) and finished.usage.budget_exhausted
        assert most <= footprint.cache([(8, 512)])
        assert mx.get_peak_memory() - others <= limit


def test_an_allocation_that_fails_is_a_typed_error_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Runner, row: Any, count: int) -> None:
        raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")

    with Qwen3.load("demo") as q:
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "prefill", broken)
            with pytest.raises(MemoryLimit, match="run out"):
                q.generate("Hi")
        assert q.generate("Hi", thinking=False, params=GREEDY).content


def test_memory_is_never_wired_and_few_buffers_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("memory was wired"))
    kept = mx.set_cache_limit(1 << 40)
    try:
        with Qwen3.load("demo", memory_limit=1 << 30) as q:
            q.generate("Hi", thinking=False, params=GREEDY)
            assert mx.set_cache_limit(1 << 20) == 1 << 26
        with Qwen3.load("demo", memory_limit=1 << 30):
            assert mx.set_cache_limit(kept) == 1 << 20, "a lower limit is left alone"
    finally:
        mx.set_cache_limit(kept)
