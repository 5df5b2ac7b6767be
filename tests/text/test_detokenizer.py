from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.text.detokenizer import Detokenizer
from qwen3_mlx.text.tokenizer import Tokenizer

from .languages import LANGUAGES, babel_text, sentence

FFFD = "\ufffd"
EMOJI = "👩🏽‍🚀👨‍👩‍👧‍👦🏳️‍🌈🇯🇵🇿🇦1️⃣❤️‍🔥🧑‍🧑‍🧒‍🧒🏴󠁧󠁢󠁳󠁣󠁴󠁿🫱🏻‍🫲🏿"
COMBINING = "Z͑ͫ̓a̴̡l̷g̸ȯ n̂̃ g̈ ệ ạ̈̃ क्षि நி ก็ำ 각 각 שָׁלוֹם مُدَوَّنَة"


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """The pieces a stream shows, the last one from finish(). Checks that only an incomplete character is held back."""
    detokenizer = tokenizer.detokenizer()
    pieces, given_bytes = [], b""
    for token in ids:
        pieces.append(detokenizer.push(token))
        given_bytes += tokenizer.token_bytes(token)
        held = given_bytes.decode("utf-8", "replace")[len("".join(pieces)) :]
        assert held in ("", FFFD), "held back more than one incomplete character"
        assert bool(held) == detokenizer.pending
    pieces.append(detokenizer.finish())
    assert not detokenizer.pending
    return pieces


def check_text(tokenizer: Tokenizer, backend, text: str) -> None:
    """Streaming ``text`` shows it, with no replacement character on the way."""
    text = unicodedata.normalize("NFC", text)
    ids = tokenizer.encode(text)
    pieces = stream(tokenizer, ids)
    assert "".join(pieces) == text == backend.decode(ids, skip_special_tokens=False)
    assert FFFD in text or not any(FFFD in piece for piece in pieces)
    assert pieces[-1] == ""


def test_all_119_languages_are_here() -> None:
    assert len(LANGUAGES) == len({code for code, _, _ in LANGUAGES}) == 119


@pytest.mark.parametrize(("code", "name"), [(code, name) for code, name, _ in LANGUAGES])
def test_language(tokenizer: Tokenizer, backend, code: str, name: str) -> None:
    check_text(tokenizer, backend, f"{name}: {sentence(code)}\n{babel_text(code)}")


@pytest.mark.parametrize(
    "text", [EMOJI, COMBINING, *EMOJI, "a\u0000b\u2028c\ufeff\u200b\u202e", "\U0010ffff\U00010000"]
)
def test_emoji_and_combining_marks(tokenizer: Tokenizer, backend, text: str) -> None:
    check_text(tokenizer, backend, text)


def test_emoji_are_really_split(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("👨‍👩‍👧‍👦")
    assert sum(FFFD in tokenizer.decode([token]) for token in ids) > 2
    assert [piece for piece in stream(tokenizer, ids) if piece] == list("👨‍👩‍👧‍👦")


def blocks() -> list[str]:
    """Assigned characters of every Unicode block, 128 code points at a time (surrogates and private use left out)."""
    out = []
    for start in range(0, sys.maxunicode + 1, 128):
        text = "".join(
            chr(code) for code in range(start, start + 128) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        )
        if text:
            out.append(text)
    return out


def test_every_script(tokenizer: Tokenizer, backend) -> None:
    """All 280,000 assigned characters but for the ideographs, of which every 16th row is taken."""
    rows = [row for i, row in enumerate(blocks()) if "CJK" not in unicodedata.name(row[0], "") or i % 16 == 0]
    assert sum(map(len, rows)) > 35_000
    for row in rows:
        check_text(tokenizer, backend, row)
        check_text(tokenizer, backend, " ".join(row[::7]))


SCRIPTS = blocks()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mixed_scripts(tokenizer: Tokenizer, backend, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=4))
    check_text(tokenizer, backend, data.draw(st.text(st.sampled_from("".join(rows) + " \n\u0301\u200d"), max_size=60)))


@given(st.lists(st.integers(0, 151668), max_size=40))
@settings(max_examples=1000, deadline=None)
def test_random_ids(tokenizer: Tokenizer, backend, ids: list[int]) -> None:
    """Any ids at all, valid UTF-8 or not, control tokens too: the stream is the decoded whole."""
    assert "".join(stream(tokenizer, ids)) == backend.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


@given(st.lists(st.integers(0, 255) | st.sampled_from([0xE2, 0x82, 0xED, 0xA0, 0xF0, 0x9F, 0xF4, 0x90, 0xC0, 0x80])))
@settings(max_examples=1000, deadline=None)
def test_random_bytes(tokenizer: Tokenizer, backend, values: list[int]) -> None:
    """Single bytes, mostly broken: the same number of replacement characters as in one decode of the whole."""
    ids = [BYTE_IDS[tokenizer][value] for value in values]
    assert "".join(stream(tokenizer, ids)) == backend.decode(ids, skip_special_tokens=False)


class _ByteIds(dict):
    def __missing__(self, tokenizer: Tokenizer) -> dict[int, int]:
        self[tokenizer] = {tokenizer.token_bytes(token)[0]: token for token in range(256)}
        return self[tokenizer]


BYTE_IDS = _ByteIds()


class Bytes:
    """A vocabulary of any byte strings."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token]

    def token_text(self, token: int) -> str | None:
        try:
            return self.tokens[token].decode()
        except UnicodeDecodeError:
            return None


@given(st.text(max_size=30), st.lists(st.integers(1, 5), min_size=1, max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_cut_of_valid_text(text: str, cuts: list[int]) -> None:
    data, tokens, at = text.encode(), [], 0
    for width in cuts:
        tokens.append(data[at : at + width])
        at += width
    tokens.append(data[at:])
    detokenizer = Detokenizer(Bytes(tokens))
    pieces = [detokenizer.push(i) for i in range(len(tokens))]
    assert "".join(pieces) == text
    assert detokenizer.finish() == ""


def test_a_broken_character_shows_once_it_is_certain() -> None:
    detokenizer = Detokenizer(Bytes([b"\xe2\x82", b"a", b"\xe2", b"\x82\xac", b"\xed", b"\xa0"]))
    assert [detokenizer.push(i) for i in range(6)] == ["", FFFD + "a", "", "€", "", FFFD + FFFD]


def test_finish_tells_what_was_left_and_starts_anew() -> None:
    detokenizer = Detokenizer(Bytes([b"\xf0\x9f", b"\xa7\x91"]))
    assert detokenizer.push(0) == ""
    assert detokenizer.pending
    assert detokenizer.finish() == FFFD
    assert detokenizer.push(0) + detokenizer.push(1) == "🧑"
