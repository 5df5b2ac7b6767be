"""The safetensors writer on its own: places, alignment, and what MLX reads back."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.checkpoint import Checkpoint
from qwen3_mlx.convert.recipes import Tensor
from qwen3_mlx.convert.shards import ShardWriter

HELD = {
    "a": mx.array([1, 2, 3], mx.bfloat16),
    "b": mx.array([[1, 2**32 - 1]], mx.uint32),
    "c": mx.array([0.5], mx.float16),
    "d": mx.arange(24, dtype=mx.float32).reshape(2, 3, 4),
}
TENSORS = [
    Tensor("a", "BF16", (3,)),
    Tensor("b", "U32", (1, 2)),
    Tensor("c", "F16", (1,)),
    Tensor("d", "F32", (2, 3, 4)),
]


@pytest.mark.parametrize("order", ["abcd", "dcba", "cadb"])
@pytest.mark.parametrize("shard_bytes", [1, 20, 1000])
def test_any_order_of_writing(tmp_path: Path, order: str, shard_bytes: int) -> None:
    with ShardWriter(tmp_path, TENSORS, shard_bytes, 30) as writer:
        for name in order:
            writer.write(name, HELD[name])
    assert len(list(tmp_path.glob("*.safetensors"))) == {1: 4, 20: 2, 1000: 1}[shard_bytes]
    checkpoint = Checkpoint(tmp_path)
    assert set(checkpoint) == set(HELD)
    for name, array in HELD.items():
        info = checkpoint[name]
        assert info.start % info.mx_dtype.size == 0
        found = checkpoint.take(name)
        assert found.dtype == array.dtype and mx.array_equal(found, array)


def test_transposed_arrays_are_written_in_order(tmp_path: Path) -> None:
    array = mx.swapaxes(HELD["d"], 0, 2)
    with ShardWriter(tmp_path, [Tensor("d", "F32", (4, 3, 2))], 1000, 24) as writer:
        writer.write("d", array)
    assert mx.array_equal(Checkpoint(tmp_path).take("d"), array)


def test_a_tensor_that_was_not_written_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not written"), ShardWriter(tmp_path, TENSORS, 1000, 30) as writer:
        writer.write("a", HELD["a"])
