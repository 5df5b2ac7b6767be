"""One answer as the commands see it: events in; text on a plain stream, a summary line and a Completion out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol, TextIO

from ..control.collect import collect
from ..types import Completion, Event, Finished, TextDelta, ThinkingDelta
from .terminal import dim, visible


class Answer:
    """The events of one request so far. Whole once the last of them is ``Finished``."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, event: Event) -> None:
        self.events.append(event)

    @property
    def finished(self) -> Finished | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Finished) else None

    def completion(self) -> Completion:
        """What there is of the answer; without a ``Finished`` it counts as cancelled."""
        return collect(self.events if self.finished else [*self.events, Finished("cancelled")])

    def summary(self) -> str:
        """Tokens, speed, and every reason why the answer may be shorter than the model wanted, in one line."""
        end = self.finished
        if end is None:
            return "[stopped]"
        usage, timings, reason = end.usage, end.timings, end.finish_reason
        tokens = f"{usage.completion_tokens:,} token{'s' * (usage.completion_tokens != 1)}"
        if usage.reasoning_tokens:
            tokens += f" ({usage.reasoning_tokens:,} thinking)"
        parts = [tokens, f"{timings.decode_tps:,.1f} tok/s", f"first token after {timings.ttft_s:.2f} s"]
        if usage.budget_exhausted:
            parts.append("thinking budget spent")
        if reason != "stop":
            parts.append("cut short at the token limit" if reason == "length" else f"finish reason {reason}")
        return f"[{', '.join(parts)}]"


class View(Protocol):
    """Where the events of one answer are shown."""

    @property
    def answer(self) -> Answer: ...

    def show(self, event: Event) -> None: ...

    def end(self) -> None:
        """Leave the screen tidy, also after an interruption; safe to call again."""


class SilentView:
    """Shows nothing; what it has collected is printed later."""

    def __init__(self) -> None:
        self.answer = Answer()

    def show(self, event: Event) -> None:
        self.answer.add(event)

    def end(self) -> None:
        return


def play(events: Iterator[Event], view: View) -> Answer:
    """Show the events of one answer. Whatever ends it early (Ctrl-C, an error) also ends the generation."""
    try:
        for event in events:
            view.show(event)
    finally:
        view.end()
        close = getattr(events, "close", None)
        if close is not None:
            close()
    return view.answer


class PlainView:
    """Writes events as they come: the answer to ``out``, the thinking, dim, to ``err`` (which may be the same).

    Each whole tool call becomes one line of JSON on ``out``, at the end. Control characters that go to a terminal are
    spelled out; what goes into a pipe or a file is exact, but for a newline after the last line.
    """

    def __init__(self, out: TextIO, err: TextIO, *, hide_thinking: bool = False) -> None:
        self.answer = Answer()
        self.out, self.err, self.hide_thinking = out, err, hide_thinking
        self._thinking_end = ""  # the last two characters of thinking on the screen; empty when none is open
        self._line_open = False

    def show(self, event: Event) -> None:
        self.answer.add(event)
        if isinstance(event, ThinkingDelta):
            if event.text and not self.hide_thinking:
                # Noted first: Ctrl-C may come between the write and the next statement.
                self._thinking_end = (self._thinking_end + event.text)[-2:]
                self._write(event.text, self.err, dimmed=True)
        elif isinstance(event, TextDelta) and event.text:
            self._end_thinking()
            self._line_open = not event.text.endswith("\n")
            self._write(event.text, self.out)
        elif isinstance(event, Finished):
            self.end()
            for call in self.answer.completion().tool_calls:
                summary = {"name": call.name, "arguments": json.loads(call.arguments)}
                self._write(json.dumps(summary, ensure_ascii=False) + "\n", self.out)

    def end(self) -> None:
        """Close open lines, also after an interruption; safe to call again."""
        self._end_thinking()
        if self._line_open:
            self._write("\n", self.out)
            self._line_open = False

    def _end_thinking(self) -> None:
        if self._thinking_end:
            self._write("\n" * (2 - len(self._thinking_end) + len(self._thinking_end.rstrip("\n"))), self.err)
            self._thinking_end = ""

    def _write(self, text: str, stream: TextIO, *, dimmed: bool = False) -> None:
        if stream.isatty():
            text = visible(text)
        stream.write(dim(text, stream) if dimmed else text)
        stream.flush()


def completion_to_json(model: str, completion: Completion, hide_thinking: bool = False) -> str:
    """``model``, then the fields of ``Completion``, on one line; hidden thinking is null."""
    import dataclasses

    fields = dataclasses.asdict(dataclasses.replace(completion, resume=None))
    del fields["resume"]
    fields["tool_calls"] = [call.to_dict() for call in completion.tool_calls]
    if hide_thinking:
        fields["reasoning_content"] = None
    return json.dumps({"model": model, **fields}, ensure_ascii=False)
