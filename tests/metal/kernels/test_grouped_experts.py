"""The grouped expert kernels against float64, and against the kernels for few tokens."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen3_mlx.kernels import experts as few
from qwen3_mlx.kernels import grouped_experts as kernels
from qwen3_mlx.kernels.unsort_sum import unsort_sum

from .. import emulator
from ..test_emulator import _compiler  # noqa: F401
from .packing import precision, random_packed, wide
from .test_experts import BOTH, Case, Sizes, a_row, case, expected_down, expected_swiglu, one

BF16, FP16 = mx.bfloat16, mx.float16


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "metal_kernel", emulator.metal_kernel)


def run_gate_up(c: Case) -> mx.array:
    groups = kernels.group(c.experts, len(c.gate_up.weight))
    return kernels.gate_up_swiglu(c.x, groups, c.experts.shape[1], c.gate_up)


def run_down(c: Case) -> mx.array:
    return kernels.down_sum(c.inner, kernels.group(c.experts, len(c.down.weight)), c.weights, c.down)


#: Name -> (launch, float64 result and condition).
GROUPED = {"gate_up": (run_gate_up, expected_swiglu), "down": (run_down, expected_down)}
each = pytest.mark.parametrize("name", GROUPED)


def crowded(sizes: Sizes, seed: int = 0) -> Case:
    """A case in which the first expert has no token, the last one all, and another exactly one."""
    c = case(sizes, seed)
    experts = np.array(c.experts)
    rows, top_k, stack = sizes.rows, sizes.top_k, sizes.stack
    assert 3 <= top_k <= stack - 2
    for row in range(rows):
        others = 2 + np.random.default_rng(seed + row).permutation(stack - 3)[: top_k - 1]
        experts[row] = [*others, stack - 1]
    experts[rows // 2, 0] = 1
    return c._replace(experts=mx.array(experts))


def few_at_a_time(name: str, c: Case) -> mx.array:
    run, _ = BOTH[name]
    rows = [list(range(first, min(first + few.MAX_ROWS, len(c.x)))) for first in range(0, len(c.x), few.MAX_ROWS)]
    return mx.concatenate([run(a_row(c, some)) for some in rows])


@each
@pytest.mark.parametrize(
    ("bits", "group", "dtype"),
    [(4, 32, BF16), (4, 64, BF16), (4, 128, FP16), (8, 32, FP16), (8, 64, BF16), (8, 128, BF16)],
)
def test_every_packing_has_the_bits_of_the_kernels_for_few_tokens(
    name: str, bits: int, group: int, dtype: mx.Dtype
) -> None:
    # Lanes take 16 and 8 values at a time of the first, 8 and 4 of the second.
    hidden, inner = (512, 256) if dtype == BF16 else (256, 384)
    run, expected = GROUPED[name]
    c = crowded(Sizes(11, hidden, inner, 3, 6, bits, group, dtype))
    with emulator.using(instrumented=True):
        result = run(c)
        assert one(result, few_at_a_time(name, c))
    found = precision(result, *expected(c))
    assert found.c <= 1 and found.p999 <= (0.501 if dtype == BF16 else 0.51)  # float32's own errors show in float16


@each
@pytest.mark.parametrize(("bits", "dims"), [(4, (2048, 768)), (8, (4096, 1536))])
def test_the_sizes_of_qwen3(name: str, bits: int, dims: tuple[int, int]) -> None:
    """In full width of what is summed up; 128 of the results."""
    run, expected = GROUPED[name]
    hidden, inner = (dims[0], 128) if name == "gate_up" else (128, dims[1])
    c = case(Sizes(11, hidden, inner, 8, 16, bits))
    found = precision(run(c), *expected(c))
    print(f"{name} {bits}-bit {dims}: C {found.c:.3f}, p99.9 {found.p999:.4f} ulp")
    assert found.c <= 1 and found.p999 <= 0.501


@each
def test_a_row_is_the_same_in_any_batch_and_order(name: str) -> None:
    run, _ = GROUPED[name]
    c = crowded(Sizes(16, 128, 128, 3, 6))
    together = run(c)
    for rows in (range(9), range(7, 16), range(15, -1, -1), [5, 2, 12, 0, 13, 9, 1, 3, 15], [4] * 12):
        at = list(rows)
        assert one(run(a_row(c, at)), together[mx.array(at)])
    for seed in range(1, 21):
        with emulator.using(seed=seed):
            assert one(run(c), together)


@each
def test_as_many_rows_as_there_may_be_pairs(name: str) -> None:
    """More than are left to MLX's own kernels where these are faster."""
    run, _ = GROUPED[name]
    sizes = Sizes(kernels.MAX_PAIRS // 8, 128, 128, 8, 12)
    assert kernels.supported(*sizes[:4], sizes.bits, sizes.group, BF16)
    assert not kernels.supported(sizes.rows + 1, *sizes[1:4], sizes.bits, sizes.group, BF16)
    c = case(sizes)
    assert one(run(c), few_at_a_time(name, c))


@pytest.mark.parametrize(("rows", "top_k", "stack"), [(9, 2, 8), (63, 8, 128), (64, 16, 3), (10, 1, 1)])
def test_groups(rows: int, top_k: int, stack: int) -> None:
    experts = np.random.default_rng(rows).integers(0, stack, (rows, top_k)).astype(np.uint32)
    with emulator.using(instrumented=True):
        order, starts = kernels.group(mx.array(experts), stack)
    assert np.array_equal(np.array(order), np.argsort(experts.ravel(), kind="stable"))
    below = np.searchsorted(np.sort(experts.ravel()), np.arange(starts.size))
    assert starts.size == max(stack + 1, 8) and np.array_equal(np.array(starts), below)


@each
def test_weights_are_read_once_for_the_tokens_of_an_expert(name: str) -> None:
    """Up to 3 tokens (gate and up) and 4 (down) an expert, on 16 of the results at full width."""
    run, _ = GROUPED[name]
    rng, rows, top_k, stack, most = np.random.default_rng(0), 12, 8, 32, {"gate_up": 3, "down": 4}[name]
    dims = 2048 if name == "gate_up" else 768
    flat = np.repeat(np.arange(stack), 3).reshape(3, stack)
    if most == 4:
        rows, flat = 16, np.repeat(np.arange(stack), 4).reshape(4, stack)
    experts = np.concatenate([rng.permutation(stack).reshape(-1, top_k) for _ in flat]).astype(np.uint32)
    both = 2 if name == "gate_up" else 1
    packed = random_packed(rng, stack, 16 * both, dims, 4, 64, BF16)
    x = mx.array(rng.standard_normal((rows, top_k, dims)).astype(np.float32)).astype(BF16)
    c = Case(x[:, 0], x, mx.array(experts), mx.ones((rows, top_k)), packed, packed)
    with emulator.using(instrumented=True), emulator.recording() as reports:
        run(c)
    (report,) = (r for r in reports if r.kernel.endswith("_grouped"))
    parts = [report.buffers[part] for part in ("weight", "scales", "biases")]
    assert sum(part.distinct for part in parts) == sum(a.nbytes for a in packed[:3])
    assert sum(part.bytes for part in parts) <= 1.01 * sum(part.distinct for part in parts)


@pytest.mark.parametrize(
    ("name", "written", "broken"),
    [
        ("gate_up", "order[min(i + n, end - 1)]", "order[i]"),
        ("gate_up", "pairs[n] / TOP_K", "pairs[n] % TOP_K"),
        ("gate_up", "other == expert && j < i", "other == expert && j <= i"),
        ("down", "order[min(i + n, end - 1)]", "order[i + n]"),
        ("down", "r - R / 2 + apart", "r - R / 2"),
        ("down", "slot < uint(TOP_K)", "slot + 1 < uint(TOP_K)"),
        ("down", "sum += from", "sum += float(T(from[slot * HIDDEN])) - from[slot * HIDDEN] + from"),
    ],
)
def test_a_broken_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, written: str, broken: str) -> None:
    found: list[bool] = []

    def make(**given: Any) -> Any:
        found.append(written in given["source"] + given["header"])
        swapped = {part: given[part].replace(written, broken) for part in ("source", "header")}
        return emulator.metal_kernel(**{**given, **swapped})

    monkeypatch.setattr(mx.fast, "metal_kernel", make)
    run, expected = GROUPED[name]
    c = crowded(Sizes(11, 128, 128, 3, 6))
    try:
        with emulator.using(instrumented=True):
            result = run(c)
    except emulator.KernelError:
        assert any(found)
        return
    assert any(found) and precision(result, *expected(c)).c > 100


