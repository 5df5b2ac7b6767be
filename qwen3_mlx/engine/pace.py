"""How long forward passes take, learned from those that were run. Pure: moments come in as numbers.

A pass over ``n`` tokens behind ``d`` others is ``n * (1 + (d + n / 2) / half)`` work: each token costs the same for the
weights, and attention as much again at a depth of ``half``. The rate (work per second) is an average over the last
passes, each weighing as much as it worked. A forecast adds the largest share by which a pass took longer than that
rate had it, at most once again, which fades slowly: processors change their speed at once and for seconds, by half or
more, and an average of being late knows little of it when they do. Smaller passes cost little, so caution is cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

KEPT = 0.8  # of what was known, when another pass is learned from
FADES = 0.995  # what is left of the largest lateness a pass later
UNSEEN = 0.5  # the lateness to expect before any was seen
FEW = 1.5  # steps that a pass of a few tokens takes at most, where it takes what a step takes


@dataclass(eq=False, slots=True)
class Pace:
    """``half``: the depth, in tokens, at which attention costs as much as everything else of a pass; infinite where it
    never does. ``step_s``: seconds of a step, the one token of each row that decodes."""

    half: float = math.inf
    step_s: float = 0.0
    _work: float = 0.0
    _seconds: float = 0.0
    _late: float = UNSEEN
    _since: float = 0.0
    _fed: list[tuple[int, int]] = field(default_factory=list)
    _stepping: bool = False

    @property
    def rate(self) -> float:
        """Work per second of prefill, tokens at the start of a prompt; 0 before anything is known."""
        return self._work / self._seconds if self._seconds else 0.0

    def seconds(self, count: int, depth: int) -> float:
        """A cautious forecast for ``count`` tokens behind ``depth`` others. A pass reads all weights, as a step does,
        however few its tokens are. Infinite before anything is known."""
        if not self._work:
            return math.inf
        return max(self.step_s, self._forecast(self.work(count, depth)))

    def tokens(self, seconds: float, depth: int) -> int:
        """How many tokens behind ``depth`` others fit into ``seconds`` by that forecast; 0 before anything is known."""
        if seconds < self.step_s or not self._work:
            return 0
        work = seconds * self.rate / (1 + self._late)
        if math.isinf(self.half):
            return int(work)
        near = 1 + depth / self.half
        return int(self.half * (math.sqrt(near * near + 2 * work / self.half) - near))

    def work(self, count: int, depth: int) -> float:
        """What ``count`` tokens behind ``depth`` others take, in tokens at the start of a prompt."""
        return count * (1 + (depth + count / 2) / self.half)

    # -- what is run ---------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The device has had nothing to do until now."""
        self._since, self._stepping = now, False
        self._fed.clear()

    def fed(self, count: int, depth: int) -> None:
        """Tokens of a prompt were handed to the device."""
        self._fed.append((count, depth))

    def stepped(self) -> None:
        """So was a step."""
        self._stepping = True

    def done(self, now: float) -> None:
        """The device is through with all that it was given."""
        took, self._since = now - self._since, now
        fed, self._fed = self._fed, []
        stepping, self._stepping = self._stepping, False
        if not fed:
            if stepping:
                self.step_s = KEPT * self.step_s + (1 - KEPT) * took if self.step_s else took
            return
        took -= self.step_s if stepping else 0.0
        if took > 0:
            self._learn(sum(self.work(*piece) for piece in fed), took)

    def _learn(self, work: float, took: float) -> None:
        if self._work and work < self.rate * took and took <= FEW * self.step_s:
            return  # what it took is the reading of the weights: more tokens would not have taken longer
        if self._work:
            self._late = max(FADES * self._late, min(took * self.rate / work - 1, 1.0))
        self._work = KEPT * self._work + work
        self._seconds = KEPT * self._seconds + took

    def _forecast(self, work: float) -> float:
        return work / self.rate * (1 + self._late)
