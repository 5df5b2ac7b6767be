"""``deterministic=True`` on a CPU: what a token gives does not depend on how the tokens before it came."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import InvalidRequest, Qwen3
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.types import Finished
from qwen3_mlx.weights import load_model

from .test_batch import asked

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
TOKENS = [(7 * i * i + 13 * i + 5) % 1600 for i in range(150)]
pytestmark = pytest.mark.skipif(
    sys.platform == "darwin" or mx.default_device().type != mx.DeviceType.cpu, reason="says what Linux's CPU gives"
)


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_prompt_in_any_pieces(name: str, kv_bits: int | None) -> None:
    """Logits, keys and values to the bit."""
    model, config = load_model(DEMO / name, deterministic=True)

    def fed(pieces: Sequence[int]) -> list[mx.array]:
        cache, out, first = KVCache(config, kv_bits=kv_bits, kernels=model.kernels), [], 0
        for count in pieces:
            out.append(model(mx.array([TOKENS[first : first + count]]), cache))
            first += count
        return [mx.concatenate(out, axis=1), *(mx.contiguous(buffer[:, :, :first]) for buffer in cache.arrays)]

    whole = fed([150])
    for pieces in ([1] * 150, [64, 86], [3, 100, 1, 46], [149, 1], [8] * 18 + [6]):
        assert all(map(mx.array_equal, fed(pieces), whole))


def said(stream: Any) -> list[Any]:
    *deltas, finished = list(stream)
    assert isinstance(finished, Finished)
    return [*deltas, finished.finish_reason, replace(finished.usage, cached_tokens=0)]


def test_requests_whose_prompts_come_in_other_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache cold and warm, beside others."""
    with Qwen3.load("demo", deterministic=True, max_batch=1, prefix_cache_bytes=0) as q:
        alone = [said(asked(index)(q)) for index in range(12)]
    for chunk in (5, 64):
        monkeypatch.setattr("qwen3_mlx.api.PREFILL_CHUNK", chunk)
        with Qwen3.load("demo", deterministic=True, max_batch=5) as q:
            for _ in ("cold", "warm"):
                streams = [asked(index)(q) for index in range(12)]
                assert [said(stream) for stream in streams] == alone


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_it_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="deterministic must be True or False, not") as caught:
        Qwen3.load("demo", deterministic=wrong)
    assert caught.value.param == "deterministic"
