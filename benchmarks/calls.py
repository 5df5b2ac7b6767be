"""Function calls of Python per decoded token, against mlx-lm. Counts, not timings.

    python -m benchmarks.calls [--model demo] [--streams 1 --streams 16] [--sampled] [--where]

On a fast Mac the host prepares a token while the GPU computes the one before; each call is a part of that time that no
GPU makes shorter. Counted with ``sys.setprofile``: calls of Python functions (a generator that is resumed counts again;
comprehensions do not, which Python 3.12 no longer calls), and calls of the interpreter's own C functions. MLX's
operations are neither, on both sides, which favours the side that builds its graph anew each step.

Ours is everything between the token and who reads it: the engine's thread (step, sampler, detokenizer, parsers, events)
and the reader of the stream. mlx-lm's ends with text too: ``stream_generate`` for one stream, and for several its
``BatchGenerator`` with a detokenizer each, as its server has it; that server's parsers and queues are not counted. A
step is one token of each stream; shown is the median of the steps that all streams take together. In two settings:

- ``cpu``: each side as it runs on this machine;
- ``gpu``: ours with a GPU's policy, by which a step's graph is traced once and then replayed
  (``qwen3_mlx/engine/step.py``), computed by this machine. A trace, one in 256 positions, is not in the median.

``--model 8B`` and the like are made up for the purpose: the released number of layers, small and constant weights.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx

from qwen3_mlx import Qwen3, SamplingParams, hub
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.engine.batch import Batch
from qwen3_mlx.engine.loop import TokenLoop
from qwen3_mlx.engine.streams import EventStream
from qwen3_mlx.kernels import Kernels, resolve
from qwen3_mlx.kernels.dispatch import on_stock

from .batch import WORDS
from .host_graph import MODELS, weights

SETTINGS = ("cpu", "gpu")
INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")
TOKENS = 100  # of each answer
FEWEST = 16  # steps to judge by


class Count(NamedTuple):
    """Calls of Python functions and of C functions."""

    python: float
    native: float

    @property
    def both(self) -> float:
        return self.python + self.native

    def plus(self, other: Count) -> Count:
        return Count(self.python + other.python, self.native + other.native)


class Calls:
    """A profile function that counts what one thread calls. ``marks``: the counts at the beginning of each step of a
    batch in which all of so many ``streams`` have their places; ``where``: what was called since the first of them."""

    def __init__(self, streams: int = 0) -> None:
        self.python = self.native = 0
        self.where: Counter[str] = Counter()
        self.marks: list[Count] = []
        self._streams = streams

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code is Batch.step.__code__ and sum(map(bool, frame.f_locals["self"].rows)) == self._streams:
                self.marks.append(self.count)
                if len(self.marks) == 1:
                    self.where.clear()
            if code.co_name not in INLINED:
                self.python += 1
                self.where[f"{code.co_filename.rpartition('/')[2]}: {code.co_qualname}"] += 1
        elif event == "c_call":
            self.native += 1
            self.where[f"C: {arg.__qualname__}"] += 1

    @property
    def count(self) -> Count:
        return Count(self.python, self.native)


@contextlib.contextmanager
def counting(calls: Calls) -> Iterator[None]:
    """Count what this thread does."""
    before = sys.getprofile()
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(before)


def median(counts: Sequence[Count], tokens: int) -> Count:
    """Of the differences from one count to the next, for each of so many tokens."""
    steps = [(b.python - a.python, b.native - a.native) for a, b in itertools.pairwise(counts)]
    if len(steps) < FEWEST:
        raise SystemExit(f"only {len(steps)} steps with all streams: ask for fewer streams, or another model")
    return Count(*(statistics.median(each) / tokens for each in zip(*steps, strict=True)))


def questions(streams: int) -> list[str]:
    return [f"How many {letter} are in {word}?" for letter in "rasben" for word in WORDS][:streams]


def ours(q: Qwen3, streams: int, params: SamplingParams) -> tuple[Count, Calls]:
    """Calls per token of a fresh engine and of who reads it; ``q`` has not run yet. The engine begins when all requests
    are there, so that it is the same each time which tokens come together."""
    engine, reader, ready, serve = Calls(streams), Calls(), threading.Event(), TokenLoop.serve

    def held_back(self: TokenLoop) -> None:
        ready.wait()
        serve(self)

    threading.setprofile(engine)
    try:
        with mock.patch.object(TokenLoop, "serve", held_back):
            running: list[EventStream] = [q.stream(question, params=params) for question in questions(streams)]
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
        ready.set()
    with counting(reader):
        events = [list(stream) for stream in running]
    tokens = sum(each[-1].usage.completion_tokens for each in events)  # type: ignore[union-attr]
    read = Count(reader.python / tokens, reader.native / tokens)
    return median(engine.marks[1:-1], streams).plus(read), engine


def peer(model: Any, tokenizer: Any, prompts: list[list[int]], params: SamplingParams) -> tuple[Count, Calls]:
    """The same of mlx-lm."""
    from mlx_lm.generate import BatchGenerator, stream_generate
    from mlx_lm.sample_utils import make_sampler

    greedy, calls, counts = params.temperature == 0, Calls(), list[Count]()
    sampler = None if greedy else make_sampler(temp=params.temperature, top_p=params.top_p, top_k=params.top_k)
    if len(prompts) == 1:
        answer = stream_generate(model, tokenizer, prompts[0], max_tokens=TOKENS, sampler=sampler)
        with counting(calls):
            for _ in answer:
                counts.append(calls.count)
        return median(counts[1:-1], 1), calls
    generator = BatchGenerator(model, sampler=sampler, completion_batch_size=len(prompts))
    texts = {uid: tokenizer.detokenizer for uid in generator.insert(prompts, [TOKENS] * len(prompts))}
    with counting(calls):
        while responses := generator.next_generated():
            for response in responses:
                texts[response.uid].add_token(response.token)
                _ = texts[response.uid].last_segment
            if len(responses) == len(prompts):
                counts.append(calls.count)
    generator.close()
    return median(counts[1:-1], len(prompts)), calls


@contextlib.contextmanager
def policy(setting: str) -> Iterator[None]:
    """What checkpoints are loaded for."""
    kernels: Kernels = resolve("reference")
    if setting == "gpu":
        kernels = replace(on_stock("reference"), packed=False, dtype=mx.float32)
    with mock.patch("qwen3_mlx.weights.resolve", lambda *_: kernels):
        yield


@contextlib.contextmanager
def checkpoint(name: str) -> Iterator[Path]:
    """A folder with a model of that name, or one made up."""
    demo = hub.resolve("demo")
    if name not in MODELS:
        yield hub.resolve(name)
        return
    vocab_size = json.loads((demo / "config.json").read_text())["vocab_size"]
    source = {**MODELS[name], "hidden_size": 64, "vocab_size": vocab_size}
    if "moe_intermediate_size" in source:
        source["moe_intermediate_size"] = 32
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for file in demo.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(source))
        arrays = weights(ModelConfig.from_dict(source), mx.float32)
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
        yield folder


GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS)
SAMPLED = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, min_p=0, seed=0, max_tokens=TOKENS)


def counted(setting: str, folder: Path, streams: int, params: SamplingParams = GREEDY) -> tuple[Count, Calls]:
    """Ours per token in a setting, and where the engine's thread has called what."""
    with policy(setting), Qwen3.load(folder, max_batch=streams) as q:
        return ours(q, streams, params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streams", type=int, action="append")
    parser.add_argument("--sampled", action="store_true", help="temperature 0.6, top_k 20, top_p 0.95")
    parser.add_argument("--where", action="store_true", help="list what our engine calls most, over all of its steps")
    args = parser.parse_args()
    from mlx_lm import load

    params = SAMPLED if args.sampled else GREEDY
    with checkpoint(args.model) as folder:
        model, tokenizer = load(str(folder))
        model.set_dtype(mx.float32)
        with policy("cpu"), Qwen3.load(folder) as q:
            prompts = [q.encode(question) for question in questions(max(args.streams or [16]))]
        print(f"{args.model}, {'sampled' if args.sampled else 'greedy'}: calls per token")
        print("  streams  setting      Python        C     both    mlx-lm: Python        C     both    ratio (Python)")
        for streams in args.streams or (1, 16):
            theirs, _ = peer(model, tokenizer, prompts[:streams], params)
            for setting in SETTINGS:
                mine, calls = counted(setting, folder, streams, params)
                print(
                    f"  {streams:7}  {setting:7} {mine.python:11.1f} {mine.native:8.1f} {mine.both:8.1f}"
                    f" {theirs.python:17.1f} {theirs.native:8.1f} {theirs.both:8.1f}"
                    f" {mine.both / theirs.both:8.2f} ({mine.python / theirs.python:.2f})"
                )
                if args.where:
                    steps = len(calls.marks)
                    for place, times in calls.where.most_common(60):
                        print(f"      {times / steps:8.2f} a step   {place}")


if __name__ == "__main__":
    main()
