"""Decode of 4-bit weights on a CPU device, tokens per second: ours against ``mlx_lm.stream_generate`` on one folder.

    python -m benchmarks.cpu_decode [--model qwen3:0.6b] [--tokens 8] [--runs 5] [--float32]

Random weights of a released model's shape, in MLX's 4-bit layout, are written to a temporary folder first. mlx-lm
multiplies packed weights; ours are unpacked once, while they are loaded, and kept in float32. Both sides continue one
token greedily, so that the first token is a step like the others, and the clock runs over all of it. mlx-lm calculates
in bf16, as it comes, or in float32 (``--float32``). Before that, the logits of the same tokens by both sides in float32
are compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen3_mlx import Finished, Qwen3, SamplingParams, hub
from qwen3_mlx.config import ModelConfig, QuantSpec
from qwen3_mlx.names import Leaf, groups
from qwen3_mlx.packing import packed_shapes, recipe
from qwen3_mlx.released import RELEASED

from .sides import interleave, report

SPEC = QuantSpec(bits=4, group_size=64)
SPREAD = 0.02  # standard deviation of a weight
PROMPT = [11, 222, 33, 444]  # the logits of all are compared, the first is continued
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_random(folder: Path, config: ModelConfig) -> None:
    """A checkpoint of this shape: random codes under random scales, norms of one; texts by the tokenizer of ``demo``,
    without a token that ends an answer."""
    mx.random.seed(0)
    tensors: dict[str, mx.array] = {}
    for group in groups(config):
        for leaf in group:
            tensors.update(_random(leaf))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(_source(config)))
    for name in TEXT_FILES:
        shutil.copy(hub.resolve("demo") / name, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0]}')


def _random(leaf: Leaf) -> dict[str, mx.array]:
    """A leaf's tensors by name."""
    spec = recipe(leaf.kind, leaf.shape, SPEC)
    if spec is None:
        return {f"{leaf.path}.weight": mx.ones(leaf.shape, mx.bfloat16)}
    shapes = packed_shapes(leaf.shape, spec)
    codes = 1 << spec.bits
    # Codes are spread evenly over 0 ... codes - 1: the deviation is codes / sqrt(12); the bias brings the mean to 0.
    scales = mx.random.uniform(0.5, 1.5, shapes["scales"]) * (SPREAD * 12**0.5 / codes)
    words = mx.random.randint(0, 1 << 32, shapes["weight"], mx.uint32)
    made = {"weight": words, "scales": scales, "biases": -(codes - 1) / 2 * scales}
    return {f"{leaf.path}.{part}": made[part].astype(mx.uint32 if part == "weight" else mx.bfloat16) for part in shapes}


def _source(config: ModelConfig) -> dict[str, Any]:
    """``config.json``."""
    fields = (
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    packing = {"bits": SPEC.bits, "group_size": SPEC.group_size}
    return {name: getattr(config, name) for name in fields} | {
        "rope_theta": config.rope.theta,
        "torch_dtype": "bfloat16",
        "quantization": packing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    dense = [name for name, config in RELEASED.items() if config.model_type == "qwen3"]
    parser.add_argument("--model", choices=dense, default="qwen3:0.6b", help="whose shape")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--float32", action="store_true", help="mlx-lm in float32 too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_random(folder, RELEASED[args.model])
        measure(folder, args.tokens, args.runs, args.float32)


def measure(folder: Path, tokens: int, runs: int, float32: bool) -> None:
    from mlx_lm import load, stream_generate

    with Qwen3.load(folder) as q:
        model, tokenizer = load(str(folder))
        wide, _ = load(str(folder))
        wide.set_dtype(mx.float32)
        differ(q, wide)
        peer_model = wide if float32 else model
        params = SamplingParams(temperature=0, max_tokens=tokens, logit_bias={0: -100.0})

        def ours() -> float:
            begun = time.perf_counter()
            *_, last = q.stream_raw(PROMPT[:1], params)
            assert isinstance(last, Finished) and last.usage.completion_tokens == tokens
            return tokens / (time.perf_counter() - begun)

        def peer() -> float:
            begun = time.perf_counter()
            *_, last = stream_generate(peer_model, tokenizer, PROMPT[:1], max_tokens=tokens)
            assert last.generation_tokens == tokens
            return tokens / (time.perf_counter() - begun)

        seen = interleave({"qwen3-mlx": ours, "mlx-lm": peer}, runs)
    report("decode of 4-bit weights on a CPU", "tokens/s", seen, "qwen3-mlx", "mlx-lm", more_is_better=True)


def differ(q: Qwen3, peer: Any) -> None:
    """Prints the largest difference of the logits of ``PROMPT``."""
    ours, theirs = q.model([PROMPT]), peer(mx.array([PROMPT]))
    worst, largest = mx.max(mx.abs(ours - theirs)).item(), mx.max(mx.abs(theirs)).item()
    same = mx.all(mx.argmax(ours, axis=-1) == mx.argmax(theirs, axis=-1)).item()
    print(f"logits differ by {worst:.2g} at most, of up to {largest:.3g}; the same tokens: {same}")


if __name__ == "__main__":
    main()
