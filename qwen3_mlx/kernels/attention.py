"""Attention on the Metal kernels where they fit and are trusted, and on stock operations everywhere else."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from . import decode_attention, norm_rope
from .attention_trials import ATTENTION, NORM_ROPE, PACK, TABLE
from .decode_attention import Segment
from .metal_source import in_constant
from .reference import Frequencies, Norms
from .verify import Trusts
from .views import Entry, Lengths, PackedView, Packing, View

if TYPE_CHECKING:
    from .dispatch import Kernels


class Attention:
    """``rotation``, ``norm_rope`` and ``attend`` of :class:`qwen3_mlx.kernels.Kernels`; those of ``stock`` do what the
    kernels do not take."""

    def __init__(self, trusts: Trusts, stock: Kernels) -> None:
        self._trusts = trusts
        self._stock = stock

    def rotation(self, frequencies: Frequencies, offsets: Lengths, length: int) -> Rotation:
        """:func:`reference.rotation`, in whichever form is asked for."""
        return Rotation(self._stock, frequencies, offsets, length)

    def norm_rope(
        self, qkv: mx.array, norms: Norms, rotation: Rotation, packing: Packing | None
    ) -> tuple[mx.array, Entry]:
        """:func:`reference.norm_rope`."""
        if not self._turns(qkv, norms, packing):
            return self._stock.norm_rope(qkv, norms, rotation.stock, packing)
        table = rotation.table
        if packing is None:
            queries, *entry = norm_rope.norm_rope(qkv, norms, table)
        else:
            queries, *entry = norm_rope.norm_rope_pack(qkv, norms, table, *packing)
        return queries, tuple(entry)

    def _turns(self, qkv: mx.array, norms: Norms, packing: Packing | None) -> bool:
        dtype, (heads, _, head_dim) = qkv.dtype, norms.heads.shape
        if not (
            norms.queries.dtype == norms.keys.dtype == dtype and norm_rope.supported(head_dim, dtype, *(packing or ()))
        ):
            return False
        shape = (dtype, norms.q_heads, heads - norms.q_heads, head_dim)
        return self._trusts(TABLE, head_dim // 2, in_constant(qkv.shape[0])) and (
            self._trusts(NORM_ROPE, *shape) if packing is None else self._trusts(PACK, *shape, *packing)
        )

    def attend(self, queries: mx.array, view: View, scale: float) -> mx.array:
        """:func:`reference.attend`; the kernel takes one query of each row over a packed cache."""
        batch, heads, length, head_dim = queries.shape
        if length > 1 or not isinstance(view, PackedView) or not self._decodes(queries, view):
            return self._stock.attend(queries, view, scale)
        segment = Segment(view.rows, view.lengths.array)
        one = mx.reshape(queries, (batch, heads, head_dim))
        out = decode_attention.attend(one, [segment], scale, view.lengths.each, *view.packing)
        return mx.reshape(out, queries.shape)

    def _decodes(self, queries: mx.array, view: PackedView) -> bool:
        (batch, heads, _, head_dim), kv_heads, dtype = queries.shape, view.rows.shape[1], queries.dtype
        if not decode_attention.supported(heads, kv_heads, head_dim, *view.packing, dtype):
            return False
        sharing = heads // kv_heads
        split = view.lengths.most > decode_attention.block_size(sharing, view.packing.bits)
        return self._trusts(ATTENTION, dtype, sharing, head_dim, *view.packing, split, in_constant(batch))


class Rotation:
    """The rotation of one forward pass. Each of its forms is made when it is first asked for, by a layer that has found
    out what takes its shapes, and kept for the others."""

    def __init__(self, stock: Kernels, frequencies: Frequencies, offsets: Lengths, length: int) -> None:
        self._rotation = stock.rotation
        self._given = frequencies, offsets, length

    @functools.cached_property
    def stock(self) -> Any:
        """That of stock operations."""
        return self._rotation(*self._given)

    @functools.cached_property
    def table(self) -> mx.array:
        """:func:`norm_rope.rotation` for the rows of the pass."""
        frequencies, offsets, length = self._given
        return norm_rope.rotation(frequencies.turns, offsets.array, length)
