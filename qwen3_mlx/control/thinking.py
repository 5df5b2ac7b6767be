"""Telling reasoning from answer in the generated text, as it arrives.

The rules:

- A block opens with ``<think>`` at the very start of the text (whitespace aside). Any other text before it makes the
  tag literal. When the prompt ended inside a block, the text starts inside it; a ``<think>`` repeated there is dropped.
- A block closes with ``</think>``, or with the ``<tool_call>`` of a call (see ``markup.TagScanner``), which belongs to
  the answer. A block that is never closed is all reasoning.
- Whitespace after ``<think>`` and around ``</think>`` is markup. Untagged text is left as it is.
- A second ``</think>`` is text of the answer, except as the first thing after a forced close, where it is dropped.
- Tags are matched as text, so those spelled by ordinary tokens count as well, split anywhere. ``<thinking>`` and
  ``</thing>`` are no tags.
"""

from __future__ import annotations

from enum import Enum

from .markup import CALL_OPEN, THINK_CLOSE, THINK_OPEN, WHITESPACE, Span, TagScanner, Trimmer


class State(Enum):
    BEFORE = "before"  # nothing but whitespace so far: a block may open
    OPENED = "opened"  # only whitespace since the block opened
    INSIDE = "inside"
    CLOSED = "closed"  # only whitespace since the block closed
    ANSWER = "answer"


class ThinkingParser:
    """Splits generated text into reasoning and answer.

    ``inside``: the text is in an open block now. ``call_at``: where the ``<tool_call>`` that ended the reasoning
    stands, if one did. Once an answer has been handed out, all further text is answer, and must not be fed here.
    """

    __slots__ = ("_head", "_held", "_scanner", "_space", "_trimmer", "at", "call_at", "inside", "state")

    def __init__(self, inside: bool) -> None:
        self.state = State.OPENED if inside else State.BEFORE
        self.inside = inside
        self.call_at: int | None = None
        self.at = 0  # where the first character that is not decided yet stands
        self._head: str | None = THINK_OPEN  # a tag that is taken off the start of what comes
        self._space: list[str] = []  # whitespace in front of it
        self._held = ""  # the beginning of it
        self._scanner = TagScanner(thinking=True)
        self._trimmer = Trimmer()

    @property
    def clear(self) -> bool:
        """Whether text without markup is reasoning, none of which is held."""
        scanner = self._scanner
        return self.state is State.INSIDE and not (self._trimmer.held or scanner.held or scanner.gap is not None)

    @property
    def undecided(self) -> bool:
        """Whether the reasoning ends, as it stands, in a ``<tool_call>`` that may open a call."""
        return self._scanner.undecided

    def feed(self, text: str) -> tuple[list[Span], Span | None]:
        """The reasoning in ``text``, and the answer that begins in it, if one does."""
        assert self.state is not State.ANSWER
        reasoning: list[Span] = []
        while True:
            if self.state is not State.INSIDE:
                rest = self._match_head(text)
                if rest is None:
                    return reasoning, None
                text = rest
                if self.state is State.ANSWER:
                    return reasoning, self._answer(text)
                continue
            body, mark, rest = self._scanner.feed(text)
            if body:
                reasoning += self._trimmer.feed(self.at, body)
                self.at += len(body)
            if mark is None:
                return reasoning, None
            self._trimmer.drop()
            if mark == "call":
                self.call_at = self.at
                return reasoning, self._answer(CALL_OPEN + rest)
            self.at += len(THINK_CLOSE)
            self._enter(State.CLOSED, None)
            text = rest

    def forced_close(self) -> None:
        """To be called after a forced close: the model may still write its own."""
        assert self.state is State.CLOSED
        self._head = THINK_CLOSE

    def finish(self) -> tuple[list[Span], Span | None]:
        """What is held, when nothing more comes."""
        if self.state is State.INSIDE:
            held = self._scanner.finish()
            spans = self._trimmer.feed(self.at, held) if held else []
            return spans + self._trimmer.finish(), None
        if self.state is State.OPENED:
            return [(self.at, self._held)] if self._held else [], None
        space = "".join(self._space) if self.state is State.BEFORE else ""
        held = space + self._held
        return [], self._answer(held) if held else None

    def _answer(self, text: str) -> Span:
        self.state = State.ANSWER
        self.inside = False
        return self.at, text

    def _enter(self, state: State, head: str | None) -> None:
        self.state = state
        self.inside = state in (State.OPENED, State.INSIDE)
        self._head = head
        self._space = []
        self._held = ""

    def _match_head(self, text: str) -> str | None:
        """Takes whitespace, then the tag that may stand here; ``None`` while that is open, else what follows."""
        text = self._held + text
        body = text.lstrip(WHITESPACE)
        if space := len(text) - len(body):
            self._space.append(text[:space])
            if self.state is not State.BEFORE:
                self.at += space
        head = self._head
        if head is not None and body.startswith(head):
            self.at += len(head) + (sum(map(len, self._space)) if self.state is State.BEFORE else 0)
            self._enter(State.OPENED if self.state is State.BEFORE else self.state, None)
            return body[len(head) :]
        if not body or (head is not None and head.startswith(body)):
            self._held = body
            return None
        if self.state is State.OPENED:
            self._enter(State.INSIDE, None)
        elif self.state is State.CLOSED:
            self._enter(State.ANSWER, None)
        else:
            body = "".join(self._space) + body
            self._enter(State.ANSWER, None)
        return body


class MarkedThinking:
    """The same where an answer follows a grammar: only the control tokens are tags, and whoever sees tokens says where
    they stand. Text that spells one is text, for the grammar begins with the token behind the tag.

    What is fed behind the close is markup until :meth:`begin`.
    """

    __slots__ = ("_trimmer", "at", "state")

    undecided = False
    call_at: int | None = None

    def __init__(self, inside: bool) -> None:
        self.state = State.OPENED if inside else State.BEFORE
        self.at = 0  # where the next text stands
        self._trimmer = Trimmer()

    @property
    def inside(self) -> bool:
        return self.state in (State.OPENED, State.INSIDE)

    def open(self, text: str) -> None:
        """Takes the tag's text."""
        assert self.state is State.BEFORE
        self.at += len(text)
        self.state = State.OPENED

    def close(self, text: str) -> list[Span]:
        """Takes the tag's text, which may have the rest of a broken character in front; the reasoning in it."""
        assert self.inside
        reasoning, _ = self.feed(text.removesuffix(THINK_CLOSE))
        self.at += len(THINK_CLOSE)
        self._trimmer.drop()
        self.state = State.CLOSED
        return reasoning

    def begin(self) -> int:
        """The answer begins; where it stands."""
        assert not self.inside
        self.state = State.ANSWER
        return self.at

    def forced_close(self) -> None:
        assert self.state is State.CLOSED

    def feed(self, text: str) -> tuple[list[Span], Span | None]:
        at = self.at
        self.at += len(text)
        if self.state is State.OPENED:
            body = text.lstrip(WHITESPACE)
            at += len(text) - len(body)
            text = body
            if body:
                self.state = State.INSIDE
        if not text or not self.inside:
            return [], None
        return self._trimmer.feed(at, text), None

    def finish(self) -> tuple[list[Span], Span | None]:
        return self._trimmer.finish(), None
