"""Training that survives 4-bit conversion: some steps see the weights as MLX's affine quantization would leave them."""

from contextlib import contextmanager

import torch

GROUP = 64


def affine(w, bits):
    """`w [..., columns]` after packing to `bits` in groups of 64 along the last axis, as MLX packs."""
    g = w.reshape(*w.shape[:-1], -1, GROUP)
    low, high, steps = g.amin(-1, keepdim=True), g.amax(-1, keepdim=True), 2**bits - 1
    negative = low.abs() > high.abs()
    scale = ((high - low) / steps).clamp_min(1e-7)
    scale = torch.where(negative, scale, -scale)
    edge = torch.where(negative, low, high)
    zero = (edge / scale).round()
    scale = torch.where(zero != 0, edge / zero, scale)
    bias = torch.where(zero == 0, 0.0, edge)
    scale, bias = scale.bfloat16().float(), bias.bfloat16().float()
    return (((g - bias) / scale).round().clamp(0, steps) * scale + bias).reshape(w.shape)


@contextmanager
def rounded(model, bits=4):
    """Inside, the matrices of a model are rounded (a router to 8 bits); gradients pass straight to the true ones."""
    kept = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                kept[name] = p.data
                p.data = affine(p.data, 8 if name.endswith("mlp.gate.weight") else bits)
    try:
        yield
    finally:
        for name, p in model.named_parameters():
            if name in kept:
                p.data = kept[name]
