"""A Metal emulator: runs Metal kernels on the CPU, and finds what they do wrong. See ../README.md."""

from .errors import *  # noqa: F403
from .function import Function, Output, mlx_include
from .report import BufferReport, Report, last_report, recording
from .settings import Settings, current, using
from .standin import generated_source, metal_kernel
from .toolchain import compiler

__all__ = [
    "BufferReport",
    "Function",
    "Output",
    "Report",
    "Settings",
    "compiler",
    "current",
    "generated_source",
    "last_report",
    "metal_kernel",
    "mlx_include",
    "recording",
    "using",
]
