"""Conversations to text: the chat template, and the reply a sample trains on."""

import json
from pathlib import Path

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


def _raise(message):
    raise ValueError(message)


def compile_template(source):
    """A template as transformers would compile it."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
    env.globals["raise_exception"] = _raise
    return env.from_string(source)


_template = compile_template(TEMPLATE.read_text())


def render(messages, tools=None, thinking=True):
    """Prompt text that ends with the assistant header."""
    return _template.render(messages=messages, tools=tools, add_generation_prompt=True, enable_thinking=thinking)


def call_text(calls):
    bodies = (f'"name": "{c["name"]}", "arguments": {json.dumps(c["arguments"], ensure_ascii=False)}' for c in calls)
    return "\n".join("<tool_call>\n{" + body + "}\n</tool_call>" for body in bodies)


def answer_text(target):
    """What follows the think block: text, calls, or both."""
    return "\n".join(x for x in (target.get("content", ""), call_text(target.get("tool_calls", []))) if x)


def switched_off(messages):
    """True when the latest /think or /no_think in user or system text is /no_think."""
    state = False
    for m in messages:
        if m["role"] in ("user", "system"):
            off, on = m["content"].rfind("/no_think"), m["content"].rfind("/think")
            if max(off, on) >= 0:
                state = off > on
    return state


def reply_text(sample):
    """The full reply to a sample, without the end token."""
    target = sample["target"]
    if not sample["thinking"]:
        return answer_text(target)
    if switched_off(sample["messages"]):
        return EMPTY_THOUGHT + answer_text(target)
    return "<think>\n" + target["reasoning"] + "\n</think>\n\n" + answer_text(target)
