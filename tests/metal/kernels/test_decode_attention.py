"""The decode attention kernels against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels import decode_attention as kernels
from qwen3_mlx.kernels import packed_rows
from qwen3_mlx.kernels.decode_attention import Segment, attend, block_size

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .attention_cases import all_expected, case, measured, run
from .histories import Expected, Layout, random_history, segment, segments
from .packing import wide


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)
    # Counting costs these kernels no more than a second compilation would.
    with emulator.using(instrumented=True, check_source=False):
        yield


def one(x: mx.array, y: mx.array) -> bool:
    return bool(mx.array_equal(x, y))


KINDS = [
    Layout(1, 64, 8, 32, mx.float16),
    Layout(2, 128, 8, 64, kv_heads=2),  # Qwen3-0.6B and 1.7B
    Layout(2, 64, 4, 64, kv_heads=2),  # the embedded demos
    Layout(4, 128, 4, 64),  # 4B and 8B
    Layout(4, 64, 8, 64, mx.float16),
    Layout(5, 128, 8, 64),  # 14B
    Layout(5, 64, 4, 32, mx.float16),
    Layout(8, 128, 8, 64),  # 32B and 30B-A3B
    Layout(8, 128, 4, 32, mx.float16),
    Layout(16, 128, 8, 32),  # 235B-A22B
    Layout(16, 128, 4, 64, kv_heads=2),
]
named = pytest.mark.parametrize(
    "layout", KINDS, ids=lambda k: f"{k.q_per_kv}x{k.head_dim}-{k.bits}bit-g{k.group}-{str(k.dtype)[9:]}"
)


@named
def test_every_kind_at_odd_lengths(layout: Layout) -> None:
    block = block_size(layout.q_per_kv, layout.bits)
    lengths = [1, 31, 32, 33, 0, block - 1, block, block + 1, 2 * block + 17]  # 9 rows: lengths in device memory
    if layout.kv_heads > 1:
        lengths = [33, 0, block + 1]  # MLX passes fewer than 8 as `constant`
    queries, histories = case(layout, lengths)
    want = all_expected(queries, histories, layout)
    found = measured(run(queries, histories, layout), want, histories)
    with emulator.using(jitter_ulps=4, jitter_seed=1):
        jittered = measured(run(queries, histories, layout), want, histories)
    print(f"{layout}: C {found.c:.2f}, p99.9 {found.p999:.4f} ulp; jittered C {jittered.c:.2f}, {jittered.p999:.4f}")
    # Of so few outputs this is the fourth largest error; test_attention_matrix.py takes more of them together.
    assert found.c <= 8 and found.p999 <= (0.501 if layout.dtype == mx.bfloat16 else 0.55)
    assert jittered.c <= 32


@pytest.mark.parametrize("layout", [KINDS[7], KINDS[8]], ids=["8-bit", "4-bit"])
@pytest.mark.parametrize("times", [1, 8, 64])
def test_large_queries_under_jittered_maths(layout: Layout, times: int) -> None:
    queries, histories = case(layout, [700, 300])
    queries = queries * times
    want = all_expected(queries, histories, layout)
    full = Expected(want.want, want.cond + want.through_scores, want.through_scores)
    for seed in range(1, 4):
        with emulator.using(jitter_ulps=4, jitter_seed=seed):
            got = run(queries, histories, layout)
        strict, found = measured(got, want, histories), measured(got, full, histories)
        print(f"x{times}, seed {seed}: C {strict.c:.2f}, with the sensitivity through the scores {found.c:.2f}")
        assert found.c <= 32
        assert times > 8 or strict.c <= 32


def test_a_long_context() -> None:
    layout = Layout(2, 64)
    queries, histories = case(layout, [131072])  # 512 blocks: two rounds of the merge
    with emulator.using(instrumented=False):
        found = measured(run(queries, histories, layout), all_expected(queries, histories, layout), histories)
    print(f"131072 tokens: C {found.c:.2f}, p99.9 {found.p999:.4f} ulp")
    assert found.c <= 8


@pytest.mark.parametrize("layout", [KINDS[5], KINDS[7]], ids=["5 heads", "8 heads"])
def test_a_row_is_the_same_in_any_batch(layout: Layout) -> None:
    block = block_size(layout.q_per_kv, layout.bits)
    queries, histories = case(layout, [7, 2 * block + 5, 0, block, 100, 3 * block])
    together = run(queries, histories, layout)
    for row in range(6):  # the short ones are written without a merge
        assert one(run(queries[row : row + 1], [histories[row]], layout)[0], together[row])
    for rows in ([4, 1, 3], [0, 4, 3], [2, 5, 0, 1]):
        at = mx.array(rows)
        assert one(run(queries[at], [histories[i] for i in rows], layout), together[at])
    spacious = [segment(histories, spare=200)]
    assert one(run(queries, histories, layout, spacious), together)


@pytest.mark.parametrize("lengths", [[40, 0, 250], [300, 9]])
def test_schedules_change_nothing(lengths: list[int]) -> None:
    layout = KINDS[7]
    queries, histories = case(layout, lengths)
    first = run(queries, histories, layout)
    for seed in range(1, 21):
        with emulator.using(seed=seed):
            assert one(run(queries, histories, layout), first)


@pytest.mark.parametrize("layout", [KINDS[5], KINDS[7]], ids=["5 heads", "8 heads"])
def test_segments_change_nothing(layout: Layout) -> None:
    queries, histories = case(layout, [300, 0, 70, 257])
    whole = run(queries, histories, layout)
    for cuts in (
        [[299, 0, 69, 256]],
        [[0, 0, 70, 193]],
        [[100, 0, 0, 1], [100, 0, 3, 255]],
        [[1, 0, 30, 257], [300, 0, 31, 257]],
    ):
        assert one(run(queries, histories, layout, segments(histories, cuts, spare=5)), whole)


def test_a_full_tail_moves_into_the_history() -> None:
    layout = KINDS[7]
    queries, histories = case(layout, [400, 164])
    before = segments(histories, [[64, 64], [336, 100]])
    after = segments(histories, [[64, 64], [400, 164]], spare=64)
    assert after[2].lengths.tolist() == [0, 0]
    assert one(run(queries, histories, layout, before), run(queries, histories, layout, after))


def test_rows_share_a_prefix() -> None:
    layout = KINDS[7]._replace(kv_heads=2)
    queries, own = case(layout, [5, 300, 0])
    prefix = random_history(np.random.default_rng(1), layout, 150)
    shared = [150, 150, 70]  # one row shares only its beginning
    histories = [np.concatenate([prefix[:, :n], rest], 1) for n, rest in zip(shared, own, strict=True)]
    first = segment([prefix[:, :n] for n in shared], shared=True)
    assert first.rows.shape[0] == 1
    ours = run(queries, histories, layout, [first, segment(own)])
    assert one(ours, run(queries, histories, layout))


@pytest.mark.parametrize("layout", [KINDS[5], KINDS[10]], ids=["5 heads", "16 heads"])
def test_agrees_with_the_reference_on_what_packed_rows_packs(layout: Layout) -> None:
    queries, histories = case(layout, [0, 20, 600])
    for i, history in enumerate(histories):
        shape = (*history.shape[:2], layout.head_dim)
        keys, values = (mx.random.normal(shape, key=mx.random.key(2 * i + j)) for j in range(2))
        histories[i] = np.array(packed_rows.pack(keys, values, layout.bits, layout.group, layout.dtype))
    parts = segments(histories, [[0, 15, 500]], spare=7)
    plain = kernels.reference(queries, parts, layout.scale, layout.bits, layout.group)
    want = all_expected(queries, histories, layout)
    np.testing.assert_allclose(np.array(plain), want.want, atol=3e-6)
    assert measured(run(queries, histories, layout, parts), want, histories).c <= 8


def test_an_empty_batch_of_rows_is_zero() -> None:
    layout = KINDS[7]
    queries, histories = case(layout, [0, 0])
    assert not wide(run(queries, histories, layout)).any()


def test_a_query_of_nan_gives_nan() -> None:
    layout = KINDS[7]
    queries, histories = case(layout, [40, 300])
    queries[:, 3, 5] = float("nan")
    out = np.isnan(wide(run(queries, histories, layout)))
    assert out[:, 3].all() and out.sum() == 2 * layout.head_dim


def test_rows_of_another_shape_are_refused() -> None:
    layout = Layout(4, 64)
    queries, histories = case(layout, [9])
    rows, lengths = segment(histories)
    for wrong in (rows[..., :-1], rows[:, :, :0], mx.concatenate([rows, rows], axis=1)):
        with pytest.raises(AssertionError):
            run(queries, histories, layout, [Segment(rows, lengths), Segment(wrong, lengths)])
    for bits, group in ((4, 64), (8, 32)):
        with pytest.raises(AssertionError):
            attend(queries, [Segment(rows, lengths)], layout.scale, [9], bits, group)


@pytest.mark.parametrize("bits", [8, 4])
def test_keys_and_values_are_read_once(bits: int) -> None:
    layout = Layout(8, bits=bits)
    queries, histories = case(layout, [4096])
    with emulator.recording() as reports:
        got = run(queries, histories, layout)
    found = measured(got, all_expected(queries, histories, layout), histories)
    assert found.c <= 1 and found.p999 <= 0.501
    attention, merge = reports
    packed = histories[0].nbytes
    read = attention.buffers["rows0"]
    partials = attention.buffers["out"].store_bytes + merge.buffers["partials"].bytes
    extra = (attention.buffers["queries"].bytes + partials) / packed
    print(f"{bits}-bit: {packed} bytes, requested {read.bytes / packed:.4f}x, queries and partials {extra:.4f}x")
    print(f"{attention.simdgroups} simdgroups, {attention.threadgroup_memory} bytes of threadgroup memory")
    assert read.distinct == packed and read.bytes <= 1.02 * packed
    assert extra <= 0.3
    assert (attention.dispatches, merge.dispatches) == (1, 1)


def test_a_block_needs_no_merge_and_nobody_pays_for_a_longer_row() -> None:
    layout = KINDS[7]
    queries, histories = case(layout, [256, 10])
    with emulator.recording() as reports:
        run(queries, histories, layout)
    assert len(reports) == 1
    queries, histories = case(layout, [700, 10, 0])
    with emulator.recording() as reports:
        run(queries, histories, layout)
    assert [report.threadgroups for report in reports] == [3 + 1, 3 * 8]


@pytest.mark.parametrize("batch", [2, 9])
def test_the_source_is_sound(batch: int) -> None:
    layout = KINDS[7]
    with emulator.using(check_source=True):
        for lengths in ([3] * batch, [260] + [3] * (batch - 1)):
            queries, histories = case(layout, lengths)
            run(queries, histories, layout, segments(histories, [[1] * batch, [2] * batch]))


BROKEN = [
    ("sums[h * dims + d] *= of_head;", ""),  # sums stay relative to an old highest score
    ("total *= factor;", ""),
    ("min(start + t, end - 1)", "start + t"),
    ("counts ? fast::exp2(score - highest) : 0.0f", "fast::exp2(score - highest)"),
    ("float factor = fast::exp2(highest - peak);", "float factor = 1.0f;"),
    ("factor = peak == highest ? 1.0f : fast::exp2(peak - highest);", "factor = 1.0f;"),
    ("rows2_shape[0] > 1 ? row : 0", "0"),
    ("last ? segments.third :", "last ? segments.second :"),
    ("start + slot_token < end", "true"),
    ("  threadgroup_barrier(mem_flags::mem_threadgroup);\n}", "}"),
]


@pytest.mark.parametrize(("written", "broken"), BROKEN)
def test_a_broken_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch, written: str, broken: str) -> None:
    found = 0

    def make(**given: Any) -> Callable[..., Any]:
        nonlocal found
        found += sum(given[part].count(written) for part in ("source", "header"))
        swapped = {part: given[part].replace(written, broken) for part in ("source", "header")}
        return emulator.metal_kernel(**{**given, **swapped})

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    monkeypatch.setitem(kernels.BLOCK, 8, 64)  # two steps a block, more blocks than the merge has simdgroups
    layout = Layout(4, 64)
    queries, histories = case(layout, [700, 87])
    queries = queries * 4
    parts = segments(histories, [[90, 0], [200, 80]], spare=4)
    try:
        got = run(queries, histories, layout, parts)
    except emulator.KernelError:
        return
    finally:
        assert found
    c = measured(got, all_expected(queries, histories, layout), histories).c
    print(f"C {c:.3g}")
    assert not c <= 1e4


def test_what_is_not_supported() -> None:
    fits: dict[str, Any] = dict(q_heads=32, kv_heads=4, head_dim=128, bits=8, group_size=64, dtype=mx.bfloat16)
    assert kernels.supported(**fits)
    for wrong in (
        {"kv_heads": 0},
        {"kv_heads": 5},
        {"q_heads": 12},
        {"q_heads": 0},
        {"head_dim": 96},
        {"bits": 6},
        {"group_size": 128},
        {"dtype": mx.float32},
    ):
        assert not kernels.supported(**{**fits, **wrong})
