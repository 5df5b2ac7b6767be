"""Single-stream decode, tokens per second: our engine against ``mlx_lm.stream_generate`` on the same folder.

    python -m benchmarks.decode [--runs 15] [--model demo] [--peer-float32]

Both sides decode greedily the same thought about a long word; the clock runs from the first token to the last. mlx-lm
runs the checkpoint in the precision it is stored in, ours in float32 on a CPU device: ``--peer-float32`` gives mlx-lm
the same (on a CPU it must have it for a MoE, for which MLX has no bf16 gather there).
"""

from __future__ import annotations

import argparse
import time

from qwen3_mlx import Finished, Qwen3, SamplingParams, hub

from .sides import interleave, report

PROMPT = "How many r are in counterrevolutionaries?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--peer-float32", action="store_true")
    args = parser.parse_args()

    import mlx.core as mx
    from mlx_lm import load, stream_generate

    folder = hub.resolve(args.model)
    q = Qwen3.load(args.model)
    model, tokenizer = load(str(folder))
    if args.peer_float32:
        model.set_dtype(mx.float32)
    prompt = q.encode([{"role": "user", "content": PROMPT}])
    counts: dict[str, int] = {}

    def ours() -> float:
        begun = tokens = 0
        params = SamplingParams(temperature=0, max_tokens=args.tokens)
        for event in q.stream(PROMPT, params=params):
            begun = begun or time.perf_counter()
            if isinstance(event, Finished):
                tokens = event.usage.completion_tokens
        counts["qwen3-mlx"] = tokens
        return (tokens - 1) / (time.perf_counter() - begun)

    def peer() -> float:
        begun = tokens = 0
        for response in stream_generate(model, tokenizer, prompt, max_tokens=args.tokens):
            begun = begun or time.perf_counter()
            tokens = response.generation_tokens
        counts["mlx-lm"] = tokens
        return (tokens - 1) / (time.perf_counter() - begun)

    seen = interleave({"qwen3-mlx": ours, "mlx-lm": peer}, args.runs, warmup=2)
    report("decode", "tokens/s", seen, "qwen3-mlx", "mlx-lm", more_is_better=True)
    print(f"  tokens generated: {counts}")
    q.close()


if __name__ == "__main__":
    main()
