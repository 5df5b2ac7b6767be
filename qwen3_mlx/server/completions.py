"""``/v1/completions``: plain texts or token ids that go on, as they are. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import orjson

from ..errors import InvalidRequest
from ..types import Event, Finished, SamplingParams, TextDelta, TokenLogprob
from .chat import include_usage, sampling
from .chat_fields import HINTS, TOKENS, Limits, shared_fields
from .fields import JSON, Absent, Flag, Integer, ListOf, Object, Text, check_length, refuse
from .wire import DONE, Head, TokenBytes, sse, usage_of

DEFAULT_TOKENS = 16  # OpenAI's


@dataclass(frozen=True, slots=True)
class CompletionTask:
    """What one body asks for, checked. With ``silent`` nothing is to be generated: only the prompt is of interest."""

    model: str | None
    prompts: list[str | list[int]]
    params: SamplingParams
    n: int
    echo: bool
    silent: bool
    stream: bool
    include_usage: bool

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n


@lru_cache(maxsize=8)
def completion_object(limits: Limits) -> Object:
    """The body of ``/v1/completions``."""
    return Object(
        {
            "prompt": Prompts(limits),
            **shared_fields(limits),
            "max_tokens": Integer(0, TOKENS, note="tokens; 0 only with echo"),
            "echo": Flag(),
            "logprobs": Integer(0, 20),
            "best_of": Integer(1, 1, note="answers are not ranked here: send n"),
            "suffix": Absent("the model continues a text, it fills none"),
        },
        required=("prompt",),
        hints=HINTS,
    )


class Prompts:
    """A text, token ids, or a list of either."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._text = Text(1)
        self._token = Integer(0, limits.vocab_size - 1)
        self._tokens = ListOf(self._token, 1, limits.context)

    @property
    def schema(self) -> JSON:
        many = {"type": "array", "minItems": 1, "maxItems": self.limits.prompts}
        return {
            "anyOf": [
                self._text.schema,
                self._tokens.schema,
                {**many, "items": self._text.schema},
                {**many, "items": self._tokens.schema},
            ]
        }

    def read(self, value: Any, where: str) -> list[str | list[int]]:
        if isinstance(value, str):
            return [self._text.read(value, where)]
        if not isinstance(value, list):
            raise refuse(where, "text, token ids, or a list of either", value)
        if value and not isinstance(value[0], str | list):
            return [self._tokens.read(value, where)]
        check_length(value, where, 1, self.limits.prompts)
        kind = self._text if isinstance(value[0], str) else self._tokens
        return [kind.read(item, f"{where}[{i}]") for i, item in enumerate(value)]


def completion_task(body: Any, limits: Limits) -> CompletionTask:
    """Reads a body. Raises InvalidRequest naming the parameter that is wrong or not supported."""
    given = completion_object(limits).read(body, "")
    stream = given.get("stream", False)
    echo = given.get("echo", False)
    tokens = given.get("max_tokens", DEFAULT_TOKENS)
    if not tokens and not echo:
        raise InvalidRequest("max_tokens is 0: nothing would come back without echo", param="max_tokens")
    task = CompletionTask(
        model=given.get("model"),
        prompts=given["prompt"],
        params=replace(sampling(given, given.get("logprobs")), max_tokens=max(tokens, 1)),
        n=given.get("n", 1),
        echo=echo,
        silent=not tokens,
        stream=stream,
        include_usage=include_usage(given, stream),
    )
    if task.choices > limits.prompts:
        raise InvalidRequest(f"{task.choices} choices are too many: at most {limits.prompts} can be", param="n")
    return task


