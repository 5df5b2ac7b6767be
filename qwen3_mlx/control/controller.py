"""What one request's next token means: events to send, tokens to force, or the end. Pure; decides per token.

Tokens and deltas: a token belongs to the delta that shows the first of its characters that is shown; a token that holds
only a part of a character belongs to the delta that shows the character. So every token of which anything is shown is
in exactly one delta, in order, and no text is shown before its token. Tokens of markup alone (tags, the whitespace
around them, tool calls) are in none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ..types import (
    Event,
    FinishReason,
    Request,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from ..values import frozen
from .budget import BEHIND_CLOSE, EARLY_STOP, OPENING_NEWLINE, Budget
from .grammar import TokenTable, follow, with_token
from .markup import THINK_OPEN, Span
from .parser import OutputParser, Piece
from .tools import new_call_id


class Detokenizer(Protocol):
    """Turns tokens into text, one at a time."""

    @property
    def pending(self) -> bool:
        """Whether the tokens so far end in an incomplete character."""

    def push(self, token: int, /) -> str:
        """The text that ``token`` completes; empty while its character is incomplete."""

    def finish(self) -> str:
        """What is left of an incomplete character, as U+FFFD."""


class Vocabulary(TokenTable, Protocol):
    """What the controller needs of a tokenizer."""

    def detokenizer(self) -> Detokenizer: ...


@frozen
class Emit:
    """Go on; ``events`` may be empty."""

    events: tuple[Event, ...] = ()


@frozen
class Force:
    """Feed ``tokens`` through the model, then sample on. They are counted, and their text is in ``events``, already."""

    tokens: tuple[int, ...]
    events: tuple[Event, ...] = ()


@frozen
class Stop:
    """The request is over; ``events`` holds everything that was held back."""

    reason: FinishReason
    events: tuple[Event, ...] = ()


_NOTHING = Emit()
_DELTAS: dict[str, type[ThinkingDelta] | type[TextDelta]] = {"thinking": ThinkingDelta, "text": TextDelta}

#: Tokens that a grammar leaves no choice in are fed without being drawn if there are so many in a row: fewer are drawn,
#: each from a mask that allows nothing else, which is less work than to take the row out of its batch. The text is the
#: same either way.
SHORTEST_LEAP = 3


class Controller:
    """Follows one request from its first token to its last.

    ``start()`` first, then ``step()`` for every sampled token until it returns ``Stop``; ``finish()`` where something
    else ends the request. ``new_id`` makes the ids of tool calls.

    An eos token, which is counted but never shown, ends a request, and so does a stop string: with ``stop``, or with
    ``tool_calls`` if a call was made. ``max_tokens`` ends it with ``length``.

    Where the answer follows a grammar, each token must be one that :meth:`mask` allows. The grammar begins behind the
    thought: behind the tag that closes it and the newlines that Qwen3 writes there, which are forced. It ends the
    request when nothing can follow.
    """

    def __init__(self, request: Request, vocabulary: Vocabulary, new_id: Callable[[], str] = new_call_id) -> None:
        self._request = request
        self._vocabulary = vocabulary
        self._eos = vocabulary.eos_ids
        self._detokenizer = vocabulary.detokenizer()
        self._parser = OutputParser(request, new_id)
        self._budget = Budget(request.thinking_budget, request.params.max_tokens, request.max_completion_tokens)
        self._position = 0  # characters generated
        self._unclaimed: deque[tuple[int, int, int, TokenLogprob | None]] = deque()  # start, end, id, logprob
        self._inside = self._parser.inside
        self._over = False
        self._grammar = follow(request, vocabulary) if request.constrained else None
        #: Whether the next token cannot be drawn before :meth:`mask` is known, which depends on all those before.
        self.constrained = self._grammar is not None
        self._answering = False  # under the grammar, from the next token on
        self._begun = False  # a token of the answer has come
        if self._inside:
            tag = vocabulary.control.think_open
            self._budget.opened(newline_due=tag is not None and request.prompt[-1:] == (tag,))

    def start(self) -> Emit | Force | Stop:
        """To be called before the first token is sampled."""
        if self._inside and self._budget.must_close(lambda: False):
            return self._force([])
        # A thought may come before the answer, unless the prompt has an empty one.
        return _NOTHING if self._inside or self._grammar is None or self._request.thinking else self._lead([], [])

    def echo(self, scores: Sequence[TokenLogprob]) -> TextDelta:
        """The prompt as an event. ``scores``: those of its tokens but the first, or none."""
        prompt = self._request.prompt
        text = b"".join(map(self._vocabulary.token_bytes, prompt)).decode("utf-8", "replace")
        logprobs = (TokenLogprob(prompt[0], math.nan), *scores) if self._request.scored else None
        return TextDelta(text, prompt, logprobs)

    def mask(self) -> bytes | None:
        """The tokens that may come next (see ``Follower``); ``None``: any."""
        grammar = self._grammar
        if grammar is None:
            return None
        if self._inside:
            return grammar.thought
        may_think = not self._answering and self._request.thinking
        return with_token(grammar.mask(), self._vocabulary.control.think_open if may_think else None)

    def step(self, token: int, logprob: TokenLogprob | None = None) -> Emit | Force | Stop:
        """Takes the token that was sampled (with its logprob, if the request wants them). Raises EngineError for one
        that does not fit the grammar."""
        assert not self._over, "the request is over"
        budget = self._budget
        budget.completion += 1
        if token in self._eos:
            return self._stop("stop", [])
        events = self._take(token, logprob)
        if self._parser.stopped:
            return self._stop("stop", events)
        if self._inside and budget.limit is not None and budget.must_close(self._unfinished):
            return self._force(events)
        if self._grammar is not None and not self._inside:
            return self._lead([], events)
        if budget.used_up:
            return self._stop("length", events)
        return Emit(tuple(events)) if events else _NOTHING

    def _unfinished(self) -> bool:
        """Whether the thought ends, as it stands, in what should not be cut apart."""
        return self._detokenizer.pending or self._parser.undecided

    def finish(self, reason: FinishReason) -> tuple[Event, ...]:
        """Ends the request from outside (cancelled, context full): what was held back. Empty after a ``Stop``."""
        if self._over:
            return ()
        return self._stop(reason, []).events

    def usage(self, prompt_tokens: int, cached_tokens: int) -> Usage:
        budget = self._budget
        return Usage(prompt_tokens, cached_tokens, budget.completion, budget.reasoning, budget.exhausted)

    def _stop(self, reason: FinishReason, events: list[Event]) -> Stop:
        self._over = True
        parser = self._parser
        if not parser.stopped:
            if rest := self._detokenizer.finish():
                events += self._events(parser.feed(rest))
            events += self._events(parser.finish())
            if parser.stopped and reason == "length":  # a stop string in text that was held back
                reason = "stop"
        if reason == "stop" and parser.calls:
            reason = "tool_calls"
        return Stop(reason, tuple(events))

    def _force(self, events: list[Event]) -> Emit | Force | Stop:
        budget = self._budget
        encode = self._vocabulary.encode
        tokens = [*encode(OPENING_NEWLINE)] if budget.newline_due else []
        tokens += encode(EARLY_STOP)
        if budget.total is not None and budget.completion + len(tokens) > budget.total:
            return self._stop("length", events)
        budget.exhausted = True
        budget.completion += len(tokens)
        budget.reasoning += len(tokens)
        pieces: list[Piece | ToolCallDelta] = []
        for token in tokens:
            pieces += self._parse(self._detokenizer.push(token), token, None)
        events += self._events(pieces)
        self._parser.forced_close()
        self._inside = False
        if self._grammar is not None:
            return self._lead(tokens, events)
        return Force(tuple(tokens), tuple(events))

    def _lead(self, tokens: list[int], events: list[Event]) -> Emit | Force | Stop:
        """Goes on outside of a thought, behind ``tokens`` that are forced, with those that leave no choice."""
        grammar, budget = self._grammar, self._budget
        assert grammar is not None
        leap: list[int] = []
        if not (self._answering or tokens) and self._parser.behind_thought:
            leap += self._vocabulary.encode(BEHIND_CLOSE)
            events += self._put(leap)
        self._answering = True
        ahead = list(grammar.forced)
        if self._request.params.logprobs is None and len(tokens) + len(leap) + len(ahead) >= SHORTEST_LEAP:
            leap += ahead
            events += self._put(ahead)
        if self._parser.stopped or grammar.done:
            return self._stop("stop", events)
        if budget.used_up:
            return self._stop("length", events)
        if tokens or leap:
            return Force((*tokens, *leap), tuple(events))
        return Emit(tuple(events)) if events else _NOTHING

    def _put(self, tokens: Sequence[int]) -> list[Event]:
        """Takes tokens of the answer that are forced, up to where it ends."""
        events: list[Event] = []
        for token in tokens:
            if self._parser.stopped or self._budget.used_up:
                break
            self._budget.completion += 1
            events += self._take(token, None)
        return events

    def _take(self, token: int, logprob: TokenLogprob | None) -> list[Event]:
        """Parses and counts a sampled token."""
        detokenizer, parser, budget = self._detokenizer, self._parser, self._budget
        text = detokenizer.push(token)
        if not (self._unclaimed or detokenizer.pending or self.constrained) and (kind := parser.passes(text)):
            self._position += len(text)
            if self._inside:
                budget.count_thinking(text)
            else:
                budget.answer += 1
            return [_DELTAS[kind](text, (token,), None if logprob is None else (logprob,))]
        pieces = self._parse(text, token, logprob)
        if self._begun and self._grammar is not None:
            self._grammar.accept(token)
        inside = parser.inside
        if self._inside:
            budget.count_thinking(text)
            if not inside and parser.call_at is not None:
                budget.moved(sum(start >= parser.call_at for start, *_ in self._unclaimed))
        elif inside:
            budget.opened(newline_due=text.endswith(THINK_OPEN[-1]))
        else:
            budget.answer += 1
        self._inside = inside
        return self._events(pieces) if pieces else []

    def _parse(self, text: str, token: int, logprob: TokenLogprob | None) -> list[Piece | ToolCallDelta]:
        start = self._position
        end = self._position = start + len(text)
        pending = self._detokenizer.pending
        if text or pending:  # an incomplete character will be the next one
            self._unclaimed.append((start, end + pending, token, logprob))
        if self._grammar is not None and (marked := self._mark(text, token)) is not None:
            return marked
        return self._parser.feed(text) if text else []

    def _mark(self, text: str, token: int) -> list[Piece | ToolCallDelta] | None:
        """Tells the parser of a tag, or of the answer's first token; the pieces of a tag's text."""
        parser, control = self._parser, self._vocabulary.control
        if self._begun:
            return None
        if parser.inside:
            return parser.close(text) if token == control.think_close else None
        if not self._answering and parser.behind_thought:
            return None
        if not self._answering and self._request.thinking and token == control.think_open:
            return parser.open(text)
        self._answering = self._begun = True
        parser.begin(calls=token == control.tool_call_open)
        return None

    def _events(self, pieces: list[Piece | ToolCallDelta]) -> list[Event]:
        events: list[Event] = []
        kind: str = ""
        spans: list[Span] = []
        for piece in pieces:
            if isinstance(piece, ToolCallDelta):
                if spans:
                    events.append(self._delta(kind, spans))
                    spans = []
                events.append(piece)
                continue
            if spans and piece.kind != kind:
                events.append(self._delta(kind, spans))
                spans = []
            kind = piece.kind
            spans += piece.spans
        if spans:
            events.append(self._delta(kind, spans))
        return events

    def _delta(self, kind: str, spans: list[Span]) -> Event:
        unclaimed = self._unclaimed
        tokens: list[int] = []
        logprobs: list[TokenLogprob] = []
        for at, text in spans:
            behind = at + len(text)
            while unclaimed and unclaimed[0][0] < behind:
                _, end, token, logprob = unclaimed.popleft()
                if end > at:
                    tokens.append(token)
                    if logprob is not None:
                        logprobs.append(logprob)
        text = spans[0][1] if len(spans) == 1 else "".join([text for _, text in spans])
        return _DELTAS[kind](text, tuple(tokens), tuple(logprobs) or None)
