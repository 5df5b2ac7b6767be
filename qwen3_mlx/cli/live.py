"""Live Markdown for a terminal: finished blocks are printed for good, the block being written is redrawn in place."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from ..types import Event, Finished, TextDelta
from .answer import Answer, PlainView
from .terminal import visible

REFRESH = 10  # redraws a second
PLAIN_FROM = 8_000  # a block of that many characters is shown as plain text until it is whole: redrawing stays cheap
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
# A line that is not indented, and neither the next item of a list nor the beginning of one that is still being written.
_STARTS_BLOCK = re.compile(r"(?![-*+](\s|$)|\d{1,9}([.)]\s|[.)]?$))\S")


class LiveView:
    """A terminal's view of one answer: thinking dim and plain above, the answer as Markdown below it."""

    def __init__(self, *, hide_thinking: bool = False) -> None:
        self._plain = PlainView(sys.stdout, sys.stdout, hide_thinking=hide_thinking)
        self._console = Console(file=sys.stdout)
        self._live: Live | None = None
        self._block = _Block()

    @property
    def answer(self) -> Answer:
        return self._plain.answer

    def show(self, event: Event) -> None:
        if not isinstance(event, TextDelta):
            if isinstance(event, Finished):
                self.end()
            self._plain.show(event)
            return
        self.answer.add(event)
        if not event.text:
            return
        self._plain.end()
        self._block.text += visible(event.text)
        if self._live is None:
            self._live = Live(self._block, console=self._console, refresh_per_second=REFRESH, transient=True)
            self._live.start()
        recent = self._block.text[-len(event.text) - 8 :]
        if "\n" in recent:
            done, self._block.text = split_blocks(self._block.text)
            if done:
                self._console.print(_Block(done, whole=True), end="")
                self._console.print()

    def end(self) -> None:
        self._plain.end()
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print(_Block(self._block.text, whole=True), end="")
            self._block.text = ""


def split_blocks(text: str) -> tuple[str, str]:
    """Markdown text as (blocks that nothing to come can change, the rest). Lists and fenced code stay whole."""
    fence = ""
    blank = False
    position = cut = 0
    for line in text.splitlines(keepends=True):
        opening = _FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not line.strip(" `~\n"):
                fence = ""
        else:
            if blank and _STARTS_BLOCK.match(line):
                cut = position
            if opening:
                fence = opening[1]
        blank = not fence and not line.strip()
        position += len(line)
    return text[:cut].rstrip(), text[cut:]


class _Block:
    """Markdown without the blank lines around it. While it is being written only its last screenful is shown."""

    def __init__(self, text: str = "", *, whole: bool = False) -> None:
        self.text, self.whole = text, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        # Two columns stay free: a terminal echoes ^C there, and a wrapped line would upset the redrawing.
        options = options.update_width(max(options.max_width - 2, 10))
        if len(self.text) > PLAIN_FROM and not self.whole:
            shown: RenderableType = Text(self.text[-PLAIN_FROM // 2 :])
        else:
            # Hyperlinks off: a link's address is the model's word, and the user should read it.
            shown = Markdown(self.text, hyperlinks=False)
        lines = [_stripped(line) for line in console.render_lines(shown, options, pad=False)]
        while lines and not lines[0]:
            del lines[0]
        while lines and not lines[-1]:
            del lines[-1]
        for line in lines if self.whole else lines[-max(console.height - 2, 1) :]:
            yield from line
            yield Segment.line()


def _stripped(line: list[Segment]) -> list[Segment]:
    """A line without trailing padding (but with that of a coloured box)."""
    while line and not line[-1].text.strip() and not (line[-1].style and line[-1].style.bgcolor):
        line = line[:-1]
    if line and not (line[-1].style and line[-1].style.bgcolor):
        line = [*line[:-1], Segment(line[-1].text.rstrip(), line[-1].style, line[-1].control)]
    return line
