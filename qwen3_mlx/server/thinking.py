"""All the ways clients ask for thinking, or for none, read as one wish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from .fields import Choice, Either, Field, Flag, Integer, Object

#: Tokens of thinking that an effort stands for; ``None``: as many as the model wants.
EFFORTS: dict[str, int | None] = {
    "none": 0,
    "minimal": 256,
    "low": 1024,
    "medium": 4096,
    "high": None,
    "xhigh": None,
}
BUDGETS = ("thinking_budget", "thinking_token_budget", "thinking_budget_tokens")

_budget = Integer(0, 1 << 31, note="tokens; 0 ends the thought at once")
_effort = Choice(*EFFORTS)
FIELDS: dict[str, Field] = {
    "enable_thinking": Flag(),
    "chat_template_kwargs": Object({"enable_thinking": Flag(), "thinking_budget": _budget}),
    "think": Either("true, false or an effort", {bool: Flag(), str: _effort}),
    "thinking": Object(
        {"type": Choice("enabled", "disabled", "adaptive"), "budget_tokens": _budget}, required=("type",)
    ),
    "reasoning_effort": _effort,
    "reasoning": Object({"effort": _effort, "max_tokens": _budget, "enabled": Flag(), "exclude": Flag()}),
    "include_reasoning": Flag(),
    **dict.fromkeys(BUDGETS, _budget),
}


@dataclass(frozen=True, slots=True)
class Thinking:
    """``enabled``: ``None`` where the request does not say; ``shown``: whether the reasoning is sent."""

    enabled: bool | None
    budget: int | None
    shown: bool


def wish(body: Mapping[str, Any]) -> Thinking:
    """What the fields that were read ask for. An explicit budget goes before an effort's; two different wishes are an
    InvalidRequest that names both."""
    switches: dict[str, bool] = {}
    budgets: dict[str, int] = {name: body[name] for name in BUDGETS if name in body}
    efforts: dict[str, str] = {}
    if "enable_thinking" in body:
        switches["enable_thinking"] = body["enable_thinking"]
    template = body.get("chat_template_kwargs", {})
    if "enable_thinking" in template:
        switches["chat_template_kwargs.enable_thinking"] = template["enable_thinking"]
    if "thinking_budget" in template:
        budgets["chat_template_kwargs.thinking_budget"] = template["thinking_budget"]
    if isinstance(think := body.get("think"), bool):
        switches["think"] = think
    elif think is not None:
        efforts["think"] = think
    if thinking := body.get("thinking"):
        if thinking["type"] != "adaptive":
            switches["thinking.type"] = thinking["type"] == "enabled"
        if "budget_tokens" in thinking:
            budgets["thinking.budget_tokens"] = thinking["budget_tokens"]
    reasoning = body.get("reasoning", {})
    if "enabled" in reasoning:
        switches["reasoning.enabled"] = reasoning["enabled"]
    if "max_tokens" in reasoning:
        budgets["reasoning.max_tokens"] = reasoning["max_tokens"]
    if "effort" in reasoning:
        efforts["reasoning.effort"] = reasoning["effort"]
    if "reasoning_effort" in body:
        efforts["reasoning_effort"] = body["reasoning_effort"]
    shown = body.get("include_reasoning", True) and not reasoning.get("exclude", False)
    return _settled(switches, budgets, efforts, shown)


def _settled(switches: dict[str, bool], budgets: dict[str, int], efforts: dict[str, str], shown: bool) -> Thinking:
    effort = _agreed(efforts)
    budget = _agreed(budgets)
    if effort is not None:
        switches |= {name: value != "none" for name, value in efforts.items()}
        if budget is None and effort != "none":
            budget = EFFORTS[effort]
    enabled = _agreed(switches)
    if enabled is None and budget is not None:
        enabled = True
    return Thinking(enabled, budget if enabled else None, shown)


def _agreed(wishes: Mapping[str, Any]) -> Any:
    names = list(wishes)
    for name in names[1:]:
        if wishes[name] != wishes[names[0]]:
            raise InvalidRequest(f"{names[0]} and {name} ask for different things: send one of them", param=name)
    return wishes[names[0]] if names else None
