"""Every operation of ``deterministic=True``: a row has the same bits alone and in batches of 2 to 33, at several places
in them, whatever the other rows are. Through the operations that models call, so over the borders between kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import pytest

from qwen3_mlx.config import QuantSpec, RopeConfig
from qwen3_mlx.kernels import DenseView, Kernels, Lengths, PackedView, Packing, norms, packed_rows, resolve
from qwen3_mlx.model.linear import QuantizedSwitchLinear
from qwen3_mlx.model.rope import frequencies

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .test_invariance import flat
from .test_linear import Sizes, cancelling

BF16 = mx.bfloat16
MOST = 33
EIGHT = Packing(8, 64)
#: Some rows of a batch: the results of each.
Launch = Callable[[Sequence[int]], tuple[mx.array, ...]]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def normal(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(BF16)


class Rows(NamedTuple):
    """A batch for each operation, of which some rows are launched."""

    kernels: Kernels

    def linear(self, bits: int | None) -> Launch:
        x, weight = cancelling(Sizes(256, 16, bits), MOST)
        return lambda rows: (self.kernels.linear(x[mx.array(rows)], weight),)  # type: ignore[misc]

    def rms_norm(self) -> Launch:
        x, weight = normal(1, MOST, 512), normal(2, 512)
        return lambda rows: (self.kernels.rms_norm(x[mx.array(rows)], weight, 1e-6),)

    def route(self) -> Launch:
        logits = normal(3, MOST, 16)
        return lambda rows: self.kernels.route(logits[mx.array(rows)], 4, True)

    def moe_swiglu(self) -> Launch:
        x, (experts, weights) = normal(4, MOST, 128), self.kernels.route(normal(5, MOST, 12), 4, True)
        stacks = []
        for seed, (out, dims) in ((6, (256, 128)), (7, (128, 128))):
            stacks.append(QuantizedSwitchLinear(*mx.quantize(normal(seed, 12, out, dims), 64, 4), QuantSpec(4, 64)))

        def launch(rows: Sequence[int]) -> tuple[mx.array, ...]:
            at = mx.array(rows)
            return (self.kernels.moe_swiglu(x[at], experts[at], weights[at], *stacks),)

        return launch

    def norm_rope(self, packing: Packing | None) -> Launch:
        """4 heads of queries and 2 of keys and values, each row at a position of its own."""
        qkv, given = normal(8, MOST, 1, 8 * 64), norms(normal(9, 64), normal(10, 64), 1e-6, 4, 2)
        offsets, turning = [97 * row for row in range(MOST)], frequencies(RopeConfig(theta=1e4), 64)

        def launch(rows: Sequence[int]) -> tuple[mx.array, ...]:
            rotation = self.kernels.rotation(turning, Lengths(tuple(offsets[row] for row in rows)), 1)
            queries, entry = self.kernels.norm_rope(qkv[mx.array(rows)], given, rotation, packing)
            return queries, *entry

        return launch

    def attend(self, packing: Packing | None) -> Launch:
        """Histories of 1 to 161 tokens, so that some rows have more blocks than others."""
        queries, lengths = normal(11, MOST, 4, 1, 64), [1 + 5 * row for row in range(MOST)]
        keys, values = normal(12, MOST, 2, 170, 64), normal(13, MOST, 2, 170, 64)
        packed = None if packing is None else packed_rows.pack(keys, values, *packing, BF16)

        def launch(rows: Sequence[int]) -> tuple[mx.array, ...]:
            at, filled = mx.array(rows), Lengths(tuple(lengths[row] for row in rows))
            dense = DenseView(keys[at], values[at], filled)
            view = dense if packed is None or packing is None else PackedView(packed[at], filled, packing)
            return (self.kernels.attend(queries[at], view, 0.125),)

        return launch


OPERATIONS: dict[str, Callable[[Rows], Launch]] = {
    "linear, 4 bits": lambda rows: rows.linear(4),
    "linear, 8 bits": lambda rows: rows.linear(8),
    "linear, not packed": lambda rows: rows.linear(None),
    "rms_norm": Rows.rms_norm,
    "route": Rows.route,
    "moe_swiglu": Rows.moe_swiglu,
    "norm_rope": lambda rows: rows.norm_rope(None),
    "norm_rope, 8 bits": lambda rows: rows.norm_rope(EIGHT),
    "attend": lambda rows: rows.attend(None),
    "attend, 8 bits": lambda rows: rows.attend(EIGHT),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_row_is_the_same_in_any_company(operation: str) -> None:
    launch = OPERATIONS[operation](Rows(resolve("emulate", deterministic=True)))

    def each(rows: Sequence[int]) -> list[list[bytes]]:
        """The bytes of each row."""
        parts = launch(list(rows))
        return [flat(tuple(part[at] for part in parts)) for at in range(len(rows))]

    together = each(range(MOST))
    assert len({part for row in together for part in row}) > MOST / 2, "rows differ"
    for row in (0, 7, 16, 32):
        assert each([row]) == [together[row]]
    for count in (2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32):
        for first in {0, (MOST - count) // 2, MOST - count}:
            rows = range(first, first + count)
            assert each(rows) == [together[row] for row in rows]
    for rows in ([5] * 6, [32, 0, 7, 7, 1, 30, 2, 3, 4, 9], range(MOST - 1, -1, -1)):
        assert each(rows) == [together[row] for row in rows]
