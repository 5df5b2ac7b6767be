"""Tokens per second of several streams at once: our engine against mlx-lm's ``BatchGenerator`` on the same folder.

    python -m benchmarks.batch [--streams 16] [--requests 32] [--model demo] [--peer-float32]

Requests come all at once, run ``--streams`` at a time and are greedy; the clock runs from the first to the last token
of all, prompts included. Our side ends with typed events (text, thoughts, usage), mlx-lm's with token ids. mlx-lm runs
the checkpoint in the precision it is stored in, ours in float32 on a CPU device: ``--peer-float32`` gives mlx-lm the
same (on a CPU it must have it for a MoE).
"""

from __future__ import annotations

import argparse
import time

from qwen3_mlx import Finished, Qwen3, SamplingParams, hub

from .sides import interleave, report

WORDS = ("strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "incomprehensibilities", "pear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--peer-float32", action="store_true")
    args = parser.parse_args()

    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import BatchGenerator

    folder = hub.resolve(args.model)
    q = Qwen3.load(args.model, max_batch=args.streams)
    model, tokenizer = load(str(folder))
    if args.peer_float32:
        model.set_dtype(mx.float32)
    questions = [f"How many {letter} are in {word}?" for letter in "rasben" for word in WORDS][: args.requests]
    prompts = [q.encode([{"role": "user", "content": question}]) for question in questions]
    params = SamplingParams(temperature=0, max_tokens=args.tokens)
    counts: dict[str, int] = {}

    def ours() -> float:
        begun = time.perf_counter()
        streams = [q.stream(question, params=params) for question in questions]
        ends = [next(event for event in stream if isinstance(event, Finished)) for stream in streams]
        counts["qwen3-mlx"] = sum(end.usage.completion_tokens for end in ends)
        return counts["qwen3-mlx"] / (time.perf_counter() - begun)

    def peer() -> float:
        begun, tokens = time.perf_counter(), 0
        stop = [[token] for token in tokenizer.eos_token_ids]
        generator = BatchGenerator(model, stop_tokens=stop, completion_batch_size=args.streams)
        generator.insert(prompts, [args.tokens] * len(prompts))
        while responses := generator.next_generated():
            tokens += len(responses)
        generator.close()
        counts["mlx-lm"] = tokens
        return tokens / (time.perf_counter() - begun)

    seen = interleave({"qwen3-mlx": ours, "mlx-lm": peer}, args.runs, warmup=1)
    report(f"{args.streams} streams", "tokens/s", seen, "qwen3-mlx", "mlx-lm", more_is_better=True)
    print(f"  tokens generated: {counts}")
    q.close()


if __name__ == "__main__":
    main()
