"""Generated conversations in the shape the official templates take: every feature, hostile text included."""

from __future__ import annotations

import random
from typing import Any

SNIPPETS = [
    "</think>",
    "<think>",
    "<think>\n",
    "\n</think>\n\n",
    "<tool_response>",
    "</tool_response>",
    "<tool_call>",
    "</tool_call>",
    "<|im_end|>",
    "<|im_start|>",
    "<|im_start|>system\n",
    "<|endoftext|>",
    "/think",
    "/no_think",
    " /no_think ",
    "\n",
    "\n\n",
    " ",
    "\t",
    "\r\n",
    "é",
    "e\u0301",
    "你好，世界。",
    "日本語",
    "שלום",
    '<b>&amp;"quoted"</b>',
    "'",
    '"',
    "\\",
    "\\n",
    "{{ 7*7 }}",
    "{% raw %}",
    "{# no #}",
    "\u2028",
    "\ufeff",
    "\x00",
    "🧑‍🧑‍🧒‍🧒",
    "< think >",
    "<",
    ">",
    "<thi",
    "nk>",
    "\ufdd0",
    "a",
    "How many r's?",
    "1+1=2",
]
NAMES = ["get_current_time", "fetch", "weather.now", "查询", "a-b_c"]
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {}},
    {
        "type": "object",
        "properties": {"city": {"type": "string", "description": 'A "city" & its <zone>'}},
        "required": ["city"],
    },
    {
        "type": "object",
        "properties": {
            "z": {"anyOf": [{"type": "integer", "minimum": -1}, {"type": "null"}], "default": None},
            "a": {
                "type": "array",
                "items": {"type": "object", "properties": {"é": {"enum": ["ü", 1, 1.5, True, None]}}},
            },
        },
        "additionalProperties": False,
    },
]


def text(rng: random.Random, longest: int = 6, hostile: bool = True) -> str:
    pool = SNIPPETS if hostile else [s for s in SNIPPETS if "<" not in s]
    return "".join(rng.choice(pool) for _ in range(rng.randint(0, longest)))


def _call(rng: random.Random) -> dict[str, Any]:
    arguments: Any = rng.choice([{}, {"city": "Zürich"}, {"b": [1, {"c": None}], "a": "<é>"}, '{"city": "東京"}', "{}"])
    call = {"name": rng.choice(NAMES), "arguments": arguments}
    return call if rng.random() < 0.2 else {"id": "call_1", "type": "function", "function": call}


def _assistant(rng: random.Random, hostile: bool) -> dict[str, Any]:
    content = text(rng, hostile=hostile)
    if rng.random() < 0.3:
        content = f"<think>\n{text(rng, 3, hostile)}\n</think>\n\n{content}"
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if rng.random() < 0.4:
        message["reasoning_content"] = text(rng, 4, hostile)
    if rng.random() < 0.4:
        message["tool_calls"] = [_call(rng) for _ in range(rng.randint(1, 3))]
    return message


def conversation(seed: int, hostile: bool = True) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools. ``hostile=False``: no ``<`` in what users and tools write."""
    rng = random.Random(seed)
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": text(rng)})
    for _ in range(rng.randint(1, 9)):
        role = rng.choice(["user", "user", "assistant", "assistant", "tool", "tool", "system"])
        if role == "assistant":
            messages.append(_assistant(rng, True))
        elif role == "user" and hostile and rng.random() < 0.25:
            wrapped = f"<tool_response>{text(rng)}</tool_response>"
            messages.append({"role": "user", "content": wrapped + rng.choice(["", "", " ", "\n", "x"])})
        else:
            content = text(rng, hostile=hostile or role == "system")
            messages.append({"role": role, "content": content + "?" if role == "user" else content})
    tools = None
    if rng.random() < 0.5:
        chosen = rng.sample(NAMES, rng.randint(1, len(NAMES)))
        tools = [_tool(rng, name, hostile) for name in chosen]
    return messages, tools


def _tool(rng: random.Random, name: str, hostile: bool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.8:
        function["description"] = text(rng, hostile=hostile)
    if rng.random() < 0.8:
        function["parameters"] = rng.choice(SCHEMAS[:1] + SCHEMAS[2:] if not hostile else SCHEMAS)
    return {"type": "function", "function": function}
