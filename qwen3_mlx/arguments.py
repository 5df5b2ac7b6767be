"""What callers of the library give, checked: one clear error for what cannot be meant."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from .config import ModelConfig
from .errors import InvalidRequest
from .types import Message

Messages = str | Sequence[Message | Mapping[str, Any]]


def check_budget(budget: object) -> None:
    """Of a thought, in tokens."""
    if budget is not None and (type(budget) is not int or budget < 0):
        raise InvalidRequest(f"thinking_budget must be 0 or more tokens, not {budget!r}", param="thinking_budget")


def check_settings(
    kv_bits: int | None,
    deterministic: bool,
    max_batch: int,
    prefix_cache_bytes: int | None,
    stall: float,
    memory_limit: int | None,
) -> None:
    """What ``Qwen3.load`` is given, but for the model and its context."""
    if kv_bits not in (None, 4, 8):
        raise InvalidRequest(f"kv_bits must be 8, 4 or None, not {kv_bits!r}", param="kv_bits")
    if not isinstance(deterministic, bool):
        raise InvalidRequest(f"deterministic must be True or False, not {deterministic!r}", param="deterministic")
    if not isinstance(max_batch, int) or isinstance(max_batch, bool) or max_batch < 1:
        raise InvalidRequest(f"max_batch must be a whole number from 1, not {max_batch!r}", param="max_batch")
    if prefix_cache_bytes is not None and (type(prefix_cache_bytes) is not int or prefix_cache_bytes < 0):
        raise InvalidRequest(
            f"prefix_cache_bytes must be 0 or more bytes, not {prefix_cache_bytes!r}", param="prefix_cache_bytes"
        )
    if not isinstance(stall, int | float) or isinstance(stall, bool) or not stall > 0:
        raise InvalidRequest(f"stall must be a number of seconds above 0, not {stall!r}", param="stall")
    if memory_limit is not None and (type(memory_limit) is not int or memory_limit < 0):
        raise InvalidRequest(f"memory_limit must be 0 or more bytes, not {memory_limit!r}", param="memory_limit")


def conversation(messages: Messages) -> list[dict[str, Any]]:
    """Messages as a template reads them."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping | bytes) or not isinstance(messages, Sequence):
        raise InvalidRequest(f"messages must be a list of messages, not {type(messages).__name__}", param="messages")
    out = []
    for i, message in enumerate(messages):
        if not isinstance(message, Message | Mapping):
            raise InvalidRequest(
                f"messages[{i}] must be a dict or a Message, not {type(message).__name__}", param=f"messages[{i}]"
            )
        out.append(message.to_dict() if isinstance(message, Message) else dict(message))
    return out


def token_ids(prompt: Sequence[int]) -> list[int]:
    """Of a prompt, which may be an array's."""
    try:
        return [int(operator.index(token)) for token in prompt]
    except TypeError:
        raise InvalidRequest("a prompt to continue must be a text, or a list of token ids", param="prompt") from None


def context_of(asked: int | None, config: ModelConfig) -> int:
    """Tokens of prompt and answer together: those asked for, or those the checkpoint was made for."""
    if asked is None:
        return config.max_position_embeddings
    if type(asked) is not int or not 2 <= asked <= config.max_position_embeddings:
        raise InvalidRequest(
            f"context must be between 2 and {config.max_position_embeddings:,} tokens"
            f" (this checkpoint's max_position_embeddings), not {asked!r}",
            param="context",
        )
    return asked
