"""The converter: a Hugging Face checkpoint in, quantized MLX weights out. ``convert(...)`` is the whole of it.

It works leaf by leaf: the plan (every output tensor's name, shape and place) is made from the input's headers alone,
so files are written front to back while only one weight is in memory.
"""

from __future__ import annotations

from .quantize import Result, convert

__all__ = ["Result", "convert"]
