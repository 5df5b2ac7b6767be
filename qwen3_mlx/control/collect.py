"""A request's events, gathered into one ``Completion``."""

from __future__ import annotations

from collections.abc import Iterable

from ..types import Completion, Event, Finished, TextDelta, ThinkingDelta, ToolCall
from .tool_json import is_json_object


def collect(events: Iterable[Event]) -> Completion:
    """The whole answer; ``events`` must end with ``Finished``.

    A tool call that was cut off, whose arguments are not a whole JSON object, is left out.
    """
    thinking: list[str] = []
    content: list[str] = []
    calls: dict[int, tuple[str, str, list[str]]] = {}
    for event in events:
        match event:
            case ThinkingDelta():
                thinking.append(event.text)
            case TextDelta():
                content.append(event.text)
            case Finished():
                whole = [(id_, name, "".join(pieces)) for id_, name, pieces in calls.values()]
                return Completion(
                    content="".join(content) or None,
                    reasoning_content="".join(thinking) or None,
                    tool_calls=tuple(ToolCall(*call) for call in whole if is_json_object(call[2])),
                    finish_reason=event.finish_reason,
                    usage=event.usage,
                    timings=event.timings,
                    resume=event.resume,
                )
            case _:
                if event.id is not None:
                    calls[event.index] = (event.id, event.name or "", [])
                calls[event.index][2].append(event.arguments)
    raise AssertionError("the events of a request end with Finished")
