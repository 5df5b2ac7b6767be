"""Whatever fails takes one request with it, or none, and never the engine; and nothing outlives its use."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from qwen3_mlx import Finished, InvalidRequest, Qwen3, SamplingParams
from qwen3_mlx.engine.runner import Runner
from tests.control.toys import EOS, request
from tests.engine.test_engine import answer, engine
from tests.engine.test_warmup import idle
from tests.engine.toymodel import ToyRunner

QUESTION = "How many r are in raspberries?"
GREEDY = SamplingParams(temperature=0, max_tokens=200)


def no_memory(*args: Any, **more: Any) -> None:
    raise MemoryError("[metal::malloc] out of memory")


@pytest.fixture
def q() -> Iterator[Qwen3]:
    with Qwen3.load("demo") as loaded:
        yield loaded


def answers(q: Qwen3) -> bool:
    """Whether the engine still answers."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(q.generate(QUESTION, params=GREEDY)), daemon=True)
    thread.start()
    thread.join(20)
    return bool(done)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_keeping_a_cancelled_row_fails_and_the_engine_lives(q: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = q.stream(QUESTION, params=replace(GREEDY, max_tokens=None))
    next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(q._prefixes, "store", no_memory)
        stream.cancel()
        time.sleep(0.3)
    assert answers(q)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_keeping_a_row_at_the_end_of_the_context_fails_and_the_engine_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    with Qwen3.load("demo", context=40) as q:
        with monkeypatch.context() as patch:
            patch.setattr(q._prefixes, "store", no_memory)
            stream = q.stream(QUESTION, params=GREEDY)  # ends by its length, in the sweep
            next(stream)
            time.sleep(0.5)
        assert answers(q)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_keeping_a_warm_up_fails_and_the_engine_lives(q: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(q._prefixes, "store", no_memory)
        q._engine.expect(lambda: [65, 66, 67])
        time.sleep(0.3)
    assert answers(q)


def test_an_answer_that_cannot_be_kept_is_an_answer(q: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(q._prefixes, "store", no_memory)
    assert q.generate(QUESTION, params=GREEDY).content  # raises EngineError after the whole text has been streamed


def test_a_replay_that_ends_sends_nothing_after_its_end(q: Qwen3) -> None:
    """``max_tokens`` bounds the answer with a budget and everything without: the replay itself may be too long."""
    closed = q.generate(QUESTION, thinking_budget=20, params=replace(GREEDY, max_tokens=5))
    for most in (5, len(closed.resume.generated)):  # type: ignore[union-attr]
        request = replace(closed.resume, thinking_budget=None, params=replace(closed.resume.params, max_tokens=most))  # type: ignore
        got: list[Any] = []
        q._engine.submit(request, got.append)
        time.sleep(0.5)
        assert isinstance(got[-1], Finished), got[-1]
        assert got[-1].finish_reason == "length"


def test_a_step_that_fails_ends_nobody_twice() -> None:
    """One row ends with its first token in the same step that then fails."""
    gate, firsts = threading.Semaphore(0), []
    runner = ToyRunner(lambda tokens: EOS if 66 in tokens else 97, gate=gate)
    first, step = runner.first, runner.step

    def counted(row: Any) -> Any:
        firsts.append(row)
        return first(row)

    def failing() -> Any:
        if len(firsts) == 2:
            no_memory()
        return step()

    runner.first, runner.step = counted, failing  # type: ignore[method-assign]
    local, endless, done = engine(runner, max_rows=2, context=10**6), list[Any](), list[Any]()
    local.submit(request(prompt=[65] * 3), endless.append)
    local.submit(request(prompt=[66] * 3), done.append)
    gate.release(10**6)
    time.sleep(0.5)
    local.close()
    assert [type(event) for event in done] == [Finished]


def test_a_request_that_has_ended_keeps_nothing_of_its_caller_alive() -> None:
    """``plan`` in ``TokenLoop.serve`` holds the last rows, and their sinks, while the thread waits."""

    class Caller:
        def __init__(self) -> None:
            self.engine, self.ended = engine(ToyRunner(answer("yes"))), threading.Event()
            self.engine.submit(request(prompt=[63]), self.take)

        def take(self, event: Any) -> None:
            if isinstance(event, Finished):
                self.ended.set()

    caller = Caller()
    assert caller.ended.wait(10)
    time.sleep(0.1)
    gone = weakref.ref(caller)
    del caller
    gc.collect()
    assert gone() is None, "and so the engine's thread never ends"


def test_nothing_is_computed_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The talk is longer than the budget: its whole next turn is computed after each answer, for nothing."""
    steps: list[int] = []
    real = Runner.warm

    def warm(self: Runner, *given: Any) -> Any:
        steps.append(1)
        return real(self, *given)

    monkeypatch.setattr(Runner, "warm", warm)
    with Qwen3.load("demo", prefix_cache_bytes=1000) as q:
        for _ in range(3):
            q.generate("How many r are in raspberries? " * 20, params=GREEDY)
            idle(q)
        assert q._prefixes.nbytes == 0 and not steps, f"{len(steps)} chunks"


def test_the_speed_of_prefill_counts_what_was_computed(q: Qwen3) -> None:
    long = "How many r are in strawberry? " * 60
    cold = q.generate(long, params=replace(GREEDY, max_tokens=1)).timings.prefill_tps
    warm = q.generate(long, params=replace(GREEDY, max_tokens=1))
    assert warm.usage.cached_tokens == warm.usage.prompt_tokens - 1
    assert warm.timings.prefill_tps < 10 * cold, "one token was computed"


def test_cached_tokens_are_tokens_of_the_prompt(q: Qwen3) -> None:
    """As in OpenAI's usage; who computes prompt - cached (Anthropic's input_tokens) gets a negative number."""
    usage = q.extend(q.generate(QUESTION, thinking_budget=20, params=GREEDY)).usage
    assert usage.cached_tokens <= usage.prompt_tokens


@pytest.mark.parametrize("what", [None, "an answer", 3])
def test_what_is_no_completion_is_refused_with_a_typed_error(q: Qwen3, what: Any) -> None:
    with pytest.raises(InvalidRequest):
        q.extend(what)


FOREIGN = """
from dataclasses import replace
from qwen3_mlx import InvalidRequest, Qwen3, SamplingParams
q = Qwen3.load("demo")
closed = q.generate("How many r are in pear?", thinking_budget=20, params=SamplingParams(temperature=0, max_tokens=99))
try:
    q.extend(replace(closed, resume=replace(closed.resume, generated=((10**6, None),))))
except InvalidRequest:
    print("refused")
"""


def test_a_completion_of_another_model_is_refused() -> None:
    """``_check`` looks at the prompt's ids only, so MLX gathers beyond the embedding: the process dies of SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-300:]


TRACED = """
import mlx.core as mx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.engine.runner import Runner
double, real = mx.compile(lambda x: x * 2), Runner.step
def step(self):
    mx.eval(double(mx.ones((2,))))
    return real(self)
Runner.step = step
with Qwen3.load("demo") as q:
    q.generate("Hi", params=SamplingParams(max_tokens=3))
"""


def test_a_process_that_has_traced_something_ends_as_any_other() -> None:
    """What MLX keeps of it for the engine's thread is Python's, and was let go of while the interpreter ended: SIGABRT,
    in one of two runs."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-300:]


BEYOND = """
import time
from qwen3_mlx import Qwen3
from qwen3_mlx.engine.warmup import Warmup
steps, real = [], Warmup.step
def step(self):
    real(self)
    steps.append(self._cache)
Warmup.step = step
q = Qwen3.load("demo", context=100)
q._engine.expect(lambda: [65] * 400)
time.sleep(2)
print(q._prefixes.match([65] * 400)[0] or sum(cache is not None for cache in steps))
"""


def test_nothing_is_computed_beyond_the_context_where_asserts_are_off() -> None:
    """Too long a talk is what users cause."""
    done = subprocess.run([sys.executable, "-O", "-c", BEYOND], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "0", done.stdout + done.stderr[-300:]
