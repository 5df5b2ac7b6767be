"""Token ids to text, one token at a time.

Works on the tokens' bytes, so a token costs time in its own length only, and what has been shown never changes. Joined,
the pieces equal the decoded whole: bytes that can no longer become a character turn into U+FFFD (one for each maximal
broken part, as the Unicode standard recommends) as soon as that is certain, and only a character that may still be
completed is held back.
"""

from __future__ import annotations

import codecs
from typing import Protocol


class TokenTable(Protocol):
    """What a detokenizer asks of a tokenizer."""

    def token_bytes(self, token: int) -> bytes: ...

    def token_text(self, token: int) -> str | None: ...


_Utf8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one stream of tokens. ``pending``: the first bytes of an incomplete character are held back."""

    __slots__ = ("_decoder", "_table", "pending")

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._decoder = _Utf8("replace")
        self.pending = False

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is incomplete."""
        if not self.pending:
            text = self._table.token_text(token)
            if text is not None:
                return text
        text = self._decoder.decode(self._table.token_bytes(token))
        held = self._decoder.getstate()[0]
        if len(held) == 2 and held[0] == 0xED and held[1] >= 0xA0:
            # Half a surrogate pair written as UTF-8, never a character. Python's decoder waits for a third byte.
            return text + self.finish()
        self.pending = bool(held)
        return text

    def finish(self) -> str:
        """What is left when the stream ends: U+FFFD for an incomplete character, else nothing. Then starts anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self.pending = False
        return text
