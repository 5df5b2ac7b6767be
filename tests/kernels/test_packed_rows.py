"""The layout of packed keys and values, and what packing costs."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels.packed_rows import pack, unpack, words

PACKINGS = [(128, 8, 64), (128, 8, 32), (128, 4, 64), (128, 4, 32), (64, 8, 64), (64, 8, 32), (64, 4, 64), (64, 4, 32)]
DTYPES = [mx.bfloat16, mx.float16]
every = pytest.mark.parametrize(("head_dim", "bits", "group"), PACKINGS)
both = pytest.mark.parametrize("dtype", DTYPES)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def hand_unpacked(half: np.ndarray, head_dim: int, bits: int, group: int, dtype: mx.Dtype) -> tuple[np.ndarray, ...]:
    """Codes, scales and biases of one half of a row, each ``[head_dim]``, word by word as the layout says."""
    codes = np.array([half[i * bits // 32] >> i * bits % 32 & 2**bits - 1 for i in range(head_dim)], np.float64)
    pairs = half[head_dim * bits // 32 :]
    parts = []
    for shift in (0, 16):
        values = mx.array((pairs >> shift & 0xFFFF).astype(np.uint16)).view(dtype).astype(mx.float32)
        parts.append(np.repeat(np.array(values, np.float64), group))
    return codes, *parts


def test_the_size_of_a_row() -> None:
    assert words(128, 8, 64) == 34 and words(128, 4, 64) == 18 and words(64, 4, 32) == 10


@every
@both
def test_the_layout(head_dim: int, bits: int, group: int, dtype: mx.Dtype) -> None:
    keys, values = draw(2, 3, 5, head_dim), draw(2, 3, 5, head_dim, seed=1)
    rows = pack(mx.array(keys), mx.array(values), bits, group, dtype)
    count = words(head_dim, bits, group)
    assert rows.shape == (2, 3, 5, 2 * count) and rows.dtype == mx.uint32
    unpacked = unpack(rows, head_dim, bits, group, dtype)
    for part, given, got in zip((0, 1), (keys, values), unpacked, strict=True):
        assert got.dtype == mx.float32 and got.shape == given.shape
        half = np.array(rows)[1, 2, 4, part * count : (part + 1) * count]
        codes, scales, biases = hand_unpacked(half, head_dim, bits, group, dtype)
        want = codes * scales + biases
        np.testing.assert_allclose(np.array(got)[1, 2, 4], want, rtol=0, atol=1e-6)
        assert (np.abs(given[1, 2, 4] - want) <= np.abs(scales) * 0.50001).all()


@both
def test_codes_are_packed_as_mlx_does(dtype: mx.Dtype) -> None:
    """A half row is what ``mx.quantize`` returns, side by side: ``mx.dequantize`` takes it apart."""
    x = mx.array(draw(4, 128))
    half = pack(x, x, 4, 32, dtype)[:, : words(128, 4, 32)]
    codes, pairs = mx.split(half, [16], axis=-1)
    pairs = mx.contiguous(pairs).view(dtype)
    plain = mx.dequantize(codes, pairs[:, ::2], pairs[:, 1::2], group_size=32, bits=4).astype(mx.float32)
    assert float(mx.abs(plain - unpack(pack(x, x, 4, 32, dtype), 128, 4, 32, dtype)[0]).max()) < 0.02


def error_in_steps(x: np.ndarray, bits: int, group: int, dtype: mx.Dtype) -> np.ndarray:
    """Of ``x [heads, head_dim]``: how far each value is off, in steps of its group's scale, in float64."""
    rows = np.array(pack(mx.array(x), mx.array(x), bits, group, dtype))
    out = []
    for row, given in zip(rows, x, strict=True):
        codes, scales, biases = hand_unpacked(row[: len(row) // 2], len(given), bits, group, dtype)
        out.append((codes * scales + biases - given.astype(np.float64)) / np.abs(scales))
    return np.array(out)


HARD = {
    "normal": draw(40, 128),
    "outliers": draw(40, 128) * np.where(np.arange(128) % 50 == 7, 20, 1).astype(np.float32),
    "positive": np.abs(draw(40, 128)) + 6,
    "negative": -np.abs(draw(40, 128)) - 6,
    "far from zero": draw(40, 128) * 0.01 + 100,
    "large": draw(40, 128) * 5000,
    "small": draw(40, 128) * 1e-4,
    "below the least scale": draw(40, 128) * 1e-8,
    "constant": np.repeat(draw(40, 1) * 3, 128, axis=1),
    "two values": np.where(draw(40, 128) > 0, 0.3, -0.7).astype(np.float32),
}


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("bits", [8, 4])
@both
def test_no_value_is_off_by_more_than_half_a_step(hard: str, bits: int, dtype: mx.Dtype) -> None:
    x = HARD[hard]
    steps = error_in_steps(x, bits, 32, dtype)
    # Subtracting the bias in float32 moves ties by the rounding of numbers far from zero, in steps.
    assert np.abs(steps).max() <= 0.5 + 2**bits * 2.0**-22


@pytest.mark.parametrize("sign", [1, -1])
@both
def test_zeros_and_16_bit_extremes_are_exact(sign: int, dtype: mx.Dtype) -> None:
    x = np.zeros((2, 64), np.float32)
    x[1, 5], x[1, 9] = 1.5 * sign, -0.75 * sign
    got = np.array(unpack(pack(mx.array(x), mx.array(x), 8, 32, dtype), 64, 8, 32, dtype)[0])
    assert (got[0] == 0).all() and (got[1, 32:] == 0).all() and got[1, 5] == x[1, 5]


@pytest.mark.parametrize("kind", [np.nan, np.inf, -np.inf])
@both
def test_what_is_not_finite_makes_its_group_nan_and_no_other(kind: float, dtype: mx.Dtype) -> None:
    x = draw(3, 64)
    x[1, 40] = kind
    keys, values = unpack(pack(mx.array(x), mx.array(draw(3, 64)), 8, 32, dtype), 64, 8, 32, dtype)
    bad = np.zeros((3, 64), bool)
    bad[1, 32:] = True
    assert (np.isnan(np.array(keys)) == bad).all() and not np.isnan(np.array(values)).any()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("group", [32, 64])
@both
def test_the_error_is_not_above_that_of_mlx(bits: int, group: int, dtype: mx.Dtype) -> None:
    x = mx.array(draw(4000, 128)).astype(dtype)
    ours = unpack(pack(x, x, bits, group, dtype), 128, bits, group, dtype)[0]
    codes, scales, biases = mx.quantize(x, group_size=group, bits=bits)
    wide = [part.astype(mx.float32) for part in (scales, biases)]
    theirs = mx.dequantize(codes, *wide, group_size=group, bits=bits)

    def error(got: mx.array) -> tuple[float, float]:
        off = got - x.astype(mx.float32)
        return float(mx.sqrt(mx.mean(off * off))), float(mx.abs(off).max())

    (our_mean, our_most), (mean, most) = error(ours), error(theirs)
    print(f"{bits} bits, groups of {group}, {dtype}: rms {our_mean / mean:.3f}, largest {our_most / most:.3f} of MLX's")
    assert our_mean <= mean and our_most <= most


def test_appending_is_one_slice_update() -> None:
    keys, values = (mx.array(draw(1, 2, 6, 64, seed=seed)) for seed in (0, 1))
    count = words(64, 4, 32)
    rows = pack(keys, values, 4, 32, mx.float16)
    buffer = mx.zeros((1, 2, 16, 2 * count), mx.uint32)
    for at in range(6):
        buffer = mx.slice_update(buffer, rows[:, :, at : at + 1], mx.array([at + 3]), (2,))
    for got, want in zip(unpack(buffer, 64, 4, 32, mx.float16), unpack(rows, 64, 4, 32, mx.float16), strict=True):
        assert mx.array_equal(got[:, :, 3:9], want) and not mx.any(got[:, :, 9:])
