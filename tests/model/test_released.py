"""All eight released configurations build: shapes checked, nothing allocated."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.kernels import resolve
from qwen3_mlx.model.qwen3 import Qwen3
from qwen3_mlx.names import groups
from tests.released import LATER, RELEASED


@pytest.mark.parametrize("mode", ["reference", "emulate"])
@pytest.mark.parametrize("name", [*RELEASED, *LATER])
def test_builds_without_allocating(name: str, mode: str) -> None:
    config = ModelConfig.from_dict((RELEASED | LATER)[name])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = Qwen3(config, resolve(mode))

    got = {path: tuple(value.shape) for path, value in tree_flatten(model.parameters())}
    assert got == {f"{leaf.path}.weight": leaf.shape for group in groups(config) for leaf in group}

    cache = KVCache(config, batch=2, kernels=model.kernels)
    assert model(mx.array([[1, 2, 3], [4, 5, 6]]), cache).shape == (2, 3, config.vocab_size)
    assert model(mx.array([[7], [8]]), cache).shape == (2, 1, config.vocab_size)
    assert model.hidden(mx.array([[7], [8]]), cache).shape == (2, 1, config.hidden_size)
    assert cache.offset == 5
    for layer in cache.layers:
        assert layer.buffers[0].shape == (2, config.num_key_value_heads, 256, config.head_dim)

    assert mx.get_peak_memory() - before < 1_000_000
