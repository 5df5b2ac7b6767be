"""Prompts as coding agents send them, made up, of any length."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import random
from typing import Any

_LINES = """
the file function returns value when an error is raised check tests before commit use only read path list of argument
name default server request model token cache line module class method result user should never change output format
always keep short answer step by tool call write edit search pattern directory branch merge build
"""
_WORDS = _LINES.split()
_NAMES = ("read_file", "write_file", "search", "run_command", "list_directory", "edit", "fetch", "ask_user")
_PROGRAMS = ("argparse", "json.decoder", "tarfile", "textwrap", "threading", "zipfile", "http.client", "html.parser")
_KINDS = ("string", "integer", "boolean", "array")


def agent_prompt(size: int, seed: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Messages and tools of about ``size`` characters together: a third in schemas and system text, the rest in a
    conversation with calls of tools and their results, which are programs of Python's library. The same for the same
    ``seed`` and version of Python."""
    rng = random.Random(seed)
    tools = [_tool(rng, name) for name in _NAMES]
    system = "You are a careful programmer.\n\n"
    while len(system) + len(json.dumps(tools)) < size // 3:
        system += f"## {_sentence(rng, 3)}\n\n" + "\n".join(f"- {_sentence(rng, 14)}" for _ in range(6)) + "\n\n"
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": f"<reminder>\n{_sentence(rng, 20)}\n</reminder>\n{_sentence(rng, 30)}"})
    length = len(system) + len(json.dumps(tools))
    while length < size:
        turn = _turn(rng, len(messages))
        messages += turn
        length += len(json.dumps(turn))
    return messages, tools


def next_turn(messages: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The same conversation one call further."""
    return [*messages, *_turn(random.Random(seed), len(messages))]


def _turn(rng: random.Random, index: int) -> list[dict[str, Any]]:
    """What the model says and calls, and what comes back."""
    name, arguments = rng.choice(_NAMES), {"path": f"src/{rng.choice(_WORDS)}.py", "limit": rng.randrange(400)}
    call = {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "assistant", "content": _sentence(rng, 25), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": _code(rng, rng.randrange(10, 60))},
    ]


def _code(rng: random.Random, lines: int) -> str:
    """A piece of a program, with numbered lines as tools give it."""
    program = _program(rng.choice(_PROGRAMS))
    first = rng.randrange(max(1, len(program) - lines))
    return "\n".join(f"{first + i + 1:5}\t{line}" for i, line in enumerate(program[first : first + lines]))


@functools.cache
def _program(name: str) -> list[str]:
    return inspect.getsource(importlib.import_module(name)).splitlines()


def _tool(rng: random.Random, name: str) -> dict[str, Any]:
    properties = {
        f"{rng.choice(_WORDS)}_{i}": {"type": rng.choice(_KINDS), "description": _sentence(rng, 12)} for i in range(6)
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    function = {"name": name, "description": _sentence(rng, 40), "parameters": parameters}
    return {"type": "function", "function": function}


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words)).capitalize() + "."
