"""``/v1/chat/completions``: a body becomes a ``ChatTask``, events become OpenAI's chunks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from ..control.collect import collect
from ..errors import InvalidRequest
from ..types import Event, Finished, Grammar, SamplingParams, TextDelta, ThinkingDelta, TokenLogprob, ToolCallDelta
from .chat_fields import Limits, chat_object
from .thinking import wish
from .wire import DONE, Head, TokenBytes, logprob_entry, sse, usage_of


@dataclass(frozen=True, slots=True)
class ChatTask:
    """What one body asks for, checked. ``thinking`` and ``model`` are ``None`` where it does not say; ``total``: tokens
    that thought and answer may have together."""

    model: str | None
    messages: list[dict[str, Any]]
    thinking: bool | None
    thinking_budget: int | None
    tools: list[dict[str, Any]] | None
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    grammar: Grammar | None
    params: SamplingParams
    total: int | None
    n: int
    stream: bool
    include_usage: bool
    show_reasoning: bool


def chat_task(body: Any, limits: Limits) -> ChatTask:
    """Reads a body. Raises InvalidRequest naming the parameter that is wrong or not supported."""
    given = chat_object(limits).read(body, "")
    thinking = wish(given)
    stream = given.get("stream", False)
    check_tool_results(given["messages"])
    return ChatTask(
        model=given.get("model"),
        messages=given["messages"],
        thinking=thinking.enabled,
        thinking_budget=thinking.budget,
        tools=given.get("tools") or None,
        tool_choice=given.get("tool_choice", "auto"),
        parallel_tool_calls=given.get("parallel_tool_calls", True),
        grammar=_grammar(given.get("response_format")),
        params=sampling(given, _logprobs(given)),
        total=given.get("max_completion_tokens"),
        n=given.get("n", 1),
        stream=stream,
        include_usage=include_usage(given, stream),
        show_reasoning=thinking.shown,
    )


def sampling(given: Mapping[str, Any], logprobs: int | None) -> SamplingParams:
    """The values of a body that say how tokens are drawn."""
    stop = given.get("stop", ())
    bias = given.get("logit_bias")
    top_k = given.get("top_k")
    return SamplingParams(
        temperature=given.get("temperature"),
        top_p=given.get("top_p"),
        top_k=0 if top_k == -1 else top_k,
        min_p=given.get("min_p"),
        repetition_penalty=given.get("repetition_penalty"),
        presence_penalty=given.get("presence_penalty"),
        frequency_penalty=given.get("frequency_penalty"),
        logit_bias=bias,
        seed=given.get("seed"),
        max_tokens=given.get("max_tokens"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=logprobs,
    )


def include_usage(given: Mapping[str, Any], stream: bool) -> bool:
    options = given.get("stream_options")
    if options is not None and not stream:
        raise InvalidRequest("stream_options is for streams: set stream to true, or leave it out", "stream_options")
    return bool(options and options.get("include_usage", False))


def _logprobs(given: Mapping[str, Any]) -> int | None:
    top = given.get("top_logprobs")
    if not given.get("logprobs", False):
        if top:
            raise InvalidRequest("top_logprobs needs logprobs: set it to true", param="top_logprobs")
        return None
    return top or 0


def _grammar(wanted: Mapping[str, Any] | None) -> Grammar | None:
    if wanted is None or wanted["type"] == "text":
        return None
    if wanted["type"] == "json_object":
        return Grammar.json_schema({"type": "object", "additionalProperties": True})
    return Grammar.json_schema(wanted["json_schema"]["schema"])


def check_tool_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """A tool's result follows the message that made the call (or another result of it), and names one of its calls if
    it names any. Messages may still be of any shape here."""
    open_calls: set[str] | None = None
    nameless = False  # some of them have no id
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role == "assistant":
            calls = message.get("tool_calls")
            called = calls if isinstance(calls, list) else []
            ids = [call.get("id") for call in called if isinstance(call, Mapping)]
            named = [one for one in ids if isinstance(one, str)]
            open_calls, nameless = set(named) if called else None, len(called) > len(named)
        elif role != "tool":
            open_calls = None
        elif open_calls is None:
            raise InvalidRequest(
                f"messages[{i}] is the result of a tool, but no call stands in front of it: send the assistant's"
                " message with its tool_calls too",
                param=f"messages[{i}]",
            )
        else:
            answered = message.get("tool_call_id")
            known = isinstance(answered, str) and answered in open_calls
            if answered is not None and not nameless and not known:
                where = f"messages[{i}].tool_call_id"
                raise InvalidRequest(f"{where} is no call of the message in front of it", param=where)


class ChatAnswer:
    """Writes one request's events, as a stream or whole.

    All of a chunk but its delta is the same for a choice, so it is put together once. Deltas of one kind that came
    together make one chunk. The reasoning is sent under both of its names.
    """

    def __init__(self, head: Head, task: ChatTask, token_bytes: TokenBytes) -> None:
        self._head = head
        self._task = task
        self._token_bytes = token_bytes
        self._started = [False] * task.n
        start = orjson.dumps(head.fields("chat.completion.chunk"))[:-1]
        self._before = [b'data: %b,"choices":[{"index":%d,"delta":' % (start, index) for index in range(task.n)]
        usage = b',"usage":null' if task.include_usage else b""
        self._after = b',"logprobs":null,"finish_reason":null}]%b}\n\n' % usage
        self._usage = usage

    def feed(self, events: Sequence[tuple[int, Event]]) -> bytes:
        out: list[bytes] = []
        for (index, kind), group in groupby(events, key=_kind):
            if not self._started[index]:
                self._started[index] = True
                out += (self._before[index], b'{"role":"assistant","content":""}', self._after)
            together = [event for _, event in group]
            if kind is ToolCallDelta or kind is Finished:
                for event in together:
                    out += self._chunk(index, event)
            elif kind is TextDelta or self._task.show_reasoning:
                out += self._text(index, kind, together)
        return b"".join(out)

    def end(self, finished: Sequence[Finished]) -> bytes:
        if not self._task.include_usage:
            return DONE
        usage = usage_of(finished)
        return sse({**self._head.fields("chat.completion.chunk"), "choices": [], "usage": usage}) + DONE

    def whole(self, choices: Sequence[Sequence[Event]]) -> bytes:
        finished = [events[-1] for events in choices]
        return orjson.dumps(
            {
                **self._head.fields("chat.completion"),
                "choices": [self._choice(index, events) for index, events in enumerate(choices)],
                "usage": usage_of([event for event in finished if isinstance(event, Finished)]),
            }
        )

    def _text(self, index: int, kind: type, events: Sequence[Any]) -> tuple[bytes, ...]:
        text = events[0].text if len(events) == 1 else "".join([event.text for event in events])
        data = orjson.dumps(text)
        if kind is TextDelta:
            delta = b'{"content":%b}' % data
        else:
            delta = b'{"reasoning_content":%b,"reasoning":%b}' % (data, data)
        if self._task.params.logprobs is None:
            return self._before[index], delta, self._after
        logprobs = orjson.dumps(self._logprobs([event for event in events if event.logprobs]))
        after = b',"logprobs":%b,"finish_reason":null}]%b}\n\n' % (logprobs, self._usage)
        return self._before[index], delta, after

    def _chunk(self, index: int, event: Event) -> tuple[bytes, ...]:
        if isinstance(event, Finished):
            reason = b',"logprobs":null,"finish_reason":"%b"}]%b}\n\n' % (event.finish_reason.encode(), self._usage)
            return self._before[index], b"{}", reason
        assert isinstance(event, ToolCallDelta)
        call: dict[str, Any] = {"index": event.index}
        function: dict[str, Any] = {"arguments": event.arguments}
        if event.id is not None:
            call |= {"id": event.id, "type": "function"}
            function = {"name": event.name, **function}
        return self._before[index], orjson.dumps({"tool_calls": [{**call, "function": function}]}), self._after

    def _logprobs(self, events: Sequence[Event]) -> dict[str, Any]:
        """OpenAI's ``content``; tokens of the reasoning have a list of their own."""
        content: list[TokenLogprob] = []
        reasoning: list[TokenLogprob] = []
        for event in events:
            if isinstance(event, TextDelta):
                content += event.logprobs or ()
            elif isinstance(event, ThinkingDelta):
                reasoning += event.logprobs or ()
        out: dict[str, Any] = {"content": [logprob_entry(entry, self._token_bytes) for entry in content]}
        if self._task.show_reasoning:
            out["reasoning_content"] = [logprob_entry(entry, self._token_bytes) for entry in reasoning]
        return {**out, "refusal": None}

    def _choice(self, index: int, events: Sequence[Event]) -> dict[str, Any]:
        completion = collect(events)
        message: dict[str, Any] = {"role": "assistant", "content": completion.content, "refusal": None}
        if self._task.show_reasoning and completion.reasoning_content is not None:
            message["reasoning_content"] = message["reasoning"] = completion.reasoning_content
        if completion.tool_calls:
            message["tool_calls"] = [call.to_dict() for call in completion.tool_calls]
        return {
            "index": index,
            "message": message,
            "logprobs": None if self._task.params.logprobs is None else self._logprobs(events),
            "finish_reason": completion.finish_reason,
        }


def _kind(item: tuple[int, Event]) -> tuple[int, type]:
    return item[0], type(item[1])