class CompletionAnswer:
    """Writes one request's events, as a stream or whole. Choices are numbered prompt by prompt."""

    def __init__(self, head: Head, task: CompletionTask, token_bytes: TokenBytes) -> None:
        self._head = head
        self._task = task
        self._token_bytes = token_bytes
        self._offset = [0] * task.choices  # characters of each choice so far, for text_offset
        self._echoed = [False] * task.choices
        start = orjson.dumps(head.fields("text_completion"))[:-1]
        self._before = [b'data: %b,"choices":[{"index":%d,"text":' % (start, i) for i in range(task.choices)]
        self._usage = b',"usage":null' if task.include_usage else b""
        self._after = b',"logprobs":null,"finish_reason":null}]%b}\n\n' % self._usage

    def feed(self, events: Sequence[tuple[int, Event]]) -> bytes:
        out: list[bytes] = []
        for (index, kind), group in groupby(events, key=lambda item: (item[0], type(item[1]))):
            together = [event for _, event in group]
            if kind is Finished:
                reason = self._reason(together[-1]).encode()
                out += (self._before[index], b'"",', b'"logprobs":null,"finish_reason":"%b"}]' % reason, self._usage)
                out.append(b"}\n\n")
            elif shown := self._shown(index, together):
                out += self._text(index, shown)
        return b"".join(out)

    def end(self, finished: Sequence[Finished]) -> bytes:
        if not self._task.include_usage:
            return DONE
        document = {**self._head.fields("text_completion"), "choices": [], "usage": self._counted(finished)}
        return sse(document) + DONE

    def whole(self, choices: Sequence[Sequence[Event]]) -> bytes:
        finished = [event for events in choices for event in events[-1:] if isinstance(event, Finished)]
        return orjson.dumps(
            {
                **self._head.fields("text_completion"),
                "choices": [self._choice(index, events) for index, events in enumerate(choices)],
                "usage": self._counted(finished),
            }
        )

    def _choice(self, index: int, events: Sequence[Event]) -> dict[str, Any]:
        shown = self._shown(index, events)
        logprobs = None if self._task.params.logprobs is None else self._logprobs(index, shown)
        text = "".join([event.text for event in shown])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": self._reason(events[-1])}

    def _shown(self, index: int, events: Sequence[Event]) -> list[TextDelta]:
        """The texts among ``events`` that are to be sent: with ``silent``, the echo only."""
        texts = [event for event in events if isinstance(event, TextDelta)]
        if self._task.silent:
            texts, self._echoed[index] = ([] if self._echoed[index] else texts[:1]), self._echoed[index] or bool(texts)
        return texts

    def _reason(self, last: Event) -> str:
        assert isinstance(last, Finished)
        return "length" if self._task.silent else last.finish_reason

    def _text(self, index: int, events: Sequence[TextDelta]) -> tuple[bytes, ...]:
        data = orjson.dumps("".join([event.text for event in events]))
        if self._task.params.logprobs is None:
            return self._before[index], data, self._after
        logprobs = orjson.dumps(self._logprobs(index, events))
        return self._before[index], data, b',"logprobs":%b,"finish_reason":null}]%b}\n\n' % (logprobs, self._usage)

    def _logprobs(self, index: int, events: Sequence[TextDelta]) -> dict[str, list[Any]]:
        """OpenAI's four lists, one item a token. A prompt's first token has no probability."""
        out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for event in events:
            offset = self._offset[index]
            for entry in event.logprobs or ():
                text = self._name(entry.token_id)
                known = not math.isnan(entry.logprob)
                out["tokens"].append(text)
                out["token_logprobs"].append(_finite(entry.logprob) if known else None)
                out["top_logprobs"].append(self._top(entry) if known else None)
                out["text_offset"].append(offset)
                offset += len(text)
            self._offset[index] += len(event.text)
        return out

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens and, as OpenAI has it, the one that came."""
        top = {self._name(token): _finite(logprob) for token, logprob in entry.top}
        top.setdefault(self._name(entry.token_id), _finite(entry.logprob))
        return top

    def _name(self, token: int) -> str:
        """A token's text; bytes that are no text by themselves are spelled out."""
        data = self._token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _counted(self, finished: Sequence[Finished]) -> dict[str, Any]:
        usage = usage_of(finished, len(self._task.prompts))
        if self._task.silent:
            usage |= {"completion_tokens": 0, "total_tokens": usage["prompt_tokens"]}
        return usage


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)
