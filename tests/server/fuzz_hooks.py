"""For schemathesis: rules between the fields of a body that a JSON schema does not say.

A body that keeps to the schema is made to keep to these as well, before it is sent; one that is meant to be wrong is
sent as it is. ``QWEN3_FUZZ_TOKENS`` bounds the answers of a real engine.
"""

from __future__ import annotations

import os
from typing import Any

import schemathesis
from schemathesis import GenerationMode

WISHES = (
    *("enable_thinking", "chat_template_kwargs", "think", "thinking", "reasoning_effort", "reasoning"),
    *("thinking_budget", "thinking_token_budget", "thinking_budget_tokens"),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    body = case.body
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE or not isinstance(body, dict):
        return
    _settle(body)
    if isinstance(body.get("messages"), list):
        _settle_chat(body)
    if tokens := os.environ.get("QWEN3_FUZZ_TOKENS"):
        body["max_tokens"] = int(tokens)
        body.pop("max_completion_tokens", None)


def _settle(body: dict[str, Any]) -> None:
    if not body.get("stream"):
        body.pop("stream_options", None)
    if not body.get("echo") and body.get("max_tokens") == 0:
        body["max_tokens"] = 1
    body["n"] = 1


def _settle_chat(body: dict[str, Any]) -> None:
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    for name in [name for name in WISHES if body.get(name) is not None][1:]:
        del body[name]
    for name in ("reasoning", "chat_template_kwargs", "thinking"):
        if isinstance(body.get(name), dict):
            body[name] = dict(list(body[name].items())[:1])
    messages = [message for message in body["messages"][:20] if message.get("role") != "tool"]
    body["messages"] = [*messages, {"role": "user", "content": "x"}]
    tools = body["tools"] = (body.get("tools") or [])[:3]  # the demo's context is short
    for at, tool in enumerate(tools):
        tool["function"]["name"] = f"f{at}"
        tool["function"]["parameters"] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        body["tool_choice"] = {"type": "function", "function": {"name": "f0"}}
    if not tools and choice not in (None, "none"):
        body["tool_choice"] = "auto"
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("json_schema"):
        form["json_schema"]["schema"] = {"type": "object", "properties": {"a": {"enum": [1, 2]}}}
