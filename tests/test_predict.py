"""What a Mac may decode: numbers by hand, what others have published, and which way the numbers go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx import costs, predict
from qwen3_mlx.chips import CHIPS, Chip, find
from qwen3_mlx.config import QuantSpec
from qwen3_mlx.engine import memory
from qwen3_mlx.kernels import stock
from qwen3_mlx.predict import Setting
from qwen3_mlx.released import RELEASED

FOUR = QuantSpec(4, 64)
(M4_MAX,) = find("M4 Max 40")


def test_8b_on_an_m4_max_by_hand() -> None:
    """4.26 GB of weights and 1,024 tokens of 147,456 bytes at 546 GB/s; 36 layers of 13 launches, and 5."""
    found = predict.predict(RELEASED["qwen3:8b"], M4_MAX, Setting(FOUR))
    assert found.read == pytest.approx(4.258e9 + 0.151e9, rel=1e-3)
    assert found.launches == 473
    assert found.bound == pytest.approx(546 / 4.409, rel=1e-3)
    assert found.band is not None
    assert found.band.low == pytest.approx(1 / (4.409 / (0.75 * 546) + 473 * 4e-6), rel=1e-3)
    assert found.band.high == pytest.approx(1 / (4.409 / (0.9 * 546) + 473 * 1e-6), rel=1e-3)
    assert found.fits == 48 and found.longest == {48: 40960, 64: 40960, 128: 40960}


def test_30b_a3b_on_an_m4_max_by_hand() -> None:
    """1.72 GB of weights and 1,024 tokens of 98,304 bytes."""
    found = predict.predict(RELEASED["qwen3:30b-a3b"], M4_MAX, Setting(FOUR))
    assert found.read == pytest.approx(1.718e9 + 0.1007e9, rel=2e-3)
    assert found.launches == 677
    assert found.bound == pytest.approx(300, rel=5e-3)
    assert found.band == pytest.approx((140, 228), rel=5e-3)


#: Tokens/s of one stream that others have published, of mlx-lm and of runtimes that run its models: chip, model,
#: weights, tokens of context in the middle of the answer (300, where only "short" is said). None was measured here.
MLX_LM = "mlx-lm's BENCHMARKS.md: mlx-lm 0.28.2, a prompt of 2,048 tokens and 128 of answer, M4 Max of 64 GB"
PUBLISHED = [
    ("M4 Max 40", "qwen3:4b", None, 2112, 52.47, MLX_LM),
    ("M4 Max 40", "qwen3:4b", QuantSpec(8, 64), 2112, 86.907, MLX_LM),
    ("M4 Max 40", "qwen3:4b", QuantSpec(6, 64), 2112, 104.68, MLX_LM),
    ("M4 Max 40", "qwen3:4b", QuantSpec(5, 32), 2112, 110.29, MLX_LM),
    ("M4 Max 40", "qwen3:4b", QuantSpec(5, 64), 2112, 116.39, MLX_LM),
    ("M4 Max 40", "qwen3:4b", QuantSpec(4, 32), 2112, 126.0, MLX_LM),
    ("M4 Max 40", "qwen3:4b", FOUR, 2112, 134.52, MLX_LM),
    ("M4 Max 40", "qwen3:30b-a3b", QuantSpec(8, 64), 2112, 83.16, MLX_LM),
    ("M4 Max 40", "qwen3:30b-a3b", FOUR, 2112, 113.33, MLX_LM),
    ("M3 Pro", "qwen3:4b", FOUR, 2112, 44.62, "github.com/ml-explore/mlx-lm/pull/1569"),
    ("M3 Ultra", "qwen3:0.6b", FOUR, 300, 387.64, "github.com/raullenchai/Rapid-MLX/pull/633"),
    ("M3 Ultra", "qwen3:8b", FOUR, 300, 112.89, "github.com/raullenchai/Rapid-MLX/pull/636"),
    ("M4 Pro", "qwen3:0.6b", QuantSpec(8, 64), 184, 284.2, "github.com/waybarrios/vllm-mlx/issues/531"),
]


@pytest.mark.parametrize(("chip", "model", "spec", "context", "speed", "source"), PUBLISHED)
def test_the_band_holds_what_was_published(
    chip: str, model: str, spec: QuantSpec | None, context: int, speed: float, source: str
) -> None:
    """Given the launches of mlx-lm: 30 a layer of a MoE, 19 a dense one, and 4 (``benchmarks/README.md``)."""
    (on,), config = find(chip), RELEASED[model]
    read = costs.step_bytes(config, costs.bytes_by_role(config, spec=spec), context)
    launches = config.num_hidden_layers * (30 if config.num_experts else 19) + 4
    low, high = predict.band(read, launches, on.bandwidth)
    assert low <= speed <= high < predict.bound(read, on.bandwidth), source


runs = st.builds(
    Setting,
    spec=st.sampled_from([FOUR, QuantSpec(8, 64), QuantSpec(3, 64), QuantSpec(4, 32, "mxfp4"), None]),
    kv_bits=st.sampled_from([None, 8, 4]),
    context=st.integers(0, 40_000),
    rows=st.integers(1, 63),
)
models = st.sampled_from(sorted(RELEASED))
chips = st.sampled_from(CHIPS)


@settings(deadline=None)
@given(model=models, chip=chips, setting=runs, more=st.integers(1, 40_000))
def test_more_context_is_never_faster_and_never_fits_better(
    model: str, chip: Chip, setting: Setting, more: int
) -> None:
    short = predict.predict(RELEASED[model], chip, setting)
    long = predict.predict(RELEASED[model], chip, replace(setting, context=setting.context + more))
    assert long.bound < short.bound and long.read > short.read
    assert (short.band is None) == (long.band is None)
    if short.band and long.band:
        assert long.band.low < short.band.low and long.band.high < short.band.high
    assert short.fits is not None or long.fits is None
    if short.fits and long.fits:
        assert long.fits >= short.fits


@settings(deadline=None)
@given(model=models, chip=chips, setting=runs)
def test_fewer_bits_are_never_slower(model: str, chip: Chip, setting: Setting) -> None:
    """In bytes: a band may fall where fewer bits take more launches (3 bits in a MoE)."""
    read = [
        predict.predict(RELEASED[model], chip, replace(setting, spec=spec)).read
        for spec in (QuantSpec(3, 64), FOUR, QuantSpec(6, 64), QuantSpec(8, 64), None)
    ]
    assert read == sorted(read)
    caches = [
        predict.predict(RELEASED[model], chip, replace(setting, kv_bits=bits, context=setting.context + 1))
        for bits in (4, 8, None)
    ]
    assert [each.bound for each in caches] == sorted((each.bound for each in caches), reverse=True)


@settings(deadline=None)
@given(model=models, chip=chips, setting=runs)
def test_rows_share_what_they_read(model: str, chip: Chip, setting: Setting) -> None:
    """More rows never take less of a step, nor give fewer tokens/s together; only one alone has a band, inside the
    bound."""
    one = predict.predict(RELEASED[model], chip, replace(setting, rows=1))
    many = predict.predict(RELEASED[model], chip, setting)
    assert one.read <= many.read <= setting.rows * one.read * (1 + 1e-12)
    assert many.bound >= one.bound * (1 - 1e-12)
    assert (many.band is None) == (setting.rows > 1)
    assert one.band is not None and 0 < one.band.low < one.band.high < one.bound


@settings(deadline=None)
@given(model=models, chip=chips, setting=runs)
def test_what_is_said_to_fit_does(model: str, chip: Chip, setting: Setting) -> None:
    alone = replace(setting, rows=1)
    found = predict.predict(RELEASED[model], chip, alone)
    assert list(found.longest) == list(chip.memory)
    assert list(found.longest.values()) == sorted(found.longest.values())
    for memory_size, tokens in found.longest.items():
        if tokens > 1:
            again = predict.predict(RELEASED[model], chip, replace(alone, context=tokens - 1))
            assert again.fits is not None and again.fits <= memory_size


def test_a_shape_that_our_kernels_do_not_take_has_a_bound_and_no_band() -> None:
    found = predict.predict(replace(RELEASED["qwen3:8b"], head_dim=96), M4_MAX, Setting(FOUR))
    assert found.bound > 0 and found.launches is None and found.band is None


def test_admission_is_reckoned_as_the_engine_does() -> None:
    assert (predict.LEAST_CHUNK, predict.UNPACKED) == (memory.LEAST_CHUNK, stock.UNPACKED)
