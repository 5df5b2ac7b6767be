"""MLX's own kernels, from the headers in its wheel, give the right numbers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from . import emulator
from .test_emulator import _compiler  # noqa: F401

QUANTIZED = """
#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/steel/gemm/gemm.h"
#include "mlx/backend/metal/kernels/quantized_utils.h"
#include "mlx/backend/metal/kernels/quantized.h"
"""
SDPA = """
#include "mlx/backend/metal/kernels/utils.h"
#include "mlx/backend/metal/kernels/sdpa_vector.h"
"""


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("instrumented", [False, True])
def test_qmv_fast(instrumented: bool) -> None:
    rows, columns = 16, 512
    w, scales, biases = mx.quantize(mx.array(random(rows, columns)), group_size=64, bits=4)
    x = mx.array(random(1, columns, seed=1))
    function = emulator.Function(QUANTIZED, "affine_qmv_fast<float, 64, 4, false>")
    with emulator.using(instrumented=instrumented, check_source=False):
        y = function.run(
            {
                "w": w,
                "scales": scales,
                "biases": biases,
                "x": x,
                "y": emulator.Output((1, rows), mx.float32),
                "in_vec_size": np.int32(columns),
                "out_vec_size": np.int32(rows),
            },
            grid=(32, 2 * rows // 8, 1),
            threadgroup=(32, 2, 1),
        )["y"]
    expected = x @ mx.dequantize(w, scales, biases, group_size=64, bits=4).T
    np.testing.assert_allclose(np.array(y), np.array(expected), rtol=1e-5, atol=1e-4)
    if instrumented:
        traffic = emulator.last_report().buffers["w"]
        assert traffic.bytes == traffic.distinct == rows * columns // 2


def test_affine_quantize() -> None:
    w = mx.array(random(8, 512))
    function = emulator.Function(QUANTIZED, "affine_quantize<float, 64, 4>")
    with emulator.using(instrumented=True, check_source=False):
        out = function.run(
            {
                "w": w,
                "out": emulator.Output((8, 256), mx.uint8),
                "scales": emulator.Output((8, 8), mx.float32),
                "biases": emulator.Output((8, 8), mx.float32),
            },
            grid=(8 * 512 // 2, 1, 1),
            threadgroup=(64, 1, 1),
        )
    packed = out["out"].view(mx.uint32)
    restored = mx.dequantize(packed, out["scales"], out["biases"], group_size=64, bits=4)
    worst = np.abs(np.array(restored - w)).reshape(8, 8, 64).max(-1)
    assert (worst <= 1.01 * np.abs(np.array(out["scales"]))).all()
    codes, scales, _ = mx.quantize(w, group_size=64, bits=4)
    np.testing.assert_allclose(np.array(out["scales"]), np.array(scales), rtol=1e-5)
    nibbles = [(np.array(c)[..., None] >> np.arange(0, 32, 4)) & 15 for c in (packed, codes)]
    assert (nibbles[0] != nibbles[1]).mean() < 0.01


@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("tokens", [5, 70])
def test_sdpa_vector(tokens: int, instrumented: bool) -> None:
    heads, kv_heads, d = 4, 2, 64
    q, k, v = random(heads, d), random(kv_heads, tokens, d, seed=1), random(kv_heads, tokens, d, seed=2)
    function = emulator.Function(SDPA, "sdpa_vector<float, 64, 64>")
    with emulator.using(instrumented=instrumented, check_source=False):
        out = function.run(
            {
                "queries": q,
                "keys": k,
                "values": v,
                "out": emulator.Output((heads, d), mx.float32),
                "gqa_factor": np.int32(heads // kv_heads),
                "N": np.int32(tokens),
                "k_head_stride": np.uint64(tokens * d),
                "k_seq_stride": np.uint64(d),
                "v_head_stride": np.uint64(tokens * d),
                "v_seq_stride": np.uint64(d),
                "scale": np.float32(d**-0.5),
            },
            grid=(heads * 1024, 1, 1),
            threadgroup=(1024, 1, 1),
        )["out"]
    expected = mx.fast.scaled_dot_product_attention(
        mx.array(q)[None, :, None], mx.array(k)[None], mx.array(v)[None], scale=d**-0.5
    )
    np.testing.assert_allclose(np.array(out), np.array(expected).reshape(heads, d), rtol=1e-4, atol=1e-5)
