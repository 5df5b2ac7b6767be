"""Counting tokens: when thinking has used up its budget, and the answer its maximum."""

from __future__ import annotations

from collections.abc import Callable

# The early-stop sentence of Qwen3's technical report ("thinking budget"), with the tag that closes the block.
EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
# What the model writes between a thought and its answer.
BEHIND_CLOSE = "\n\n"
# What the model writes behind the tag of a block; a close that is forced before that has come brings it along.
OPENING_NEWLINE = "\n"
# How many tokens thinking may run over to finish a character, or to show whether a <tool_call> opens a call.
GRACE = 3


class Budget:
    """The token counts of one request.

    Each generated token is one of: opening (the ``<think>`` tag and the newline behind it), reasoning (everything
    behind that up to and including the closing tag, and all forced tokens), or answer (all others). An eos token is
    counted in ``completion`` only.

    With a thinking budget, ``max_tokens`` bounds the answer; without one it bounds everything, as ``total``
    always does.
    """

    __slots__ = (
        *("_newline_due", "_spent", "answer", "completion", "exhausted", "limit", "max_tokens", "reasoning"),
        "total",
    )

    def __init__(self, limit: int | None, max_tokens: int | None, total: int | None = None) -> None:
        assert limit is None or limit >= 0
        self.limit = limit
        self.max_tokens = max_tokens
        self.total = total
        self.completion = 0
        self.reasoning = 0
        self.answer = 0
        self.exhausted = False  # a close was forced
        self._spent = 0  # of the thinking budget
        self._newline_due = False

    @property
    def newline_due(self) -> bool:
        """Whether the block has only just opened, and its newline has not come."""
        return self._newline_due

    def opened(self, newline_due: bool) -> None:
        """A think block has opened: what was generated so far was its opening."""
        self.answer = 0
        self._newline_due = newline_due

    def count_thinking(self, text: str) -> None:
        """A token inside the block; ``text`` is what it added to the text."""
        newline_due, self._newline_due = self._newline_due, False
        if newline_due and text.startswith(OPENING_NEWLINE) and text.isspace():
            return
        self._spent += 1
        self.reasoning += 1

    def moved(self, tokens: int) -> None:
        """The last ``tokens`` tokens, counted as thinking, turn out to belong to the answer."""
        self.reasoning -= tokens
        self.answer += tokens

    def must_close(self, unfinished: Callable[[], bool]) -> bool:
        """Whether an open block has to be closed now; ``unfinished``: whether something at its end should not be cut
        apart, asked only where that matters."""
        if self.limit is None or self._spent < self.limit:
            return False
        return self._spent >= self.limit + GRACE or not unfinished()

    @property
    def used_up(self) -> bool:
        """Whether ``max_tokens``, or the bound of everything, is reached."""
        if self.total is not None and self.completion >= self.total:
            return True
        if self.max_tokens is None:
            return False
        return (self.completion if self.limit is None else self.answer) >= self.max_tokens
