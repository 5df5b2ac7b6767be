"""Text to token ids and back, on the `tokenizers` library alone.

Two views of one byte-level BPE: the whole tokenizer, in which the text of an added token (``<think>``,
``<|im_end|>``) becomes that token's id, and a plain one without added tokens, in which it is ordinary text. Text that a
user or a tool wrote goes through the plain one, so it can never become a control token. Both share one vocabulary and
one list of merges in memory; the second costs microseconds to make.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, InvalidRequest, UnsupportedModel
from ..values import frozen
from .detokenizer import Detokenizer
from .pieces import Pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

FILE = "tokenizer.json"


@frozen
class ControlTokens:
    """Ids of the tokens that steer a conversation, looked up by name; ``None`` for one the vocabulary lacks."""

    think_open: int | None = None
    think_close: int | None = None
    tool_call_open: int | None = None
    tool_call_close: int | None = None
    tool_response_open: int | None = None
    tool_response_close: int | None = None
    im_start: int | None = None
    im_end: int | None = None
    endoftext: int | None = None


CONTROL_NAMES = {
    "think_open": "<think>",
    "think_close": "</think>",
    "tool_call_open": "<tool_call>",
    "tool_call_close": "</tool_call>",
    "tool_response_open": "<tool_response>",
    "tool_response_close": "</tool_response>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "endoftext": "<|endoftext|>",
}


class Tokenizer:
    """A checkpoint's tokenizer. Immutable once built; safe to share between threads.

    ``eos_ids`` are the tokens that end a turn, ``control`` the ids of the control tokens, ``vocab_size`` one more than
    the largest id the tokenizer knows (a model's embedding may be padded beyond it).
    """

    def __init__(self, backend: Backend, eos_ids: frozenset[int]) -> None:
        self._full = backend
        self._full.no_truncation()
        self._full.no_padding()
        self.eos_ids = eos_ids
        tokens = backend.get_added_tokens_decoder()
        self.added: dict[int, str] = {i: token.content for i, token in tokens.items()}
        self._steering = {i for i, t in tokens.items() if t.special or t.content in CONTROL_NAMES.values()}
        self._added_ids: dict[str, int] = {content: i for i, content in self.added.items()}
        self.control = ControlTokens(**{field: self._added_ids.get(name) for field, name in CONTROL_NAMES.items()})
        self.vocab_size: int = max([backend.get_vocab_size(with_added_tokens=True), *(i + 1 for i in self.added)])
        self._pieces: dict[int, str | None] = {}

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Reads ``tokenizer.json``; eos ids come from ``generation_config.json``, else ``tokenizer_config.json``, else
        ``config.json``. Raises CheckpointError naming the file that is missing or damaged, UnsupportedModel for a
        tokenizer that is not byte-level BPE.
        """
        folder = Path(folder)
        backend = _load_backend(folder / FILE)
        if type(backend.model).__name__ != "BPE" or type(backend.decoder).__name__ != "ByteLevel":
            raise UnsupportedModel(
                f"{folder / FILE}: Qwen3 has a byte-level BPE tokenizer, this one is"
                f" {type(backend.model).__name__} with a {type(backend.decoder).__name__} decoder",
                key="decoder",
            )
        return cls(backend, _eos_ids(folder, backend))

    def encode(self, text: str, trusted: bool = True) -> list[int]:
        """Token ids of ``text``; no token is added in front or behind. With ``trusted=False`` the names of control
        tokens are ordinary text. Raises InvalidRequest for text that is not valid Unicode (half a surrogate pair).
        """
        return self.encode_all([text], trusted)[0]

    def encode_all(self, texts: Sequence[str], trusted: bool = True) -> list[list[int]]:
        """``encode`` of each text; quicker than one after the other."""
        encoder = self._full_pieces if trusted else self._plain_pieces
        try:
            encoded = encoder.encode(texts)
        except (UnicodeEncodeError, TypeError):
            for text in texts:
                plain_text(text)
            raise
        if trusted:
            return encoded
        return [ids if self._steering.isdisjoint(ids) else self._all_spelled(ids) for ids in encoded]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """The text of ``ids``, control tokens included; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_id(self, content: str) -> int | None:
        """The id of the added token called ``content`` (``"<think>"``), or ``None``."""
        return self._added_ids.get(content)

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for; empty for ids of a padded embedding, which no token owns."""
        content = self.added.get(token)
        if content is not None:
            return content.encode("utf-8")
        piece = self._full.id_to_token(token)
        if piece is None:
            return b""
        try:
            return bytes(map(_BYTE_OF_CHAR.__getitem__, piece))
        except KeyError:  # not written in the byte alphabet: stands for itself
            return bytes(piece.encode("utf-8"))

    def token_text(self, token: int) -> str | None:
        """A token's text if its bytes are whole characters, else ``None``. Remembered."""
        try:
            return self._pieces[token]
        except KeyError:
            try:
                text: str | None = self.token_bytes(token).decode("utf-8")
            except UnicodeDecodeError:
                text = None
            self._pieces[token] = text
            return text

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental decoder for one stream of tokens."""
        return Detokenizer(self)

    def _all_spelled(self, ids: list[int]) -> list[int]:
        return [part for token in ids for part in self._spelled(token)]

    def _spelled(self, token: int) -> list[int]:
        """A control token that merges can reach (some vocabularies list them twice), character by character."""
        if token not in self._steering:
            return [token]
        return [part for char in self.added[token] for part in self._plain.encode(char).ids]

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """``text`` cut at the names of added tokens: ``(piece, id)`` for those, ``(piece, None)`` in between."""
        done = 0
        for match in self._added_pattern.finditer(text):
            if match.start() > done:
                yield text[done : match.start()], None
            yield match.group(), self._added_ids[match.group().strip()]
            done = match.end()
        if done < len(text):
            yield text[done:], None

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        """Matches what the whole tokenizer takes for an added token: the longest at the leftmost place."""
        tokens = sorted(self._full.get_added_tokens_decoder().values(), key=lambda t: -len(t.content))
        parts = []
        for token in tokens:
            part = re.escape(token.content)
            if token.single_word:
                part = rf"(?<!\w){part}(?!\w)"
            parts.append((r"\s*" if token.lstrip else "") + part + (r"\s*" if token.rstrip else ""))
        return re.compile("|".join(parts) if parts else r"(?!)")

    @cached_property
    def _plain(self) -> Backend:
        """The same BPE without its added tokens (the model object is shared, not copied)."""
        from tokenizers import Tokenizer as Backend

        plain = Backend(self._full.model)
        for part in ("normalizer", "pre_tokenizer", "decoder"):
            value = getattr(self._full, part)
            if value is not None:
                setattr(plain, part, value)
        return plain

    @cached_property
    def _full_pieces(self) -> Pieces:
        return Pieces(self._full)

    @cached_property
    def _plain_pieces(self) -> Pieces:
        return Pieces(self._plain)


def plain_text(text: str, param: str | None = None) -> str:
    """``text`` as a plain ``str`` (an enum's value, say). Raises InvalidRequest if it holds half a surrogate pair: cut
    JSON escapes, undecodable arguments.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{param or 'the text'} is not valid Unicode: character {error.start} is half of a surrogate pair"
            f" (U+{ord(text[error.start]):04X}); send whole characters",
            param=param,
        ) from None
    return text if type(text) is str else str.__str__(text)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, ``None`` if there is no such file; CheckpointError if it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be read as JSON ({error})", path) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"must hold a JSON object, not {type(value).__name__}", path)
    return value


def _load_backend(path: Path) -> Backend:
    from tokenizers import Tokenizer as Backend

    if not path.is_file():
        raise CheckpointError("missing: a Qwen3 checkpoint has its tokenizer in this file", path)
    try:
        return Backend.from_file(str(path))
    except BaseException as error:  # a panic of the Rust side derives from BaseException
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"damaged, or not a tokenizer ({reason}); download it again", path) from None


def _eos_ids(folder: Path, backend: Backend) -> frozenset[int]:
    """The ids that end a turn. Each file is asked in turn; a name or an id, one or a list of them."""
    sources = (("generation_config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token"))
    for name, key in (*sources, ("config.json", "eos_token_id")):
        value = (read_json(folder / name) or {}).get(key)
        if value is None:
            continue
        ids = [_token_id(item, backend, folder / name, key) for item in (value if isinstance(value, list) else [value])]
        if ids:
            return frozenset(ids)
    raise CheckpointError(
        "no end token: neither generation_config.json, tokenizer_config.json nor config.json has one", folder
    )


def _token_id(value: Any, backend: Backend, path: Path, key: str) -> int:
    if isinstance(value, dict):  # an AddedToken, written out
        value = value.get("content")
    found = backend.token_to_id(value) if isinstance(value, str) else value
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**32 and backend.id_to_token(found):
        return found
    raise CheckpointError(f"{key} names no token: {value!r}", path)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: printable Latin-1 as itself, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


_BYTE_OF_CHAR = _byte_alphabet()
