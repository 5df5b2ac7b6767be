"""What the next prompt of a conversation begins with, whatever will be said in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..types import Completion
from .chat import ChatTemplate
from .tokenizer import Tokenizer


def next_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    thinking: bool,
    tools: Sequence[Mapping[str, Any]] | None,
    completion: Completion,
) -> list[int]:
    """The token ids that all prompts share which answer ``messages`` with ``completion`` and then have a message of
    the user's, or a result for each tool that was called.

    No knowledge of the template: it is what two prompts have in common that differ in that message.
    """
    one, other = (
        template.encode(
            [*messages, completion.to_message(), *_next_messages(completion, text)],
            tools=tools,
            thinking=thinking,
            tokenizer=tokenizer,
        )
        for text in ("a", "b")
    )
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:shared]


def _next_messages(completion: Completion, text: str) -> list[dict[str, Any]]:
    if completion.tool_calls:
        return [{"role": "tool", "tool_call_id": call.id, "content": text} for call in completion.tool_calls]
    return [{"role": "user", "content": text}]
