"""A native Apple-silicon runtime for the Qwen3 family, on MLX.

    from qwen3_mlx import Qwen3

    q = Qwen3.load("demo")
    for event in q.stream("How many r are in strawberries?"):
        print(event)

The names below are loaded when first used: importing the package itself costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import Qwen3
    from .errors import (
        CheckpointError,
        ContextOverflow,
        EngineError,
        InvalidRequest,
        MemoryLimit,
        ModelNotFound,
        OutputError,
        QwenError,
        TemplateError,
        Unavailable,
        UnsupportedModel,
    )
    from .types import (
        CacheReport,
        Completion,
        Event,
        Finished,
        Grammar,
        Message,
        Request,
        SamplingParams,
        TextDelta,
        ThinkingDelta,
        Timings,
        TokenLogprob,
        ToolCall,
        ToolCallDelta,
        Usage,
    )

_HOMES = {
    "api": ("Qwen3",),
    "errors": (
        "CheckpointError",
        "ContextOverflow",
        "EngineError",
        "InvalidRequest",
        "MemoryLimit",
        "ModelNotFound",
        "OutputError",
        "QwenError",
        "TemplateError",
        "Unavailable",
        "UnsupportedModel",
    ),
    "types": (
        "CacheReport",
        "Completion",
        "Event",
        "Finished",
        "Grammar",
        "Message",
        "Request",
        "SamplingParams",
        "TextDelta",
        "ThinkingDelta",
        "Timings",
        "TokenLogprob",
        "ToolCall",
        "ToolCallDelta",
        "Usage",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CacheReport",
    "CheckpointError",
    "Completion",
    "ContextOverflow",
    "EngineError",
    "Event",
    "Finished",
    "Grammar",
    "InvalidRequest",
    "MemoryLimit",
    "Message",
    "ModelNotFound",
    "OutputError",
    "Qwen3",
    "QwenError",
    "Request",
    "SamplingParams",
    "TemplateError",
    "TextDelta",
    "ThinkingDelta",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "Unavailable",
    "UnsupportedModel",
    "Usage",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
