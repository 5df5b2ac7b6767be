"""Leaf modules."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest

from qwen3_mlx.model import linear
from qwen3_mlx.model.linear import TransposedEmbedding, TransposedLinear


@pytest.mark.parametrize("shape", [(1, 1, 192), (2, 1, 192), (7, 1, 192), (33, 1, 192), (1, 65, 192), (3, 5, 192)])
def test_rows_multiplied_apart_give_the_same_to_the_bit(shape: tuple[int, ...]) -> None:
    mx.random.seed(len(shape) + shape[0])
    x, weight = mx.random.normal(shape), mx.random.normal((192, 3000))
    apart = shape[0] * shape[1] * weight.size >= linear.APART and shape[0] * shape[1] > 1
    assert apart == (shape[0] * shape[1] > 1)
    for leaf in (TransposedLinear(weight), TransposedEmbedding(weight)):
        out = leaf(x) if isinstance(leaf, TransposedLinear) else leaf.as_head(x)
        assert out.shape == (*shape[:2], 3000)
        assert mx.array_equal(out, mx.matmul(x, weight))
        rows = mx.concatenate([mx.matmul(row[None], weight) for row in mx.reshape(x, (-1, 192))])
        assert mx.array_equal(mx.reshape(out, rows.shape), rows)


def test_rows_are_multiplied_apart_on_any_thread() -> None:
    x, weight = mx.random.normal((16, 256)), mx.random.normal((256, 512))
    mx.eval(x, weight)
    seen: list[bool] = []

    def run() -> None:
        seen.append(mx.array_equal(TransposedLinear(weight)(x), mx.matmul(x, weight)).item())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3
