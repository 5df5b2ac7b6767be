"""Lean leaf modules: the only owners of weights. ``weights.py`` swaps a plain leaf for a quantized one.

Calls read arrays as ``self["weight"]``: a module is a dict, and attribute access to its entries costs ten times as
much. Plain leaves are born with lazy constants, so a model of any size can be built without allocating it.

The transposed leaves are what a CPU device runs on: its BLAS reads ``[in, out]`` weights about twice as fast when there
are few rows to multiply.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config import QuantSpec
from ..kernels import Packed, second_thread

# Multiplications from which a second thread is worth waking: about half a millisecond of them.
APART = 1 << 20


class RMSNorm(nn.Module):
    """The weight of a root-mean-square norm, ``[dims]``; the operation itself belongs to the kernels."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.weight = mx.ones((dims,))


class Linear(nn.Module):
    """``y = x @ weight.T`` with ``weight [out, in]``."""

    def __init__(self, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_size, in_size))

    def __call__(self, x: mx.array) -> mx.array:
        return mx.matmul(x, mx.swapaxes(self["weight"], 0, 1))


def _on_cpu(x: mx.array, weight_t: mx.array) -> mx.array:
    """``x @ weight_t`` on a CPU device, whose BLAS has one thread: half of a prompt's many tokens go to another (a step
    of many rows is built in two parts). A token's result is the same to the bit."""
    *before, length, width = x.shape
    if length == 1 or x.size * weight_t.shape[1] < APART:
        return mx.matmul(x, weight_t)
    rows = x.size // width
    first, second = mx.split(mx.reshape(x, (rows, width)), [rows - rows // 2])
    with second_thread():
        rest = mx.matmul(second, weight_t)
    return mx.reshape(mx.concatenate([mx.matmul(first, weight_t), rest]), (*before, length, weight_t.shape[1]))


class TransposedLinear(nn.Module):
    """``y = x @ weight_t`` with ``weight_t [in, out]`` contiguous."""

    def __init__(self, weight_t: mx.array) -> None:
        super().__init__()
        self.weight_t = weight_t

    def __call__(self, x: mx.array) -> mx.array:
        return _on_cpu(x, self["weight_t"])


class Embedding(nn.Module):
    """Rows of ``weight [vocab, dims]`` by token id; with tied weights also the head."""

    def __init__(self, vocab_size: int, dims: int) -> None:
        super().__init__()
        self.weight = mx.zeros((vocab_size, dims))

    def __call__(self, tokens: mx.array) -> mx.array:
        return mx.take(self["weight"], tokens, axis=0)

    def as_head(self, x: mx.array) -> mx.array:
        """``x [..., dims]`` -> logits ``[..., vocab]``."""
        return mx.matmul(x, mx.swapaxes(self["weight"], 0, 1))


class TransposedEmbedding(nn.Module):
    """:class:`Embedding` with only ``weight_t [dims, vocab]`` contiguous: fast as a head, and a column is soon read."""

    def __init__(self, weight_t: mx.array) -> None:
        super().__init__()
        self.weight_t = weight_t

    def __call__(self, tokens: mx.array) -> mx.array:
        columns = mx.take(self["weight_t"], tokens, axis=1)
        return mx.transpose(columns, (*range(1, columns.ndim), 0))

    def as_head(self, x: mx.array) -> mx.array:
        """``x [..., dims]`` -> logits ``[..., vocab]``."""
        return _on_cpu(x, self["weight_t"])


class SwitchLinear(nn.Module):
    """A stack of linear layers, one per expert: ``weight [experts, out, in]``."""

    packed = None

    def __init__(self, in_size: int, out_size: int, experts: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, out_size, in_size))

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array:
        """``x [..., rows, in]`` -> ``[..., rows, out]`` through the expert that ``experts`` names for each leading
        position (leading axes broadcast); ``ordered`` promises ascending expert numbers."""
        weight = mx.swapaxes(self["weight"], 1, 2)
        if weight.dtype != mx.float32 and mx.default_device().type == mx.DeviceType.cpu:
            # MLX's CPU backend gathers float32 matrices only; this is how emulation runs an unpacked MoE there.
            wide = mx.gather_mm(x.astype(mx.float32), weight.astype(mx.float32), rhs_indices=experts)
            return wide.astype(x.dtype)
        return mx.gather_mm(x, weight, rhs_indices=experts, sorted_indices=ordered)


class TransposedSwitchLinear(nn.Module):
    """:class:`SwitchLinear` with ``weight_t [experts, in, out]`` contiguous."""

    packed = None

    def __init__(self, weight_t: mx.array) -> None:
        super().__init__()
        self.weight_t = weight_t

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array:
        return mx.gather_mm(x, self["weight_t"], rhs_indices=experts, sorted_indices=ordered)


class Quantized(nn.Module):
    """A packed weight as ``mx.quantize`` returns it: ``weight [..., out, in * bits / 32]`` (uint32), ``scales`` and,
    in affine mode, ``biases`` ``[..., out, in / group_size]``. ``spec`` says how it was packed."""

    def __init__(self, weight: mx.array, scales: mx.array, biases: mx.array | None, spec: QuantSpec) -> None:
        super().__init__()
        self.weight = weight
        self.scales = scales
        if biases is not None:
            self.biases = biases
        self.spec = spec
        self.group_size, self.bits, self.mode = spec.group_size, spec.bits, spec.mode

    def _matmul(self, x: mx.array) -> mx.array:
        weight, scales, biases = self["weight"], self["scales"], self.get("biases")
        return mx.quantized_matmul(x, weight, scales, biases, True, self.group_size, self.bits, self.mode)


class QuantizedLinear(Quantized):
    """:class:`Linear` on packed weights."""

    def __call__(self, x: mx.array) -> mx.array:
        return self._matmul(x)


class QuantizedEmbedding(Quantized):
    """:class:`Embedding` on packed weights; only the rows asked for are unpacked."""

    def __call__(self, tokens: mx.array) -> mx.array:
        biases = self.get("biases")
        rows = (self["weight"][tokens], self["scales"][tokens], None if biases is None else biases[tokens])
        return mx.dequantize(*rows, group_size=self.group_size, bits=self.bits, mode=self.mode)

    def as_head(self, x: mx.array) -> mx.array:
        """``x [..., dims]`` -> logits ``[..., vocab]``."""
        return self._matmul(x)


class QuantizedSwitchLinear(Quantized):
    """:class:`SwitchLinear` on packed weights."""

    def __call__(self, x: mx.array, experts: mx.array, ordered: bool = False) -> mx.array:
        return mx.gather_qmm(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            rhs_indices=experts,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=ordered,
        )

    @property
    def packed(self) -> Packed | None:
        """The arrays for a kernel of its own; only affine packing has one."""
        if self.mode != "affine":
            return None
        return Packed(self["weight"], self["scales"], self["biases"], self.bits, self.group_size)
