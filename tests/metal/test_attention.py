"""The kernels of attention where the product uses them, behind the trials that let them be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx.cache.groups import GroupedCache
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.kernels import Kernels, norms
from qwen3_mlx.kernels.attention_trials import ATTENTION, NORM_ROPE, PACK, TABLE
from qwen3_mlx.kernels.decode_attention import BLOCK
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.verdicts import Store
from qwen3_mlx.kernels.verify import Trial, Verifier
from qwen3_mlx.model.rope import frequencies
from qwen3_mlx.weights import load_model

from . import emulator
from .emulator import standin
from .test_emulator import _compiler  # noqa: F401
from .wrong import swapping, told

DEMO = Path(qwen3_mlx.__file__).parent / "demo" / "dense"
CONFIG = ModelConfig.from_folder(DEMO)  # 4 query heads, 2 key/value heads of 64
HEADS, KV_HEADS, WIDTH = CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.head_dim
BF16, FP16 = mx.bfloat16, mx.float16


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def on_emulator(folder: Path) -> Kernels:
    return on_metal(on_stock("emulate"), Verifier(Store(folder)).trusts)


class Tokens(NamedTuple):
    """The projections of some tokens and the layer's norms."""

    qkv: mx.array
    pieces: tuple[int, ...]
    kv_bits: int | None

    def run(self, kernels: Kernels) -> mx.array:
        """Attention of all tokens, which come in pieces."""
        batch = self.qkv.shape[0]
        return attention(kernels, KVCache(CONFIG, batch, kv_bits=self.kv_bits, kernels=kernels), self.qkv, self.pieces)

    def expected(self) -> list[str]:
        """The launches if every kernel is good."""
        packed = self.kv_bits is not None
        turning = ["norm_rope_table", "norm_rope_pack" if packed else "norm_rope"]
        names = [name for n in self.pieces for name in (*turning, *(["decode_attention"] if packed and n == 1 else []))]
        return [f"qwen3_{name}" for name in names]


def attention(kernels: Kernels, cache: KVCache | GroupedCache, qkv: mx.array, pieces: tuple[int, ...]) -> mx.array:
    layer, weights = cache.layers[-1], (1 + 0.1 * mx.random.normal((2, WIDTH), key=mx.random.key(9))).astype(BF16)
    given, out, first = norms(weights[0], weights[1], 1e-6, HEADS, KV_HEADS), [], 0
    for length in pieces:
        rotation = kernels.rotation(frequencies(CONFIG.rope, WIDTH), cache.lengths, length)
        part = qkv[:, first : first + length]
        queries, entry = kernels.norm_rope(part, given, rotation, layer.packing)
        out.append(kernels.attend(queries, layer.append(entry), 0.125))
        first += length
    return mx.concatenate(out, axis=2)


def drawn(kv_bits: int | None, pieces: tuple[int, ...] = (20, 1), batch: int = 1) -> Tokens:
    shape = (batch, sum(pieces), (HEADS + 2 * KV_HEADS) * WIDTH)
    return Tokens(mx.random.normal(shape, key=mx.random.key(3)).astype(BF16), pieces, kv_bits)


GOOD: list[tuple[Trial, tuple[Any, ...]]] = [
    (TABLE, (32, True)),
    (TABLE, (64, False)),
    (NORM_ROPE, (BF16, HEADS, KV_HEADS, WIDTH)),
    (NORM_ROPE, (FP16, 5, 1, 128)),
    (PACK, (BF16, HEADS, KV_HEADS, WIDTH, 8, 64)),
    (PACK, (FP16, 8, 1, 128, 4, 32)),
    *((ATTENTION, (BF16, 2, WIDTH, bits, 64, split, True)) for bits in (8, 4) for split in (False, True)),
    (ATTENTION, (FP16, 5, 128, 8, 32, True, False)),
    (ATTENTION, (BF16, 16, 128, 4, 64, False, True)),
]


@pytest.mark.parametrize(
    ("trial", "parameters"), GOOD, ids=lambda part: part.kernel if isinstance(part, Trial) else None
)
def test_good_kernels_pass_their_trial(trial: Trial, parameters: tuple[Any, ...]) -> None:
    with emulator.using(instrumented=trial is not ATTENTION):
        assert float(trial.error(*parameters).item()) <= 1


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_trial_compiles_what_is_launched_and_nothing_else(
    batch: int, kv_bits: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **given: emulator.metal_kernel(**given))
    kernels, given = on_emulator(tmp_path), drawn(kv_bits, batch=batch)
    before = len(standin._cache)
    with emulator.recording() as reports:
        given.run(kernels)
    tried = len(set(given.expected()))
    assert len(reports) == len(given.expected()) + tried
    assert len(standin._cache) == before + tried


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
def test_the_result_is_that_of_stock(kv_bits: int | None, tmp_path: Path) -> None:
    given = drawn(kv_bits, (20, 1, 3, 1), batch=2)
    out, messages, launched = told(on_emulator(tmp_path), given, 2)
    assert not messages and launched == given.expected()
    want = given.run(on_stock("emulate"))
    assert out.dtype == want.dtype == BF16
    assert float(mx.abs(out - want).max()) <= 0.02 * float(mx.abs(want).max())


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
def test_what_is_trimmed_leaves_no_trace_and_rows_no_mark_on_others(kv_bits: int | None, tmp_path: Path) -> None:
    """To the bit where all of attention is ours, through a cache that grows."""
    kernels, given = on_emulator(tmp_path), drawn(kv_bits, (254, 1, 1, 1, 1), batch=2)
    cache = KVCache(CONFIG, 2, kv_bits=kv_bits, kernels=kernels)
    attention(kernels, cache, given.qkv, (254,))
    attention(kernels, cache, given.qkv, (1, 1))  # other tokens
    for layer in cache.layers[:-1]:
        layer.lengths = cache.lengths
    cache.trim(2)
    again = attention(kernels, cache, given.qkv[:, 254:], given.pieces[1:])
    assert (cache.offset, cache.capacity) == (258, 512)
    steps = given.run(kernels)[:, :, 254:]
    assert mx.array_equal(again, steps)
    if kv_bits is not None:
        for row in range(2):
            alone = given._replace(qkv=given.qkv[row : row + 1]).run(kernels)
            assert mx.array_equal(alone[:, :, 254:], steps[row : row + 1])


