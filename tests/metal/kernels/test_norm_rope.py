"""Norm, rotation and packing of queries, keys and values against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

import qwen3_mlx
from qwen3_mlx.config import RopeConfig
from qwen3_mlx.kernels import norm_rope as kernels
from qwen3_mlx.kernels import packed_rows
from qwen3_mlx.kernels.norm_rope import Norms, norm_rope, norm_rope_pack
from qwen3_mlx.model.rope import frequencies

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .packing import precision, wide

DEMO_FOLDER = Path(qwen3_mlx.__file__).parent / "demo" / "dense"
EPS = 1e-6
PLAIN = RopeConfig(1e6)
YARN = RopeConfig(1e6, type="yarn", factor=4.0, original_max_position_embeddings=32768)


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


class Sizes(NamedTuple):
    q_heads: int
    kv_heads: int
    head_dim: int
    bits: int | None = 8  # None: not packed
    group: int = 64
    dtype: Any = mx.bfloat16
    offsets: tuple[int, ...] = (77,)  # of the rows of a batch
    length: int = 1
    rope: RopeConfig = PLAIN


class Case(NamedTuple):
    sizes: Sizes
    x: mx.array
    norms: Norms
    offsets: mx.array


class Result(NamedTuple):
    queries: mx.array
    keys: mx.array | None = None
    values: mx.array | None = None
    rows: mx.array | None = None

    def same(self, other: Result) -> bool:
        both = zip(self, other, strict=True)
        return all(mx.array_equal(a, b) for a, b in both if a is not None and b is not None)


def case(sizes: Sizes, seed: int = 0) -> Case:
    assert kernels.supported(sizes.head_dim, sizes.dtype, sizes.bits, sizes.group)
    rng = np.random.default_rng(seed)

    def array(*shape: int) -> mx.array:
        return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(sizes.dtype)

    width = (sizes.q_heads + 2 * sizes.kv_heads) * sizes.head_dim
    norms = Norms(array(sizes.head_dim) + 1, array(sizes.head_dim) + 1, EPS)
    return Case(sizes, array(len(sizes.offsets), sizes.length, width), norms, mx.array(sizes.offsets, dtype=mx.int32))


def run(c: Case) -> Result:
    s = c.sizes
    table = kernels.rotation(kernels.turns(frequencies(s.rope, s.head_dim)), c.offsets, c.x.shape[1])
    if s.bits is None:
        return Result(*norm_rope(c.x, c.norms, table, s.q_heads))
    queries, rows = norm_rope_pack(c.x, c.norms, table, s.q_heads, s.bits, s.group)
    return Result(queries, rows=rows)


class Expected(NamedTuple):
    queries: np.ndarray
    q_cond: np.ndarray  # |a| + |b| of the two terms that rotation adds
    keys: np.ndarray
    k_cond: np.ndarray
    values: np.ndarray


def expected(c: Case) -> Expected:
    """In float64, with the float32 frequencies of the model."""
    s = c.sizes
    x = wide(c.x).reshape(*c.x.shape[:2], -1, s.head_dim).swapaxes(1, 2)
    queries, keys, values = np.split(x, [s.q_heads, s.q_heads + s.kv_heads], axis=1)
    half = s.head_dim // 2
    inverse = np.array(frequencies(s.rope, s.head_dim).signed, np.float64)[half:]
    positions = np.array(c.offsets, np.int64)[:, None] + np.arange(c.x.shape[1])
    angles = np.tile(positions[..., None] * inverse, 2)[:, None]

    def turned(heads: np.ndarray, weight: mx.array) -> tuple[np.ndarray, np.ndarray]:
        normed = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + EPS) * wide(weight)
        kept = normed * np.cos(angles)
        added = np.roll(normed, half, axis=-1) * np.sin(angles) * np.where(np.arange(s.head_dim) < half, -1, 1)
        return kept + added, np.abs(kept) + np.abs(added)

    return Expected(*turned(queries, c.norms.queries), *turned(keys, c.norms.keys), values)


class Row(NamedTuple):
    """The packed rows of a head: codes, scales and biases ``[..., head_dim]``, float64."""

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray

    @property
    def plain(self) -> np.ndarray:
        return self.codes * self.scales + self.biases


def halves(rows: mx.array, sizes: Sizes) -> tuple[Row, Row]:
    """Keys and values of packed rows, taken apart by numpy."""
    bits, group, dim = sizes.bits or 0, sizes.group, sizes.head_dim
    out = []
    for half in np.split(np.array(rows), 2, axis=-1):
        words, pairs = half[..., : dim * bits // 32], half[..., dim * bits // 32 :]
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        codes = (words[..., None] >> shifts & 2**bits - 1).reshape(*half.shape[:-1], dim).astype(np.float64)
        ends = [mx.array((pairs >> shift & 0xFFFF).astype(np.uint16)).view(sizes.dtype) for shift in (0, 16)]
        scales, biases = (np.repeat(wide(end), group, -1) for end in ends)
        out.append(Row(codes, scales, biases))
    return out[0], out[1]


def hold_packed_keys(got: Row, want: Row, exact: np.ndarray, cond: np.ndarray) -> tuple[int, int]:
    """Scales, biases and codes are those of the reference but at ties; returns how many codes and how many scales or
    biases were ties."""
    slack = 4 * 2.0**-24 * cond + 2.0**-23 * (np.abs(got.biases) + np.abs(exact))
    assert (np.abs(got.plain - exact) <= 0.5 * np.abs(got.scales) + slack).all()
    moved = (got.scales != want.scales) | (got.biases != want.biases)
    # A value next to one of 16 bits may be rounded away to the one after: 2^-7 is bf16's largest step.
    np.testing.assert_allclose(got.scales, want.scales, rtol=2.0**-6)
    np.testing.assert_allclose(got.biases, want.biases, rtol=2.0**-7)
    other = (got.codes != want.codes) & ~moved
    place = (exact - got.biases) / got.scales
    from_tie = np.abs(np.abs(place - np.rint(place)) - 0.5)
    assert (from_tie[other] * np.abs(got.scales)[other] <= slack[other]).all()
    return int(other.sum()), int(moved.sum())


def hold_to_the_rule(c: Case, result: Result) -> dict[str, float]:
    """Everything that is promised of a result; returns the C, the percentile and the ties found."""
    want = expected(c)
    found = [precision(result.queries, want.queries, want.q_cond)]
    counts = {"ties": 0.0, "moved": 0.0}
    if result.rows is None:
        assert result.keys is not None and result.values is not None
        found.append(precision(result.keys, want.keys, want.k_cond))
        np.testing.assert_array_equal(wide(result.values), want.values)
    else:
        bits, s = c.sizes.bits or 0, c.sizes
        narrow = [mx.array(part.astype(np.float32)) for part in (want.keys, want.values)]
        rows = packed_rows.pack(*narrow, bits, s.group, s.dtype)
        assert result.rows.shape == rows.shape and result.rows.dtype == mx.uint32
        (keys, _), (want_keys, _) = halves(result.rows, s), halves(rows, s)
        at = packed_rows.words(s.head_dim, bits, s.group)
        assert mx.array_equal(result.rows[..., at:], rows[..., at:])  # values are exact, so no bit differs
        counts["ties"], counts["moved"] = hold_packed_keys(keys, want_keys, want.keys, want.k_cond)
        assert counts["ties"] + counts["moved"] <= 2 + 0.002 * want.keys.size
    assert all(one.c <= 4 and one.p999 <= 0.501 for one in found), found
    return {"C": max(one.c for one in found), "p99.9": max(one.p999 for one in found), **counts}


CASES = {
    "demo": Sizes(4, 2, 64, 8, 64),
    "30b": Sizes(32, 4, 128, 8, 64, offsets=(40_959,)),
    "4b": Sizes(8, 2, 128, 4, 64, offsets=(5, 131_071, 4000), rope=YARN),
    "14b": Sizes(10, 2, 128, 4, 32, mx.float16, offsets=(9,), length=33),
    "8 bits of 32": Sizes(8, 1, 128, 8, 32, offsets=(0, 3, 100_000), length=2),
    "16 to 1": Sizes(16, 1, 64, 4, 64, mx.float16, offsets=(1, 2, 131_000)),
    "1 to 1": Sizes(2, 2, 64, 4, 32, offsets=(70_000,), length=33, rope=YARN),
    "small heads": Sizes(3, 3, 64, 8, 32, mx.float16, offsets=(12, 0, 5), length=2),
    "float16": Sizes(4, 1, 128, 8, 64, mx.float16, offsets=(131_039,), length=33),
    "plain": Sizes(4, 1, 128, None, offsets=(0, 131_071, 7), length=2, rope=YARN),
    "plain float16": Sizes(5, 1, 64, None, dtype=mx.float16, offsets=(3000,), length=33),
    "plain demo": Sizes(4, 2, 64, None),
}
PACKED, UNPACKED = CASES["8 bits of 32"], CASES["plain"]


@pytest.mark.parametrize("name", CASES)
def test_matches_float64(name: str) -> None:
    c = case(CASES[name])
    with emulator.using(instrumented=True, jitter_ulps=4, jitter_seed=1):
        result = run(c)
    found = hold_to_the_rule(c, result)
    print(name, {key: round(value, 4) for key, value in found.items()})
