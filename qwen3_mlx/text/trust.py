"""What a user or a tool wrote must never become a control token.

Before rendering, the characters that could begin a control token (``<``) are replaced, in untrusted text, by stand-ins
that occur nowhere in the conversation; the template moves them around like any other character. In the rendered text
every control token that can still be read was therefore written by the template or by trusted text. The text is cut
there, the stand-ins are turned back, and what lies between is encoded without control tokens.

Trusted: the template, system and assistant messages. Untrusted: user messages, tool results, tool schemas. The one
exception is a user message that is a ``<tool_response>…</tool_response>`` wrapper as a whole: its outer tags count,
for templates treat such a message as a tool's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from .messages import CLOSE_RESULT, OPEN_RESULT, is_tool_result
from .tokenizer import Tokenizer

# Braille: symbols that no string operation changes (no case, no composition, no space) and that Python prints as they
# are, so that even a list printed by a template can be turned back. Whatever is in the conversation is not used.
_CANDIDATES = tuple(map(chr, range(0x28FF, 0x2800, -1)))


class Controls:
    """How control tokens can begin. ``names`` are their texts; the default is what Qwen3's all begin with."""

    def __init__(self, names: Iterable[str] = ("<",)) -> None:
        words = sorted((name for name in names if name[0].isalnum() or name[0].isspace()), key=len, reverse=True)
        self.starts = "".join(sorted({name[0] for name in names if name not in words}))
        self.word_starts = "".join(sorted({name[0] for name in words} - set(self.starts)))
        self.words = re.compile("|".join(map(re.escape, words))) if words else None

    def could_begin(self, text: str) -> bool:
        return any(start in text for start in self.starts) or bool(self.words and self.words.search(text))


class Marks:
    """The stand-ins for one conversation, made of ``texts``; ``mark`` and ``unmark`` undo each other."""

    def __init__(self, controls: Controls, texts: list[str]) -> None:
        free = _unused(texts)
        self._words = controls.words
        self._starts = [(start, next(free)) for start in controls.starts]
        self._word_starts = {start: next(free) for start in controls.word_starts}
        self._back = [(stand_in, start) for start, stand_in in (*self._starts, *self._word_starts.items())]
        self.stand_ins = "".join(stand_in for stand_in, _ in self._back)

    def mark(self, value: Any) -> Any:
        """A JSON value with every string in it marked, keys included."""
        if isinstance(value, str):
            for start, stand_in in self._starts:
                value = value.replace(start, stand_in)
            if self._words is not None:
                value = self._words.sub(self._mark_word, value)
            return value
        if isinstance(value, dict):
            return {self.mark(key): self.mark(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mark(item) for item in value]
        return value

    def _mark_word(self, match: re.Match[str]) -> str:
        word = match.group()
        return self._word_starts.get(word[0], word[0]) + word[1:]

    def unmark(self, text: str) -> str:
        for stand_in, start in self._back:
            text = text.replace(stand_in, start)
        return text

    def marked(self, text: str) -> bool:
        return any(stand_in in text for stand_in in self.stand_ins)

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message with what is untrusted in it marked."""
        if message["role"] in ("system", "assistant"):
            return message
        content = message["content"]
        marked = {key: item if key == "role" else self.mark(item) for key, item in message.items()}
        if message["role"] == "user" and is_tool_result(content):
            inner = content[len(OPEN_RESULT) : -len(CLOSE_RESULT)]
            marked["content"] = OPEN_RESULT + self.mark(inner) + CLOSE_RESULT
        return marked


def _unused(texts: list[str]) -> Iterator[str]:
    """Characters that no text has. The first few are looked for one by one, which is quick; somebody who sends those
    gets a search over all of Unicode, which still costs time in proportion to the texts only.
    """
    for candidate in _CANDIDATES[:4]:
        if not any(candidate in text for text in texts):
            yield candidate
    taken = set(_CANDIDATES[:4]).union(*texts)
    yield from (candidate for candidate in _CANDIDATES if candidate not in taken)
    yield from (chr(code) for code in range(0xE000, 0x110000) if chr(code) not in taken)


def encode_marked(text: str, marks: Marks | None, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a rendered text: control tokens where it can be read that one stands, plain text elsewhere."""
    if marks is None or not marks.marked(text):
        return tokenizer.encode(text)
    pieces = list(tokenizer.split(text))
    plain = iter(tokenizer.encode_all([marks.unmark(p) for p, control in pieces if control is None], trusted=False))
    ids: list[int] = []
    for _, control in pieces:
        if control is not None:
            ids.append(control)
        else:
            ids.extend(next(plain))
    return ids


def collect_strings(value: Any, out: list[str]) -> None:
    """Appends every string in a JSON value to ``out``, keys included."""
    if isinstance(value, str):
        out.append(value)
    elif isinstance(value, dict):
        out.extend(value)
        for item in value.values():
            collect_strings(item, out)
    elif isinstance(value, list):
        for item in value:
            collect_strings(item, out)