@pytest.mark.parametrize("kv_bits", [8, 4])
def test_rows_of_different_lengths_are_what_each_is_alone(kv_bits: int, tmp_path: Path) -> None:
    """To the bit: rows that were filled apart and then take steps together, over the end of a block too."""
    kernels, lengths, config = on_emulator(tmp_path), (3, 255, 511, 40), replace(CONFIG, num_hidden_layers=1)
    rows, alone, new = [], [], []
    for length in lengths:
        one, given = KVCache(config, kv_bits=kv_bits, kernels=kernels), drawn(kv_bits, (length, 2))
        attention(kernels, one, given.qkv, (length,))
        rows.append(one.row(0))
        new.append(given.qkv[:, length:])
        alone.append(attention(kernels, one, new[-1], (1, 1)))
    together = GroupedCache(rows[:1])
    together.arrange([[0, *rows[1:]]])
    assert mx.array_equal(attention(kernels, together, mx.concatenate(new), (1, 1)), mx.concatenate(alone))


WRONG = [
    (8, "norm_rope_table", "precise::sin", "precise::cos", ["decode_attention"]),
    (8, "norm_rope_pack", "rint((v[i] - bias) / scale)", "floor((v[i] - bias) / scale)", ["decode_attention"]),
    (4, "norm_rope_pack", "lane < 16 ? -1.0f", "lane < 16 ? 1.0f", ["decode_attention"]),
    (8, "norm_rope_pack", "half_row * KV_HEADS)", "KV_HEADS)", ["decode_attention"]),
    (8, "decode_attention", "uint lane = ", "this is no Metal; uint lane = ", ["norm_rope_table", "norm_rope_pack"]),
    (8, "decode_attention", "token.word + words", "token.word", ["norm_rope_table", "norm_rope_pack"]),
    (4, "decode_attention", "min(length,", "min(length + 1,", ["norm_rope_table", "norm_rope_pack"]),
    (None, "norm_rope", "1.0f / (32 * D)", "1.01f / (32 * D)", []),
    (None, "norm_rope", "head < Q_HEADS ? q_weight", "head <= Q_HEADS ? q_weight", []),
]


@pytest.mark.parametrize(("kv_bits", "kernel", "written", "broken", "left"), WRONG)
def test_a_wrong_kernel_gives_way_to_stock_and_is_spoken_of_once(
    kv_bits: int | None,
    kernel: str,
    written: str,
    broken: str,
    left: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", swapping(kernel, written, broken))
    verifier, given = Verifier(Store(tmp_path)), drawn(kv_bits)
    out, messages, launched = told(on_metal(on_stock("emulate"), verifier.trusts), given)
    assert {name.removeprefix("qwen3_") for name in launched} == set(left)
    bad = [verdict for verdict in verifier.verdicts.values() if not verdict.good]
    (message,) = messages
    assert len(bad) == 1 and f"the Metal kernel {kernel} is not used" in message
    want = given.run(on_stock("emulate"))
    assert float(mx.abs(out - want).max()) <= (0.02 * float(mx.abs(want).max()) if left else 0)


def test_a_long_step_merges_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the whole model, over the end of the first block, which is a shorter one here."""
    monkeypatch.setitem(BLOCK, 8, 64)
    tokens = [[*b"How many letters have these words? " * 2][:68]]

    def logits(mode: Any) -> tuple[mx.array, list[str]]:
        model, _ = load_model(DEMO, bits=4, kernels=mode)
        cache, out = KVCache(CONFIG, kv_bits=8, kernels=model.kernels), []
        mx.eval(model(mx.array(tokens)[:, :62], cache))
        with emulator.recording() as reports:
            for at in range(62, 68):
                out.append(model(mx.array(tokens)[:, at : at + 1], cache))
        return mx.concatenate(out, axis=1), [report.kernel for report in reports]

    logits("emulate")  # the kernels are tried here
    ours, launched = logits("emulate")
    steps, layers = 6, CONFIG.num_hidden_layers
    assert launched.count("qwen3_norm_rope_table") == steps
    assert launched.count("qwen3_norm_rope_pack") == launched.count("qwen3_decode_attention") == steps * layers
    assert launched.count("qwen3_decode_attention_merge") == 4 * layers
    exact, _ = logits("reference")
    monkeypatch.setattr("qwen3_mlx.weights.resolve", lambda *_: on_stock("emulate"))
    theirs, launched = logits("emulate")
    assert not launched
    our_error, their_error = (float(mx.mean(mx.square(held - exact))) ** 0.5 for held in (ours, theirs))
    print(f"root mean square error of logits: kernels {our_error:.4f}, stock {their_error:.4f}")
    assert our_error <= 1.5 * their_error  # two chains of roundings, of which either may be the luckier
