"""MLX's own Metal kernels where ours replace them: from the headers of its wheel, launched as its host code does."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import numpy as np

from qwen3_mlx.kernels.reference import Packed, swiglu

from .. import emulator
from .histories import Layout

_FOLDER = "mlx/backend/metal/kernels"
_UTILS = f'#include "{_FOLDER}/utils.h"\n'
SDPA = f'{_UTILS}#include "{_FOLDER}/sdpa_vector.h"\n'
QUANTIZED = f"""{_UTILS}#include "{_FOLDER}/steel/gemm/gemm.h"
#include "{_FOLDER}/quantized_utils.h"
#include "{_FOLDER}/quantized.h"
"""
Three = tuple[int, int, int]
_NAMES = {mx.bfloat16: "bfloat16_t", mx.float16: "half"}


@functools.cache
def _function(source: str, kernel: str) -> emulator.Function:
    return emulator.Function(source, kernel)


def _run(
    source: str, kernel: str, inputs: dict[str, Any], grid: Three, threadgroup: Three, **out: emulator.Output
) -> mx.array:
    """The one output of a launch."""
    with emulator.using(instrumented=False, check_source=False):
        (result,) = _function(source, kernel).run({**inputs, **out}, grid, threadgroup).values()
    return result


def product(x: mx.array, packed: Packed, expert: int) -> mx.array:
    """``packed[expert] @ x``: ``x [dims]`` -> ``[out]``; ``gather_qmm`` of one row does the same sums."""
    dims, out = x.shape[0], packed.weight.shape[1]
    fast = "_fast" if dims % 512 == 0 and out % 8 == 0 else ""
    kernel = f"affine_qmv{fast}<{_NAMES[x.dtype]}, {packed.group_size}, {packed.bits}, false>"
    inputs = {"w": packed.weight[expert], "scales": packed.scales[expert], "biases": packed.biases[expert], "x": x}
    inputs |= {"in_vec_size": np.int32(dims), "out_vec_size": np.int32(out)}
    y = emulator.Output((out,), x.dtype)
    return _run(QUANTIZED, kernel, inputs, (32, 2 * -(-out // 8), 1), (32, 2, 1), y=y)


def gate_up_swiglu(x: mx.array, experts: mx.array, gate_up: Packed) -> mx.array:
    """``[rows, top_k, inner]``: the products of gate and of up, each rounded, then SwiGLU, whose every operation is
    rounded: the compiled kernel's operations are of the arrays' dtype, as are those of MLX's CPU, which run here."""
    rows = []
    for row, chosen in zip(x, experts.tolist(), strict=True):
        rows.append(mx.stack([swiglu(*mx.split(product(row, gate_up, expert), 2)) for expert in chosen]))
    return mx.stack(rows)


def down_sum(inner: mx.array, experts: mx.array, weights: mx.array, down: Packed) -> mx.array:
    """``[rows, hidden]``: the product of each expert, rounded, then weighted and added up as mlx-lm does."""
    rows = []
    for row, chosen in zip(inner, experts.tolist(), strict=True):
        rows.append(mx.stack([product(x, down, expert) for x, expert in zip(row, chosen, strict=True)]))
    return mx.sum(mx.stack(rows) * weights.astype(inner.dtype)[..., None], axis=1)


def _halves(history: np.ndarray, layout: Layout) -> list[dict[str, mx.array]]:
    """Keys and values of packed rows ``[1, tokens, 2 * words]`` as ``mx.quantize`` has them."""
    halves = []
    for half in np.split(history[0], 2, axis=-1):
        pairs = mx.array(np.ascontiguousarray(half[:, layout.codes :])).view(layout.dtype)
        pairs = mx.reshape(pairs, (len(half), -1, 2))
        codes = mx.array(np.ascontiguousarray(half[:, : layout.codes]))
        halves.append({"w": codes, "scales": pairs[..., 0], "biases": pairs[..., 1]})
    return halves


def composed_attention(queries: mx.array, history: np.ndarray, layout: Layout) -> mx.array:
    """``queries [q_heads, head_dim]`` over one key/value head: products with packed keys, softmax, products with
    packed values, each rounded, as mlx-lm attends over a quantized cache."""
    keys, values = _halves(history, layout)
    tokens, heads, width = history.shape[1], layout.q_per_kv, layout.head_dim
    packing = f"{_NAMES[layout.dtype]}, {layout.group}, {layout.bits}"
    sizes = {"in_vec_size": np.int32(width), "out_vec_size": np.int32(tokens)}
    inputs = {**keys, **sizes, "x": queries * mx.array(layout.scale, layout.dtype)}
    y = emulator.Output((heads, tokens), layout.dtype)
    grid = (32 * heads, -(-tokens // 64), 1)
    scores = _run(QUANTIZED, f"affine_qmv_quad<{packing}, {width}, false>", inputs, grid, (32, 1, 1), y=y)
    weights = mx.softmax(scores, axis=-1, precise=True)
    sizes = {"K": np.int32(tokens), "N": np.int32(width), "M": np.int32(heads)}
    y = emulator.Output((heads, width), layout.dtype)
    inputs = {**values, **sizes, "x": weights}
    grid = (width, 2 * -(-heads // 32), 2)
    return _run(QUANTIZED, f"affine_qmm_n<{packing}, false>", inputs, grid, (32, 2, 2), y=y)


def fused_attention(queries: mx.array, history: np.ndarray, layout: Layout) -> mx.array:
    """The same by ``sdpa_vector`` over keys and values unpacked to 16 bits, as this project's stock path attends."""
    keys, values = (
        mx.dequantize(half["w"], half["scales"], half["biases"], group_size=layout.group, bits=layout.bits)
        for half in _halves(history, layout)
    )
    tokens, heads, width = history.shape[1], layout.q_per_kv, layout.head_dim
    inputs = {"queries": queries, "keys": keys, "values": values, "gqa_factor": np.int32(heads), "N": np.int32(tokens)}
    inputs |= {f"{side}_head_stride": np.uint64(tokens * width) for side in "kv"}
    inputs |= {f"{side}_seq_stride": np.uint64(width) for side in "kv"}
    inputs["scale"] = np.float32(layout.scale)
    kernel = f"sdpa_vector<{_NAMES[layout.dtype]}, {width}, {width}>"
    out = emulator.Output((heads, width), layout.dtype)
    return _run(SDPA, kernel, inputs, (heads * 1024, 1, 1), (1024, 1, 1), out=out)
