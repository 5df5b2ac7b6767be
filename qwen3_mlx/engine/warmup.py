"""Prompts that are expected, computed while there is nothing else to do.

After an answer the next turn is known but for its message: the template leaves out the thought, so all of the answer
would have to go through the model again before the new message. It goes while the user reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..cache.kv import KVCache
    from .runner import Runner

Expected = Callable[[], Sequence[int]]
"""What is expected to begin the next prompt; called on the engine's thread, when it has time."""

#: Tokens computed at a time: what a request that comes meanwhile waits for.
CHUNK = 128
#: Prompts to remember; older ones are forgotten.
KEPT = 8


class Warmup:
    """The newest expectation first, if ``fits`` has room for that many tokens. Used on the engine's thread."""

    def __init__(self, runner: Runner, fits: Callable[[int], bool] = lambda tokens: True) -> None:
        self._runner = runner
        self._fits = fits
        self._expected: deque[Expected] = deque(maxlen=KEPT)
        self._tokens: Sequence[int] | None = None
        self._cache: KVCache | None = None

    def __bool__(self) -> bool:
        return bool(self._expected)

    def add(self, expected: Expected) -> None:
        self.pause()
        self._tokens = None
        self._expected.append(expected)

    def step(self) -> None:
        """Compute one chunk. A prompt that cannot be had is forgotten: nobody has asked for it."""
        try:
            if self._tokens is None:
                self._tokens = self._expected[-1]()
                if not (self._fits(len(self._tokens)) and self._runner.keeps(len(self._tokens))):
                    self._done()
                    return
            self._cache = self._runner.warm(self._tokens, CHUNK, self._cache)
            over = self._cache.offset == len(self._tokens)
        except Exception:
            self._cache, over = None, True
        if over:
            self.pause()
            self._done()

    def pause(self) -> None:
        """Keep what was computed where requests look for it, and nothing else."""
        if self._cache is not None and self._tokens is not None:
            self._runner.keep(self._tokens[: self._cache.offset], self._cache)
        self._cache = None

    def _done(self) -> None:
        self._expected.pop()
        self._tokens = None
