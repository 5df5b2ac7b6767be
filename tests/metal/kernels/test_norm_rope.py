"""Norm, rotation and packing of queries, keys and values against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

import qwen3_mlx
from qwen3_mlx.config import ModelConfig, RopeConfig
from qwen3_mlx.kernels import Lengths, packed_rows, reference, stock
from qwen3_mlx.kernels import norm_rope as kernels
from qwen3_mlx.kernels.norm_rope import norm_rope, norm_rope_pack
from qwen3_mlx.kernels.reference import Norms
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
    weights = array(sizes.head_dim) + 1, array(sizes.head_dim) + 1
    norms = reference.norms(*weights, EPS, sizes.q_heads, sizes.kv_heads)
    return Case(sizes, array(len(sizes.offsets), sizes.length, width), norms, mx.array(sizes.offsets, dtype=mx.int32))


def run(c: Case) -> Result:
    s = c.sizes
    table = kernels.rotation(frequencies(s.rope, s.head_dim).turns, c.offsets, c.x.shape[1])
    if s.bits is None:
        return Result(*norm_rope(c.x, c.norms, table))
    queries, rows = norm_rope_pack(c.x, c.norms, table, s.bits, s.group)
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


@pytest.mark.parametrize("rope", [PLAIN, YARN, RopeConfig(1e4)])
@pytest.mark.parametrize("offsets", [(-3, 0, 131_039), tuple(2**20 * i for i in range(20))])
def test_the_table_is_exact_at_any_position(rope: RopeConfig, offsets: tuple[int, ...]) -> None:
    """Fewer than eight offsets are passed as `constant`."""
    head_dim = 64 if rope.theta == 1e4 else 128
    inverse = np.array(frequencies(rope, head_dim).signed, np.float64)[head_dim // 2 :]
    with emulator.using(instrumented=True, jitter_ulps=4):
        table = kernels.rotation(frequencies(rope, head_dim).turns, mx.array(offsets, dtype=mx.int32), 33)
    assert table.shape == (len(offsets), 33, head_dim) and table.dtype == mx.float32
    angles = (np.array(offsets)[:, None] + np.arange(33))[..., None] * inverse
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    error = np.abs(wide(table) - want)
    rounded = np.tile(np.abs(angles), 2) * 2.0**-51  # what float64 itself knows of the angles, here and in `turns`
    assert (error <= 3 * np.spacing(np.abs(want).astype(np.float32)) + rounded).all()


def test_angles_are_nearer_than_those_of_mlx() -> None:
    rotary, start = frequencies(YARN, 128), 131_008
    inverse = np.array(rotary.signed, np.float64)[64:]
    angles = (start + np.arange(64))[:, None] * inverse
    table = wide(kernels.rotation(rotary.turns, mx.array([start], dtype=mx.int32), 64)[0])
    unit = mx.broadcast_to(mx.array([1.0] * 64 + [0.0] * 64), (1, 1, 64, 128))
    options: dict[str, Any] = {"traditional": False, "base": None, "scale": 1.0, "freqs": rotary.periods}
    theirs = wide(mx.fast.rope(unit, 128, offset=start, **options)[0, 0])

    def off(got: np.ndarray) -> float:
        return float(np.hypot(got[:, :64] - np.cos(angles), got[:, 64:] - np.sin(angles)).max())

    print(f"angles off by up to {off(table):.1e} radians, MLX's {off(theirs):.1e}")
    assert off(table) <= 1.2e-7 < off(theirs)


@pytest.mark.parametrize("name", ["8 bits of 32", "plain"])
@pytest.mark.parametrize("scale", [1e-4, 30, 3000])
def test_large_and_small_activations(name: str, scale: float) -> None:
    c = case(CASES[name])
    c = c._replace(x=c.x * scale)
    hold_to_the_rule(c, run(c))


def rows_of(c: Case, row: int, first: int, last: int) -> Case:
    """Some tokens of one row, as a batch of one."""
    return c._replace(x=c.x[row : row + 1, first:last], offsets=c.offsets[row : row + 1] + first)


@pytest.mark.parametrize("sizes", [PACKED, UNPACKED])
def test_a_token_is_the_same_in_any_batch_length_and_order(sizes: Sizes) -> None:
    c = case(sizes._replace(length=33, offsets=(0, 3, 100_000)))
    together = run(c)

    def at(row: int, first: int, last: int) -> Result:
        return Result(*(part if part is None else part[row : row + 1, :, first:last] for part in together))

    for row, first, last in ((0, 0, 33), (1, 0, 1), (1, 32, 33), (2, 5, 7), (2, 1, 33)):
        assert run(rows_of(c, row, first, last)).same(at(row, first, last))
    swapped = mx.array([2, 0, 1, 0])
    again = run(c._replace(x=c.x[swapped], offsets=c.offsets[swapped]))
    assert again.same(Result(*(part if part is None else part[swapped] for part in together)))
    few = rows_of(c, 2, 0, 3)
    alone = run(few)
    for seed in range(1, 21):
        with emulator.using(seed=seed):
            assert run(few).same(alone)


@pytest.mark.parametrize("sizes", [CASES["30b"], CASES["4b"], CASES["plain"]])
def test_everything_is_read_and_written_once(sizes: Sizes) -> None:
    c = case(sizes)
    with emulator.using(instrumented=True), emulator.recording() as reports:
        result = run(c)
    table, report = reports
    assert (table.dispatches, report.dispatches, report.barriers) == (1, 1, 0)
    tokens, heads = c.x.shape[0] * c.x.shape[1], sizes.q_heads + 2 * sizes.kv_heads
    assert report.simdgroups == tokens * heads
    buffers = report.buffers
    outputs = {name: part for name, part in result._asdict().items() if part is not None}
    assert buffers["x"].bytes == c.x.nbytes
    assert all(buffers[name].store_bytes == part.nbytes for name, part in outputs.items())
    turned = tokens * (heads - sizes.kv_heads)
    assert buffers["rotation"].bytes == turned * sizes.head_dim * 4
    assert buffers["q_weight"].bytes + buffers["k_weight"].bytes == turned * sizes.head_dim * 2
    once = c.x.nbytes + sum(part.nbytes for part in outputs.values())
    again = {name: round(buffers[name].bytes / once, 3) for name in ("rotation", "q_weight", "k_weight")}
    print(f"{sizes.q_heads}+2x{sizes.kv_heads} heads, {sizes.bits} bits: {once} bytes once, and of those {again}")


def test_what_is_not_finite_stays_in_its_head() -> None:
    for sizes in (PACKED._replace(kv_heads=2), UNPACKED._replace(kv_heads=2)):
        c = case(sizes)
        x = np.array(c.x.astype(mx.float32)).reshape(3, 2, -1, 128)
        good = run(c)
        q_heads = sizes.q_heads
        x[1, 1, 2, 70] = np.nan  # a query
        x[1, 0, q_heads, 3] = np.inf  # a key
        x[2, 1, q_heads + 3, 40] = -np.inf  # a value
        bad = run(c._replace(x=mx.array(x.reshape(3, 2, -1)).astype(sizes.dtype)))
        queries = wide(bad.queries)
        assert np.isnan(queries[1, 2, 1]).all()
        queries[1, 2, 1] = wide(good.queries)[1, 2, 1]
        np.testing.assert_array_equal(queries, wide(good.queries))
        if bad.rows is None or good.rows is None:
            continue
        parts = [packed_rows.unpack(r, 128, 8, 32, sizes.dtype) for r in (bad.rows, good.rows)]
        (keys, values), (good_keys, good_values) = ([np.array(part) for part in pair] for pair in parts)
        spoilt = np.repeat([True, False, True, False], 32)  # 3 and 67, a pair; the rest is divided by inf
        assert (np.isnan(keys[1, 0, 0]) == spoilt).all() and (keys[1, 0, 0, ~spoilt] == 0).all()
        assert np.isnan(values[2, 1, 1, 32:64]).all()
        keys[1, 0, 0], values[2, 1, 1, 32:64] = good_keys[1, 0, 0], good_values[2, 1, 1, 32:64]
        np.testing.assert_array_equal(keys, good_keys)
        np.testing.assert_array_equal(values, good_values)


@pytest.mark.parametrize(
    ("written", "broken"),
    [
        ("simd_shuffle_xor(normed, 16)", "simd_shuffle_xor(normed, 8)"),
        ("lane < 16 ? -1.0f : 1.0f", "lane < 16 ? 1.0f : -1.0f"),
        ("v[i] * inverse * w[i];", "float(T(v[i] * inverse * w[i]));"),  # one rounding too many
        ("simd_sum(squares) *", "1.001f * simd_sum(squares) *"),
        ("(v[i] - bias)", "(float(T(v[i])) - bias)"),
        ("shrunk ? bits + 1 : bits", "bits"),
        ("-low > high", "low > high"),
        ("uint(scale_bits) | uint(bias_bits) << 16", "uint(bias_bits) | uint(scale_bits) << 16"),
        ("(at * 2 + half_row) * words", "(at * 2 + 1 - half_row) * words"),
        ("if (quarters & 2)", "if (quarters & 1)"),
        ("+ long(position)", "+ long(position) + 1"),
    ],
)
def test_a_broken_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch, written: str, broken: str) -> None:
    swaps = []

    def make(**given: Any) -> Any:
        texts = {part: given[part] for part in ("source", "header")}
        swapped = {part: text.replace(written, broken) for part, text in texts.items()}
        swaps.append(swapped != texts)
        return emulator.metal_kernel(**{**given, **swapped})

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    c = case(PACKED)
    with emulator.using(check_source=False):
        result = run(c)
    assert any(swaps)
    with pytest.raises(AssertionError):
        hold_to_the_rule(c, result)


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def test_the_error_is_not_above_that_of_stock_mlx() -> None:
    c = case(Sizes(8, 2, 128, 8, 64, offsets=(77,), length=33))
    s, want, result = c.sizes, expected(c), run(c)
    rotation = stock.rotation(frequencies(s.rope, 128), Lengths((77,) * len(c.x)), 33)
    queries, (keys, _) = stock.norm_rope(c.x, c.norms, rotation, None)
    codes, *ends = mx.quantize(keys, group_size=64, bits=8)
    theirs = mx.dequantize(codes, *(end.astype(mx.float32) for end in ends), group_size=64, bits=8)
    assert result.rows is not None
    packed = halves(result.rows, s)[0].plain
    for ours, stocks, exact in ((wide(result.queries), wide(queries), want.queries), (packed, wide(theirs), want.keys)):
        our, their = np.abs(ours - exact), np.abs(stocks - exact)
        print(f"largest error {our.max():.4f}, of stock MLX {their.max():.4f}; rms {rms(our):.5f} and {rms(their):.5f}")
        assert our.max() <= their.max() and rms(our) <= rms(their)


@pytest.mark.parametrize("bits", [None, 8])
def test_the_demo_model(bits: int | None) -> None:
    config = ModelConfig.from_folder(DEMO_FOLDER)
    tensors = mx.load(str(DEMO_FOLDER / "model.safetensors"))
    assert isinstance(tensors, dict)
    layer, dim = "model.layers.0.self_attn.", config.head_dim
    tokens = tensors["model.embed_tokens.weight"][100:105].astype(mx.float32) * 30
    weight = mx.concatenate([tensors[f"{layer}{part}_proj.weight"] for part in "qkv"]).astype(mx.float32)
    weights = [tensors[f"{layer}{part}_norm.weight"].astype(mx.bfloat16) for part in "qk"]
    norms = reference.norms(*weights, config.rms_norm_eps, config.num_attention_heads, config.num_key_value_heads)
    sizes = Sizes(config.num_attention_heads, config.num_key_value_heads, dim, bits, rope=config.rope, offsets=(7,))
    x = (tokens @ weight.T).astype(mx.bfloat16)[None]
    c = Case(sizes._replace(length=5), x, norms, mx.array([7], dtype=mx.int32))
    result = run(c)
    hold_to_the_rule(c, result)
    angles = reference.rotation(frequencies(config.rope, dim), Lengths((7,)), 5)
    want, _ = reference.norm_rope(x.astype(mx.float32), norms, angles, None)
    assert mx.allclose(result.queries, want, rtol=2.0**-8, atol=1e-4)


def test_what_is_supported() -> None:
    assert kernels.supported(128, mx.bfloat16) and kernels.supported(64, mx.float16, 4, 32)
    for wrong in ((96, mx.bfloat16), (128, mx.float32), (128, mx.bfloat16, 6), (128, mx.bfloat16, 8, 128)):
        assert not kernels.supported(*wrong)
