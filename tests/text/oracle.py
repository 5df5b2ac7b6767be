"""Chat templates rendered as transformers renders them: a plain Jinja environment, no meter, no marks."""

from __future__ import annotations

import functools
import json
from typing import Any

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


@functools.cache
def compile_plainly(source: str):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})
    template = env.from_string(source)

    def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, thinking: bool = True) -> str:
        return template.render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=True, enable_thinking=thinking
        )

    return render
