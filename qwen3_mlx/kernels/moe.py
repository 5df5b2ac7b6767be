"""The MoE block on the Metal kernels where they fit and are trusted, and on stock operations everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from . import experts as few
from . import grouped_experts as grouped
from . import neural, reference, router
from . import unsort_sum as unsorting
from .metal_source import in_constant
from .moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from .reference import Experts, Packed
from .verify import Trial, Trusts


class MoE:
    """``route`` and ``moe_swiglu`` of :class:`qwen3_mlx.kernels.Kernels`; ``stock`` is the ``moe_swiglu`` for what the
    kernels do not take."""

    def __init__(self, trusts: Trusts, stock: Callable[..., mx.array]) -> None:
        self._trusts = trusts
        self._stock = stock

    def route(self, logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
        """:func:`reference.route`; the kernel's experts come best first."""
        experts, dtype = logits.shape[1], logits.dtype
        if router.supported(experts, top_k, dtype) and self._trusts(
            ROUTER, dtype, experts, top_k, normalise, in_constant(logits.size)
        ):
            return router.route(logits, top_k, normalise)
        return reference.route(logits, top_k, normalise)

    def moe_swiglu(
        self, x: mx.array, experts: mx.array, weights: mx.array, gate_up: Experts, down: Experts
    ) -> mx.array:
        """:func:`reference.moe_swiglu`; the kernels for gate and up and for down are used together or not at all."""
        first, rows = gate_up.packed, len(experts)
        accelerated = rows > few.MAX_ROWS and first is not None and neural.takes(experts.size, len(first.weight))
        if rows <= grouped.MAX_ROWS and not accelerated:
            out = self.by_kernels(x, experts, weights, gate_up, down)
            if out is not None:
                return out
        return self._stock(x, experts, weights, gate_up, down, unsort_sum=self._unsort_sum)

    def by_kernels(
        self, x: mx.array, experts: mx.array, weights: mx.array, gate_up: Experts, down: Experts
    ) -> mx.array | None:
        """:meth:`moe_swiglu` by kernels for as many rows as they can take; ``None`` where they take no such experts."""
        first, second, (rows, top_k) = gate_up.packed, down.packed, experts.shape
        if first is None or second is None:
            return None
        if rows <= few.MAX_ROWS:
            if self._takes(few.supported, (GATE_UP, DOWN), x, top_k, first, second, in_constant(experts.size)):
                return few.down_sum(few.gate_up_swiglu(x, experts, first), experts, weights, second)
        elif self._takes(grouped.supported, (GROUPED_GATE_UP, GROUPED_DOWN), x, top_k, first, second):
            groups = grouped.group(experts, len(first.weight))
            return grouped.down_sum(grouped.gate_up_swiglu(x, groups, top_k, first), groups, weights, second)
        return None

    def _takes(
        self,
        supported: Callable[..., bool],
        trials: tuple[Trial, Trial],
        x: mx.array,
        top_k: int,
        gate_up: Packed,
        down: Packed,
        *instantiation: bool,
    ) -> bool:
        (rows, hidden), dtype, inner = x.shape, x.dtype, gate_up.weight.shape[1] // 2
        for trial, stack in zip(trials, (gate_up, down), strict=True):
            bits, group_size = stack.bits, stack.group_size
            if not (
                stack.scales.dtype == dtype
                and supported(rows, hidden, inner, top_k, bits, group_size, dtype)
                and self._trusts(trial, dtype, hidden, inner, top_k, bits, group_size, *instantiation)
            ):
                return False
        return True

    def _unsort_sum(self, y: mx.array, order: mx.array, weights: mx.array) -> mx.array:
        (pairs, hidden), top_k = y.shape, weights.shape[1]
        if (
            weights.dtype == mx.float32
            and unsorting.supported(pairs, hidden, y.dtype)
            and self._trusts(UNSORT_SUM, y.dtype, hidden, top_k)
        ):
            return unsorting.unsort_sum(y, order, weights)
        return reference.unsort_sum(y, order, weights)
