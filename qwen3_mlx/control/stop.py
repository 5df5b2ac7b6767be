"""Stop strings, matched on text across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from .markup import Span


class _Needle:
    """One stop string, searched for as text arrives (Knuth, Morris and Pratt): ``matched`` characters of it stand at
    the end of what was fed."""

    __slots__ = ("_back", "matched", "text")

    def __init__(self, text: str) -> None:
        assert text, "an empty stop string matches everywhere"
        self.text = text
        self.matched = 0
        self._back = [0] * len(text)  # how much of the needle still matches after a mismatch behind i characters + 1
        size = 0
        for i in range(1, len(text)):
            while size and text[i] != text[size]:
                size = self._back[size - 1]
            size += text[i] == text[size]
            self._back[i] = size

    def feed(self, text: str) -> int:
        """Where the first match in ``text`` ends, or -1."""
        needle, back, size = self.text, self._back, self.matched
        at = 0
        while True:
            if not size:
                at = text.find(needle[0], at)
                if at < 0:
                    self.matched = 0
                    return -1
            if at == len(text):
                self.matched = size
                return -1
            while size and needle[size] != text[at]:
                size = back[size - 1]
            size += needle[size] == text[at]
            at += 1
            if size == len(needle):
                return at


class StopMatcher:
    """Passes text through until a stop string has come. ``found`` is true from then on.

    The string that is complete first wins; of several that end together, the longest. So the result is the same for
    every way of cutting the text. Text that may be the start of a stop string is held back.
    """

    __slots__ = ("_at", "_held", "_needles", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        self._needles = [_Needle(s) for s in stops]
        self._held = ""
        self._at = 0  # where that stands
        self.found = False

    def feed(self, at: int, text: str) -> Span:
        """What is certain to be no part of a stop string, of the text held back and ``text``, which stands at ``at``.

        When a stop string is complete, that is what stands in front of it.
        """
        assert not self.found
        ends = [(end, -len(n.text)) for n in self._needles if (end := n.feed(text)) >= 0]
        held = len(self._held)
        at -= held
        text = self._held + text
        if ends:
            end, minus_size = min(ends)
            self.found = True
            self._held = ""
            return at, text[: held + end + minus_size]
        cut = len(text) - max(n.matched for n in self._needles)
        self._held = text[cut:]
        self._at = at + cut
        return at, text[:cut]

    def finish(self) -> Span:
        """What is held back, when no more text comes; the matcher starts anew."""
        held, self._held = self._held, ""
        for needle in self._needles:
            needle.matched = 0
        return self._at, held
