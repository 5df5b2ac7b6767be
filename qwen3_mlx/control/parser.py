"""The generated text as pieces of reasoning, answer and tool calls: the parsers in their order, on text alone.

``thinking -> tools -> stop strings -> whitespace``. Nothing here knows of tokens; pieces of text say where in the
generated text they stand, so that the controller can tell which tokens made them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from ..types import Request, ToolCallDelta
from .markup import WHITESPACE, Span, Trimmer
from .stop import StopMatcher
from .thinking import MarkedThinking, State, ThinkingParser
from .tools import ToolParser, new_call_id


class Piece(NamedTuple):
    """Text to show: spans of the generated text, in its order; nothing but markup lies between two of them."""

    kind: Literal["thinking", "text"]
    spans: list[Span]


class OutputParser:
    """Parses the output of one request.

    - Tool calls are looked for if the request has tools; otherwise their markup is text. A ``raw`` request's output is
      all text.
    - Stop strings are matched in the answer's text only: not in reasoning, markup, or the whitespace around tags.
      From ``stopped`` on everything is dropped.
    - Without parallel tool calls the end of the first call stops as well.
    - Where the answer follows a grammar, :meth:`open`, :meth:`close` and :meth:`begin` say which token is a tag and
      which one the answer's first.
    """

    def __init__(self, request: Request, new_id: Callable[[], str] = new_call_id) -> None:
        self.stopped = False
        self._marked = MarkedThinking(request.in_thinking) if request.constrained else None
        self._thinking = self._marked or ThinkingParser(inside=request.in_thinking and not request.raw)
        self._answering = request.raw
        self._tools = ToolParser(request.tools, new_id) if request.tools and not request.raw else None
        self._one_call = not request.parallel_tool_calls
        self._stop = StopMatcher(request.params.stop) if request.params.stop else None
        self._trimmer = Trimmer()  # of whitespace in front of a call
        self._behind_call = False  # no text since a call was announced: what the trimmer holds stands in front of it
        self._at = 0  # where the next text of the answer stands

    @property
    def inside(self) -> bool:
        """Whether the text is inside an open think block now."""
        return self._thinking.inside

    @property
    def undecided(self) -> bool:
        """Whether the open block ends in a ``<tool_call>`` that may open a call."""
        return self._thinking.undecided

    @property
    def call_at(self) -> int | None:
        """Where the ``<tool_call>`` that ended the reasoning stands, if one did."""
        return self._thinking.call_at

    @property
    def calls(self) -> int:
        """The number of calls that are complete."""
        return self._tools.calls if self._tools is not None else 0

    @property
    def behind_thought(self) -> bool:
        """Whether a think block has been closed and no answer has begun."""
        return self._thinking.state is State.CLOSED

    def open(self, text: str) -> list[Piece | ToolCallDelta]:
        """Takes the text of the tag that opens the think block."""
        assert self._marked is not None
        self._marked.open(text)
        return []

    def close(self, text: str) -> list[Piece | ToolCallDelta]:
        """Takes the text of the tag that closes the think block."""
        assert self._marked is not None
        spans = self._marked.close(text)
        return [Piece("thinking", spans)] if spans else []

    def begin(self, calls: bool) -> None:
        """The next text is the answer's first; it consists of ``calls``, or there is none in it."""
        assert self._marked is not None
        self._answering = True
        self._at = self._marked.begin()
        if not calls:
            self._tools = None
        elif self._tools is not None:
            self._tools.start(self._at)

    def forced_close(self) -> None:
        """Says that the think block was closed by force just now."""
        self._thinking.forced_close()

    def passes(self, text: str) -> Literal["thinking", "text"] | None:
        """Takes ``text`` if it can be shown at once as it is, and says as what: nothing is held back in front of it,
        and nothing in it is markup or may become some. ``None``: it has to be fed."""
        thinking, tools = self._thinking, self._tools
        if not text or "<" in text or text[-1] in WHITESPACE or isinstance(thinking, MarkedThinking):
            return None
        if not self._answering:
            if not thinking.clear:
                return None
            thinking.at += len(text)
            return "thinking"
        if self.stopped or self._stop is not None:
            return None
        if tools is not None:
            if self._trimmer.held or not tools.clear:
                return None
            tools.at += len(text)
            self._behind_call = False
        self._at += len(text)
        return "text"

    def feed(self, text: str) -> list[Piece | ToolCallDelta]:
        """What is certain after ``text``."""
        if self._answering:
            at = self._at
            self._at += len(text)
            return self._answer(at, text)
        return self._divide(*self._thinking.feed(text))

    def finish(self) -> list[Piece | ToolCallDelta]:
        """What is held back, when nothing more comes; not whitespace around tags, nor an unfinished call's markup."""
        out: list[Piece | ToolCallDelta] = []
        if not self._answering:
            out = self._divide(*self._thinking.finish())
        if self.stopped:
            return out
        if self._tools is not None:
            if (held := self._tools.finish()) is not None:
                self._show(held, out)
            self._behind_call |= self._tools.in_call
        if not self.stopped:
            self._end_text(out)
        return out

    def _divide(self, reasoning: list[Span], answer: Span | None) -> list[Piece | ToolCallDelta]:
        out: list[Piece | ToolCallDelta] = [Piece("thinking", reasoning)] if reasoning else []
        if answer is not None:
            at, text = answer
            self._answering = True
            self._at = at + len(text)
            if self._tools is not None:
                self._tools.start(at)
            out += self._answer(at, text)
        return out

    def _answer(self, at: int, text: str) -> list[Piece | ToolCallDelta]:
        out: list[Piece | ToolCallDelta] = []
        if self.stopped:
            return out
        if self._tools is None:
            self._show((at, text), out)
            return out
        for item in self._tools.feed(text):
            if not isinstance(item, ToolCallDelta):
                if self._called:
                    break
                self._show(item, out)
                if self.stopped:
                    break
                continue
            if item.id is not None:
                if self._called and item.index:
                    break
                self._flush_stops(out)
                self._behind_call = True
            out.append(item)
        self.stopped |= self._called
        return out

    @property
    def _called(self) -> bool:
        """Whether the only call there may be is over."""
        return self._one_call and self._tools is not None and self._tools.finished > 0

    def _show(self, span: Span, out: list[Piece | ToolCallDelta]) -> None:
        if self._stop is not None:
            span = self._stop.feed(*span)
            self.stopped = self._stop.found
        self._trim(span, out)
        if self.stopped:
            self._end_text(out)

    def _trim(self, span: Span, out: list[Piece | ToolCallDelta]) -> None:
        if not span[1]:
            return
        spans = [span] if self._tools is None else self._trimmer.feed(*span)
        if spans:
            self._behind_call = False
            out.append(Piece("text", spans))

    def _flush_stops(self, out: list[Piece | ToolCallDelta]) -> None:
        if self._stop is not None and not self.stopped:
            self._trim(self._stop.finish(), out)

    def _end_text(self, out: list[Piece | ToolCallDelta]) -> None:
        self._flush_stops(out)
        spans = self._trimmer.finish()
        if spans and not self._behind_call:
            out.append(Piece("text", spans))