def test_what_is_not_supported() -> None:
    fits: dict[str, Any] = dict(rows=9, hidden=2048, inner=768, top_k=8, bits=4, group_size=64, dtype=BF16)
    assert kernels.supported(**fits) and kernels.supported(**{**fits, "rows": 128})
    for wrong in ({"rows": 8}, {"rows": 129}, {"rows": 63, "top_k": 17}, {"hidden": 2000}, {"dtype": mx.float32}):
        assert not kernels.supported(**{**fits, **wrong})


# -- after a prefill ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(("rows", "top_k", "hidden"), [(64, 8, 128), (33, 2, 384), (10, 1, 2048)])
def test_unsorting_and_the_weighted_sum(dtype: mx.Dtype, rows: int, top_k: int, hidden: int) -> None:
    rng = np.random.default_rng(rows)
    y = mx.array(rng.standard_normal((rows * top_k, hidden)).astype(np.float32)).astype(dtype)
    order = rng.permutation(rows * top_k).astype(np.uint32)
    weights = rng.dirichlet(np.ones(top_k), rows).astype(np.float32)
    with emulator.using(instrumented=True):
        got = unsort_sum(y, mx.array(order), mx.array(weights))
    unsorted = np.empty((rows * top_k, hidden))
    unsorted[order] = wide(y)
    terms = weights[..., None].astype(np.float64) * unsorted.reshape(rows, top_k, hidden)
    found = precision(got, terms.sum(1), np.abs(terms).sum(1))
    assert found.c <= 1 and found.p999 <= (0.501 if dtype == BF16 else 0.51)
    for seed in range(1, 21):
        with emulator.using(seed=seed):
            assert one(unsort_sum(y, mx.array(order), mx.array(weights)), got)
