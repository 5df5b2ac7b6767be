"""Masks of tokens on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def masked(scores: mx.array, masks: Sequence[bytes | None]) -> mx.array:
    """``scores`` [rows, vocab] with minus infinity where a row's mask has no bit, beyond its end as well."""
    rows, vocab_size = scores.shape
    assert len(masks) == rows, "one mask per row"
    size = -(-vocab_size // 32) * 4
    packed = b"".join(b"\xff" * size if mask is None else mask[:size].ljust(size, b"\0") for mask in masks)
    buffer: Any = memoryview(packed).cast("I")
    bits = mx.array(1, dtype=mx.uint32) << mx.arange(32, dtype=mx.uint32)
    allowed = (mx.array(buffer).reshape(rows, -1, 1) & bits).reshape(rows, -1)[:, :vocab_size]
    return mx.where(allowed != 0, scores, -mx.inf)
