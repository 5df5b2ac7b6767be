"""What is timed: both sides compute the same of the same inputs, and other inputs each time."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import pytest

from qwen3_mlx.config import QuantSpec
from qwen3_mlx.doctor import cases, catalogue
from qwen3_mlx.doctor.catalogue import Use
from qwen3_mlx.doctor.examine import uses
from qwen3_mlx.doctor.timing import OURS, STOCK, measure
from qwen3_mlx.kernels import packed_rows
from qwen3_mlx.kernels.attention_trials import PACK
from qwen3_mlx.kernels.moe_trials import ROUTER
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)

from .clock import Clock

ROOM, TOKENS = 1 << 16, 300


def of(small: list[Use], kernel: str) -> list[Use]:
    return [use for use in small if use.trial.kernel == kernel]


def test_every_kernel_can_be_timed(small: list[Use]) -> None:
    """A new kernel needs an entry in ``cases``."""
    assert set(catalogue.trials()) == cases.KERNELS == {use.trial.kernel for use in small}


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("kernel", sorted(cases.KERNELS))
def test_both_sides_compute_the_same(kernel: str, small: list[Use]) -> None:
    for use in of(small, kernel):
        case = cases.case(use, ROOM, TOKENS)
        assert case is not None and case.moved > 0 and case.what
        ours = [case.sides[OURS](index) for index in range(2)]
        assert not mx.array_equal(ours[0][-1], ours[1][-1]), "each launch has inputs of its own"
        if kernel == "norm_rope_table":
            assert list(case.sides) == [OURS]
            continue
        for index in range(2):
            same(use, ours[index], case.sides[STOCK](index))


@pytest.mark.slow
@pytest.mark.usefixtures("emulated")
def test_both_sides_compute_the_same_at_a_released_size() -> None:
    """Alone and in batches; a row of each kernel that a GPU will time."""
    found = [use for use in uses(["qwen3:30b-a3b"], everything=True) if use.trial.kernel in cases.KERNELS]
    assert len(found) > 15
    for use in found:
        case = cases.case(use, 1 << 20, 600)
        assert case is not None
        for side in list(case.sides)[1:]:
            same(use, case.sides[OURS](1), case.sides[side](1))


def same(use: Use, ours: Sequence[mx.array], theirs: Sequence[mx.array]) -> None:
    """In nearly the same direction: a CPU adds up in bf16, and two ways of packing to 4 bits are each off by some
    percent. Packed entries are compared by their values, the router's in order of size. A wrong head, expert or half of
    a head would be off by about all of it."""
    if use.trial.kernel == PACK.kernel:
        *_, head_dim, bits, group = use.parameters
        ours = [ours[0], *packed_rows.unpack(ours[1], head_dim, bits, group, mx.bfloat16)]
        halves = [mx.dequantize(*theirs[at : at + 3], group_size=group, bits=bits) for at in (1, 4)]
        theirs = [theirs[0], *halves]
    if use.trial.kernel == ROUTER.kernel:
        ours, theirs = ([mx.sort(part, axis=-1) for part in side] for side in (ours, theirs))
    for got, want in zip(ours, theirs, strict=True):
        got, want = mx.flatten(got.astype(mx.float32)), mx.flatten(want.astype(mx.float32))
        assert got.shape == want.shape
        cosine = mx.sum(got * want) / (mx.linalg.norm(got) * mx.linalg.norm(want))
        assert cosine.item() > 0.96 and mx.allclose(mx.linalg.norm(got), mx.linalg.norm(want), rtol=0.1).item()


@pytest.mark.usefixtures("emulated")
def test_attention_is_compared_with_a_cache_in_full_precision_too(small: list[Use]) -> None:
    use = of(small, "decode_attention")[0]
    case = cases.case(use, ROOM, TOKENS)
    assert case is not None
    ours, whole = (case.sides[name](0)[0].astype(mx.float32) for name in (OURS, "16-bit cache"))
    assert mx.max(mx.abs(mx.flatten(ours) - mx.flatten(whole))).item() <= 0.05  # 8 bits of keys and values


@pytest.mark.usefixtures("emulated")
def test_the_room_is_filled_with_other_weights_and_rows(small: list[Use]) -> None:
    one = 128 * 128 // 2 + 2 * 2 * 128 * 2
    stack = cases._stack(128, 128, QuantSpec(4, 64), mx.bfloat16, 2, 11 * one)
    assert stack.one == one and stack.packed.weight.shape[0] == 10
    assert mx.concatenate(stack.chosen).tolist() == list(range(10))
    assert len({mx.sum(stack.packed.weight[i].astype(mx.float32)).item() for i in range(10)}) == 10

    attention = of(small, "decode_attention")[0]
    held = cases.history(attention, 1, 64, 1 << 20)
    assert sum(rows.nbytes for rows in held.rows) >= (1 << 20) - held.rows[0].nbytes


def test_a_kernel_that_nothing_is_known_of_has_no_case(small: list[Use]) -> None:
    assert cases.case(small[0]._replace(trial=small[0].trial._replace(kernel="new"))) is None


@pytest.mark.usefixtures("emulated")
def test_a_real_case_is_measured(small: list[Use]) -> None:
    case = cases.case(of(small, "router")[0], ROOM, TOKENS)
    assert case is not None
    timing = measure(case, None, Clock([0.1]), rounds=1)
    assert timing.ms[OURS].median == timing.ms[STOCK].median > 0 and timing.moved == case.moved
