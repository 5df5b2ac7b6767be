"""The MoE block on the Metal kernels where they fit and are trusted, and on stock operations everywhere else."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from . import experts as kernels
from . import reference, router
from .metal_source import in_constant
from .moe_trials import DOWN, GATE_UP, ROUTER
from .reference import Experts, Packed
from .verify import Trusts


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
        """:func:`reference.moe_swiglu`; the two kernels are used together or not at all."""
        first, second = gate_up.packed, down.packed
        if first is None or second is None or not self._takes(x, experts, first, second):
            return self._stock(x, experts, weights, gate_up, down)
        return kernels.down_sum(kernels.gate_up_swiglu(x, experts, first), experts, weights, second)

    def _takes(self, x: mx.array, experts: mx.array, gate_up: Packed, down: Packed) -> bool:
        (rows, hidden), top_k, dtype = x.shape, experts.shape[1], x.dtype
        inner, few = gate_up.weight.shape[1] // 2, in_constant(experts.size)
        for trial, stack in ((GATE_UP, gate_up), (DOWN, down)):
            bits, group_size = stack.bits, stack.group_size
            if not (
                stack.scales.dtype == dtype
                and kernels.supported(rows, hidden, inner, top_k, bits, group_size, dtype)
                and self._trusts(trial, dtype, hidden, inner, top_k, bits, group_size, few)
            ):
                return False
        return True
