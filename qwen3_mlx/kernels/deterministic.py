"""Kernels for ``deterministic=True``: what is computed for a token depends on the tokens before it and on nothing else,
to the bit: not on the other rows of a batch, nor on how a prompt is cut into pieces, nor on what was found in a cache.

Every operation that adds something up is a kernel of this project whose sums go in an order that the token's own
position and the shapes of the model decide; each is proved in emulation to give a row the same bits alone and in any
company (``tests/metal/kernels``). There is nothing to fall back to: what no such kernel takes, or what this machine
gets wrong, is refused. Left to MLX are operations that make each value from single values (embedding, residuals,
SwiGLU, copies), the maximum and the order of a row, and cumulative sums in drawing a token, which go row by row.

A prompt attends by the kernel of decode attention, one query after the other: so a token attends alike whether it came
in a prompt or was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import mlx.core as mx

from ..errors import Unavailable, UnsupportedModel
from . import decode_attention, linear, router
from . import experts as few
from . import grouped_experts as grouped
from .attention import Attention
from .attention_trials import ATTENTION
from .decode_attention import DENSE, Segment
from .linear_trials import LINEAR_PACKED, LINEAR_PLAIN, RMS_NORM
from .metal_source import in_constant
from .moe import MoE
from .moe_trials import ROUTER
from .reference import Experts, Packed
from .verify import Trial, Trusts
from .views import DenseView, PackedView, Packing, View, by_group

if TYPE_CHECKING:
    from .dispatch import Kernels

#: What of MLX's own does not run, and why: the order of its sums depends on what else is computed.
AVOIDED = (
    "quantized_matmul: qmv up to some number of rows, another of them on each chip, qmm_t beyond",
    "matmul: gemv for one row, steel_gemm, split along the sum or not, for more",
    "gather_qmm: gather_qmv, gather_qmm_t or gather_qmm_rhs by the number of rows and of experts",
    "scaled_dot_product_attention: sdpa_vector in one pass or two by the longest row, steel_attention for a prompt",
    "rms_norm: its source does not come with MLX's package, so it cannot be proved in emulation",
)

# Bytes of what blocks of attention leave to be merged at a time: that of 1,000 blocks of 32 heads of 128 values.
_PARTIALS = 16 << 20


def deterministic(base: Kernels, trusts: Trusts) -> Kernels:
    """``base`` with every sum on kernels that are proved not to depend on the batch.

    Their operations raise :class:`UnsupportedModel` for what no kernel takes and :class:`Unavailable` where ``trusts``
    does not trust one.
    """
    own = _Deterministic(base, trusts)
    return replace(
        base,
        compiled=False,  # what runs is what was proved
        rms_norm=own.rms_norm,
        rotation=own.rotation,
        norm_rope=own.norm_rope,
        attend=by_group(own.attend),
        route=own.route,
        moe_swiglu=own.moe_swiglu,
        linear=own.linear,
        avoided=AVOIDED,
    )


class _Deterministic:
    def __init__(self, base: Kernels, trusts: Trusts) -> None:
        self._trusts = trusts
        attention = Attention(self._require, replace(base, norm_rope=_no_heads, attend=_no_heads))
        self.rotation, self.norm_rope = attention.rotation, attention.norm_rope
        self._experts = MoE(self._require, base.moe_swiglu)

    def _require(self, trial: Trial, *parameters: Any) -> bool:
        if not self._trusts(trial, *parameters):
            raise Unavailable(
                f"deterministic=True needs the Metal kernel {trial.kernel}, which cannot be used on this machine"
                " (qwen3-mlx doctor --kernels says why): load without it"
            )
        return True

    def linear(self, x: mx.array, weight: mx.array | Packed) -> mx.array:
        """:func:`linear.linear`."""
        dims, dtype = x.shape[-1], x.dtype
        if isinstance(weight, Packed):
            outs, bits, group_size, held = len(weight.weight), weight.bits, weight.group_size, weight.scales.dtype
        else:
            outs, bits, group_size, held = len(weight), None, 0, weight.dtype
        if held != dtype or not linear.supported(dims, outs, bits, group_size, dtype):
            kind = f"packed to {bits} bits in groups of {group_size}" if bits else "not packed"
            _refuse(f"a linear layer of {dims} to {outs} values, {kind} ({held} for activations in {dtype})")
        if bits is None:
            self._require(LINEAR_PLAIN, dtype, dims)
        else:
            self._require(LINEAR_PACKED, dtype, dims, bits, group_size)
        return linear.linear(x, weight)

    def rms_norm(self, x: mx.array, weight: mx.array, eps: float) -> mx.array:
        """:func:`linear.rms_norm`."""
        dims, dtype = x.shape[-1], x.dtype
        if weight.dtype != dtype or not linear.norm_supported(dims, dtype):
            _refuse(f"a norm of {dims} values ({weight.dtype} for activations in {dtype})")
        self._require(RMS_NORM, dtype, dims)
        return linear.rms_norm(x, weight, eps)

    def route(self, logits: mx.array, top_k: int, normalise: bool) -> tuple[mx.array, mx.array]:
        """:func:`router.route`."""
        experts, dtype = logits.shape[1], logits.dtype
        if not router.supported(experts, top_k, dtype):
            _refuse(f"a router that chooses {top_k} of {experts} experts")
        self._require(ROUTER, dtype, experts, top_k, normalise, in_constant(logits.size))
        return router.route(logits, top_k, normalise)

    def moe_swiglu(
        self, x: mx.array, experts: mx.array, weights: mx.array, gate_up: Experts, down: Experts
    ) -> mx.array:
        """:func:`reference.moe_swiglu`, in pieces of as many rows as the kernels take: a row's result is the same in
        any piece."""
        rows, top_k = experts.shape
        most = max(grouped.MAX_PAIRS // top_k, few.MAX_ROWS)
        parts = []
        for at in range(0, rows, most):
            piece = slice(at, at + most)
            part = self._experts.by_kernels(x[piece], experts[piece], weights[piece], gate_up, down)
            if part is None:
                _refuse("these experts: they must be packed, with widths that are multiples of 128")
            parts.append(part)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    # -- attention -----------------------------------------------------------------------------------------------------

    def attend(self, queries: mx.array, view: View, scale: float) -> mx.array:
        """:func:`reference.attend`, each query over the positions it may see by :mod:`decode_attention`."""
        batch, heads, length, head_dim = queries.shape
        if length == 1:
            one = mx.reshape(queries, (batch, heads, head_dim))
            out = self._each(one, view, view.lengths.array, view.lengths.each, scale)
            return mx.reshape(out, queries.shape)
        rows = [
            self._row(queries[row : row + 1], _row_of(view, row), seen, scale)
            for row, seen in enumerate(view.lengths.each)
        ]
        return mx.swapaxes(rows[0] if batch == 1 else mx.concatenate(rows), 1, 2)

    def _row(self, queries: mx.array, view: View, seen: int, scale: float) -> mx.array:
        """Several tokens ``[1, heads, length, head_dim]`` of a row, the last of which sees ``seen`` -> ``[1, length,
        heads, head_dim]``: as many rows that share keys and values."""
        _, heads, length, head_dim = queries.shape
        each = mx.reshape(mx.swapaxes(queries, 1, 2), (length, heads, head_dim))
        block = decode_attention.block_size(heads // _stored(view).shape[1], _packing(view).bits)
        most = max(1, _PARTIALS // (4 * heads * (head_dim + 2) * -(-seen // block)))
        parts = []
        for first in range(0, length, most):
            tokens = range(seen - length + 1 + first, seen - length + 1 + min(first + most, length))
            lengths = mx.array(list(tokens), mx.int32)
            parts.append(self._each(each[first : first + most], view, lengths, tokens, scale))
        return mx.expand_dims(parts[0] if len(parts) == 1 else mx.concatenate(parts), 0)

    def _each(self, queries: mx.array, view: View, lengths: mx.array, tokens: Sequence[int], scale: float) -> mx.array:
        """One query ``[rows, heads, head_dim]`` of each row over the first ``lengths`` positions of the view's rows, or
        of its only row."""
        (rows, heads, head_dim), stored, dtype, packing = queries.shape, _stored(view), queries.dtype, _packing(view)
        kv_heads = stored.shape[1]
        if isinstance(view, DenseView) and stored.dtype != dtype:
            _refuse(f"keys and values in {stored.dtype} for activations in {dtype}")
        if not decode_attention.supported(heads, kv_heads, head_dim, *packing, dtype):
            _no_heads(queries)
        for split in (False, True):  # that of longer rows too, so that no answer finds it missing on its way
            self._require(ATTENTION, dtype, heads // kv_heads, head_dim, *packing, split, in_constant(rows))
        if isinstance(view, DenseView):
            return decode_attention.attend_dense(queries, view.keys, view.values, lengths, scale, tokens)
        return decode_attention.attend(queries, [Segment(view.rows, lengths)], scale, tokens, *packing)


def _stored(view: View) -> mx.array:
    return view.keys if isinstance(view, DenseView) else view.rows


def _packing(view: View) -> Packing:
    return Packing(DENSE, view.keys.shape[3]) if isinstance(view, DenseView) else view.packing


def _row_of(view: View, row: int) -> View:
    """The view with the buffers of one row."""
    if view.lengths.each[1:]:
        if isinstance(view, PackedView):
            return view._replace(rows=view.rows[row : row + 1])
        return view._replace(keys=view.keys[row : row + 1], values=view.values[row : row + 1])
    return view


def _refuse(what: str) -> NoReturn:
    raise UnsupportedModel(
        f"deterministic=True has no kernel for {what}: it takes 16-bit activations, weights that are not packed or are"
        " packed (affine) to 4 or 8 bits, and experts that are packed so; bits=4 or bits=8 packs a checkpoint that is"
        " not"
    )


def _no_heads(queries: mx.array, *_: Any) -> NoReturn:
    _refuse(
        f"these heads ({queries.dtype} {list(queries.shape)}): they must be of 64 or 128 values, 1, 2, 4, 5, 8 or 16 to"
        " a key/value head"
    )
