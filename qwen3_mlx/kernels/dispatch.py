"""Which implementation of each kernel runs, decided once when a model is loaded."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import mlx.core as mx

from ..errors import InvalidRequest, Unavailable
from ..types import KernelMode
from ..values import frozen
from . import reference, stock
from .reference import Experts, Frequencies, Norms, Packed
from .views import Entry, GroupedView, Lengths, Packing, View, by_group

if TYPE_CHECKING:
    from .verify import Trusts

ENVIRONMENT = "QWEN3_MLX_KERNELS"
MODES: tuple[KernelMode, ...] = get_args(KernelMode)


@frozen
class Kernels:
    """The operations a model calls, with what they expect of its weights.

    ``packed``: quantized weights stay packed; otherwise the loader unpacks them once, to ``dtype``. ``dtype``: what
    weights that are not packed, and so activations, are kept in; ``None`` leaves them as stored. ``transposed``: linear
    layers hold their weights as ``[in, out]``. ``compiled``: a decode step is traced once and then replayed;
    ``beside``: one of many rows is built in two parts, for two threads. The signatures and shapes of the operations are
    those of :mod:`qwen3_mlx.kernels.reference`.

    ``linear(x [..., in], weight [out, in])`` multiplies in the place of MLX's own products, where there is one.
    ``avoided``: what of MLX's own does not run, a line each, because what it computes for a token depends on what else
    is computed.
    """

    mode: KernelMode
    packed: bool
    dtype: mx.Dtype | None
    transposed: bool
    compiled: bool
    beside: bool
    rms_norm: Callable[[mx.array, mx.array, float], mx.array]
    rotation: Callable[[Frequencies, Lengths, int], Any]
    norm_rope: Callable[[mx.array, Norms, Any, Packing | None], tuple[mx.array, Entry]]
    attend: Callable[[mx.array, View | GroupedView, float], mx.array]
    swiglu: Callable[[mx.array, mx.array], mx.array]
    route: Callable[[mx.array, int, bool], tuple[mx.array, mx.array]]
    moe_swiglu: Callable[[mx.array, mx.array, mx.array, Experts, Experts], mx.array]
    start: Callable[[Lengths], Any]
    write: Callable[[mx.array, mx.array, Any], mx.array]
    linear: Callable[[mx.array, mx.array | Packed], mx.array] | None = None
    avoided: tuple[str, ...] = ()


def resolve(mode: KernelMode = "auto", deterministic: bool = False) -> Kernels:
    """The kernels for ``mode``; ``auto`` takes ``QWEN3_MLX_KERNELS`` if that is set, else what fits the device.

    - ``reference``: stock MLX operations. On a CPU device weights are float32 and unpacked.
    - ``metal``: packed weights and bf16 activations on Apple's GPU.
    - ``emulate``: the policy of ``metal`` on any device, for tests. Kernels run in whatever stands in for
      ``mx.fast.metal_kernel``. With nothing there, a Mac tries its own Metal, and elsewhere stock operations take over.

    ``deterministic``: what is computed for a token does not depend on what else is computed, to the bit. On a GPU that
    is a set of kernels of its own (:mod:`qwen3_mlx.kernels.deterministic`); on Linux MLX's CPU backend adds up row by
    row anyway.

    Raises :class:`InvalidRequest` for an unknown mode, or one that cannot be deterministic, and :class:`Unavailable`
    for ``metal`` without Metal.
    """
    origin = "kernels"
    if mode == "auto" and os.environ.get(ENVIRONMENT):
        origin, mode = ENVIRONMENT, os.environ[ENVIRONMENT]  # type: ignore[assignment]
    if mode not in MODES:
        raise InvalidRequest(f"{origin} must be one of {', '.join(MODES)}, not {mode!r}", param="kernels")
    metal, gpu = mx.metal.is_available(), mx.default_device().type == mx.DeviceType.gpu
    if mode == "metal" and not metal:
        raise Unavailable(
            "kernels='metal' needs an Apple GPU, and MLX finds none here: use 'auto' or 'reference', or 'emulate' to"
            " test the same arithmetic"
        )
    if mode == "auto":
        mode = "metal" if metal and gpu else "reference"
    if deterministic and mode == "reference" and (gpu or sys.platform == "darwin"):
        raise InvalidRequest(
            f"deterministic=True on a Mac runs on the Metal kernels, which {origin}={mode!r} leaves out: MLX's own"
            " operations may add up in another order when more rows come together",
            param="deterministic",
        )
    return _build(mode, gpu, deterministic)


@functools.cache
def _build(mode: KernelMode, gpu: bool, deterministic: bool = False) -> Kernels:
    if mode == "reference" and not gpu:
        return Kernels(
            mode=mode,
            packed=False,
            dtype=mx.float32,
            transposed=True,
            compiled=False,  # MLX would run a C++ compiler for each fused operation
            beside=True,
            rms_norm=reference.rms_norm,
            rotation=reference.rotation,
            norm_rope=reference.norm_rope,
            attend=by_group(reference.attend),
            swiglu=reference.swiglu,
            route=reference.route,
            moe_swiglu=reference.moe_swiglu,
            start=reference.start,
            write=reference.write,
        )
    base = on_stock(mode)
    if mode == "reference":
        return base
    from .verdicts import Store
    from .verify import Verifier

    trusts = Verifier(Store()).trusts
    if deterministic:
        from . import deterministic as invariant

        return invariant.deterministic(base, trusts)
    return on_metal(base, trusts)


def on_stock(mode: KernelMode) -> Kernels:
    """The policy of ``mode`` on MLX's own operations alone, for a device that has kernels for them."""
    swiglu = reference.swiglu if mode == "emulate" else stock.compiled_swiglu()
    return Kernels(
        mode=mode,
        packed=True,
        dtype=None if mode == "reference" else mx.bfloat16,
        transposed=False,
        compiled=mode != "emulate",  # an emulated kernel needs the values of its inputs
        beside=False,
        rms_norm=stock.rms_norm,
        rotation=stock.rotation,
        norm_rope=stock.norm_rope,
        attend=by_group(stock.attend),
        swiglu=swiglu,
        route=reference.route,
        moe_swiglu=functools.partial(reference.moe_swiglu, act=swiglu),
        start=stock.start,
        write=stock.write,
    )


def on_metal(base: Kernels, trusts: Trusts) -> Kernels:
    """``base`` with our kernels wherever one fits and ``trusts`` it."""
    from .attention import Attention  # a CPU's way to a first token is not to load any of this
    from .moe import MoE

    attention, moe = Attention(trusts, base), MoE(trusts, base.moe_swiglu)
    return replace(
        base,
        rotation=attention.rotation,
        norm_rope=attention.norm_rope,
        attend=by_group(attention.attend),
        route=moe.route,
        moe_swiglu=moe.moe_swiglu,
    )
