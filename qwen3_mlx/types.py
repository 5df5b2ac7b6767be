"""The types that cross room boundaries: messages and requests in, events out. Pure; never imports mlx."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

from .values import frozen

FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]
KernelMode = Literal["auto", "reference", "metal", "emulate"]


@frozen
class SamplingParams:
    """How the next token is drawn. ``None`` means the checkpoint's default for the thinking mode.

    Order: logit_bias, repetition, presence and frequency (over generated tokens), temperature, top_k, top_p, min_p, all
    in fp32. ``temperature=0`` is greedy; ``top_k=0`` and ``top_p=1`` are off. ``logprobs=n`` reports the drawn
    token and the n most likely ones (0: only the drawn one), of the raw distribution before any of the above.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@frozen
class ToolCall:
    """One call the model asks for. ``arguments`` is JSON text, as in OpenAI's API."""

    id: str
    name: str
    arguments: str

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@frozen
class Message:
    """A message of a conversation; plain dicts in OpenAI's shape serve as well."""

    role: str
    content: str | Sequence[Mapping[str, Any]] | None = None
    reasoning_content: str | None = None
    tool_calls: Sequence[ToolCall | Mapping[str, Any]] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's shape; fields that are not set are left out (``content`` is always there)."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning_content is not None:
            out["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            out["tool_calls"] = [c.to_dict() if isinstance(c, ToolCall) else dict(c) for c in self.tool_calls]
        for key in ("tool_call_id", "name"):
            if getattr(self, key) is not None:
                out[key] = getattr(self, key)
        return out


@frozen
class Grammar:
    """What an answer has to be: JSON that is valid under a schema, a text that a regular expression matches as a whole,
    or one of some texts. ``source``: the schema as JSON text, the expression, or the texts as a JSON list.
    """

    kind: Literal["json_schema", "regex", "choice"]
    source: str

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any]) -> Grammar:
        """Raises TypeError or ValueError for what is no JSON."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, allow_nan=False))

    @classmethod
    def regex(cls, pattern: str) -> Grammar:
        return cls("regex", pattern)

    @classmethod
    def choice(cls, *texts: str) -> Grammar:
        return cls("choice", json.dumps(texts, ensure_ascii=False))


@frozen
class Request:
    """What the engine is asked for: token ids in, with everything about sampling already resolved.

    ``thinking`` is the mode the prompt was rendered for; ``in_thinking`` says that the prompt ends inside an open
    ``<think>`` block. With ``raw`` the output is plain text: no thinking, no tool calls are looked for. ``generated``:
    tokens of the answer, with what was reported of them, that are there already: it goes on behind them as if they had
    just been drawn.

    ``grammar`` says what the answer behind the thought has to be. ``must_call`` names functions of ``tools``: the
    answer is a call of one of them. Without ``parallel_tool_calls`` the answer ends with its first call.
    With ``echo`` the prompt comes first, as a ``TextDelta``, with the log-probabilities of its tokens if ``params``
    asks for some. ``max_completion_tokens`` bounds thought and answer together, whatever the budget and
    ``params.max_tokens`` are.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    thinking: bool = True
    in_thinking: bool = False
    thinking_budget: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    raw: bool = False
    generated: tuple[tuple[int, TokenLogprob | None], ...] = ()
    grammar: Grammar | None = None
    must_call: tuple[str, ...] = ()
    parallel_tool_calls: bool = True
    max_completion_tokens: int | None = None
    echo: bool = False

    @property
    def scored(self) -> bool:
        """Whether log-probabilities of the prompt are wanted."""
        return self.echo and self.params.logprobs is not None

    @property
    def constrained(self) -> bool:
        """Whether the answer follows a grammar."""
        return self.grammar is not None or bool(self.must_call)


@frozen
class TokenLogprob:
    """Natural-log probability of a drawn token; ``top``: the most likely tokens, best first, the drawn one among them
    when it is one of them. NaN for the first token of a prompt, which nothing predicts."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@frozen
class ThinkingDelta:
    """A piece of the thought: the text that ``token_ids`` complete, and what is reported of them where asked for."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@frozen
class TextDelta:
    """A piece of the answer, in the same form."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None


@frozen
class ToolCallDelta:
    """A piece of a tool call: ``id`` and ``name`` in a call's first delta only, ``arguments`` a piece of JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@frozen
class Usage:
    """Token counts. ``reasoning_tokens`` (forced ones included) are part of ``completion_tokens``."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    budget_exhausted: bool = False


@frozen
class Timings:
    """Seconds and tokens per second. ``ttft_s`` runs from submission to the first token."""

    load_s: float = 0.0
    queued_s: float = 0.0
    ttft_s: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


@frozen
class Finished:
    """Always the last event of a request that did not fail; a failed one raises its typed error instead.

    ``resume``: where a thought was closed because its budget was spent, the request that goes on thinking there if it
    is given a larger one.
    """

    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    resume: Request | None = field(default=None, repr=False)


Event = ThinkingDelta | TextDelta | ToolCallDelta | Finished


@frozen
class CacheReport:
    """What of a prompt is in the prefix cache.

    ``prompt_tokens``, ``cached_tokens``: how many there are, and how many of them need not be computed.
    ``diverges_at``: the index of the first token that differs from what is stored, or ``None`` if none does; ``stored``
    and ``asked``: the two texts from there on, cut short. ``reason``: one sentence.
    """

    prompt_tokens: int
    cached_tokens: int
    diverges_at: int | None
    stored: str
    asked: str
    reason: str


@frozen
class Completion:
    """A whole answer. ``content`` and ``reasoning_content`` are ``None`` when empty; ``resume``: that of ``Finished``,
    for ``Qwen3.extend``."""

    content: str | None
    reasoning_content: str | None
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    resume: Request | None = field(default=None, repr=False)

    def to_message(self) -> dict[str, Any]:
        """The assistant message to append to a conversation for its next turn."""
        calls = self.tool_calls
        return Message("assistant", self.content or "", self.reasoning_content, calls).to_dict()
