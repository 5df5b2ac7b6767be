"""Long texts in pieces: cut where the tokenizer cuts anyway, encoded side by side, and remembered.

The library takes more than twice as long for one text of 60 kB as for its parts, and a batch of parts goes to all
cores. An agent sends the same text again with every turn, so that of most parts the tokens are known.

Why the tokens are the same. What comes before the BPE, which sees one match of ``PATTERN`` at a time:

1. Added tokens are found in the raw text. Where no name of one has white space in it, or ``<`` behind its first
   character, none lies across a cut before a space or a ``<|im_start|>``.
2. NFC. A space is a starter that composes with nothing before it, so both sides are normalized as in the whole.
3. ``PATTERN``, matched from the left. A match has a space as its first character or is all white space, so none holds a
   character that is no white space and the space behind it: between these two a match always ends. What it reads ahead,
   ``(?!\\S)``, follows white space, which the left side does not end with; and it never looks behind.

A tokenizer of which this cannot be told gets its texts whole.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LONG = 4096  # characters: below, encoding takes a millisecond or so
SIZE = 2048  # characters of a piece, at least
REMEMBERED = 8 << 20  # bytes
_OPENING = "<|im_start|>"  # where a message begins; a change before it moves no cut behind it
# ASCII that prints, letters, digits: white space in no version of Unicode.
_BEFORE_SPACE = re.compile(r"(?<=[!-~\w]) ")


class Pieces:
    """The encoder of one backend of the `tokenizers` library, which remembers ``limit`` bytes. Safe to share between
    threads."""

    def __init__(self, backend: Backend, limit: int = REMEMBERED) -> None:
        self._backend = backend
        self._cuts = cuttable(backend)
        self._known = _Known(limit)

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered; at most the limit."""
        return self._known.nbytes

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as if it were encoded by itself and whole. Long ones let other threads run."""
        if sum(map(len, texts)) < LONG:  # too little for a batch, which costs threads their waking
            return [self._backend.encode(text, add_special_tokens=False).ids for text in texts]
        cut = [pieces(text) if self._cuts else [text] for text in texts]
        found = self._ids({piece for parts in cut for piece in parts})
        return [[token for part in parts for token in found[part]] for parts in cut]

    def _ids(self, wanted: set[str]) -> dict[str, Sequence[int]]:
        found: dict[str, Sequence[int]] = self._known.find(wanted)
        new = [piece for piece in wanted if piece not in found]
        encoded = self._backend.encode_batch_fast(new, add_special_tokens=False)
        made = {piece: array("I", encoding.ids) for piece, encoding in zip(new, encoded, strict=True)}
        self._known.keep(made)
        return found | made


class _Known:
    """Tokens of pieces, those used last, in so many bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, array[int]] = OrderedDict()
        self.nbytes = 0
        self._lock = threading.Lock()

    def find(self, pieces: set[str]) -> dict[str, Sequence[int]]:
        with self._lock:
            found: dict[str, Sequence[int]] = {}
            for piece in pieces:
                if (ids := self._held.get(piece)) is not None:
                    self._held.move_to_end(piece)
                    found[piece] = ids
            return found

    def keep(self, made: dict[str, array[int]]) -> None:
        with self._lock:
            for piece, ids in made.items():
                if piece not in self._held:
                    self._held[piece] = ids
                    self.nbytes += _nbytes(piece, ids)
            while self.nbytes > self._limit:
                self.nbytes -= _nbytes(*self._held.popitem(last=False))


def _nbytes(piece: str, ids: array[int]) -> int:
    return sys.getsizeof(piece) + sys.getsizeof(ids) + 128  # and its place in the dictionary


def pieces(text: str) -> list[str]:
    """``text`` cut where that changes no token, into pieces a little longer than ``SIZE``, or longer where there is no
    place to cut. The pieces of a message depend on nothing that comes before it."""
    out = []
    begin = 0
    while begin < len(text):
        message = text.find(_OPENING, begin + 1)
        end = len(text) if message < 0 else message
        while end - begin > SIZE:
            space = _BEFORE_SPACE.search(text, begin + SIZE, end)
            if space is None:
                break
            out.append(text[begin : space.start()])
            begin = space.start()
        out.append(text[begin:end])
        begin = end
    return out


def cuttable(backend: Backend) -> bool:
    """Whether the three reasons above hold for this tokenizer."""
    return (
        _state(backend.normalizer) in (None, {"type": "NFC"})
        and _is_qwens(_state(backend.pre_tokenizer))
        and backend.model.dropout is None
        and not any(
            token.lstrip or token.rstrip or token.single_word or re.search(r"\s|.<", token.content)
            for token in backend.get_added_tokens_decoder().values()
        )
    )


def _is_qwens(pre_tokenizer: Any) -> bool:
    match pre_tokenizer:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return bool(pattern == PATTERN)
    return False


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())
