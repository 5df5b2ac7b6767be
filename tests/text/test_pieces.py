"""Cut texts give the tokens of whole ones; what was encoded once is not encoded again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from qwen3_mlx import hub
from qwen3_mlx.errors import InvalidRequest
from qwen3_mlx.text import pieces
from qwen3_mlx.text.pieces import LONG, SIZE, Pieces, cuttable
from qwen3_mlx.text.tokenizer import Tokenizer

from .corpus import SNIPPETS

# Every class of the pattern, contractions, characters that compose with what follows or precedes them.
LEFT = ["a", "é", "思", "7", "²", ".", "<", "'s", "'", "e\u0301", "<think>", "<|im_start|>", "\u200b", "ﬃ", "\x1c"]
RIGHT = ["b", "思", "7", "!", "'ll", "\u0301", "\u0338", "\u3099", "<|im_end|>", "<|im_start|>", "", "=\u0338", "½"]
SPACES = [" ", "\n", "\r", "\t", "\u00a0", "\u3000", "\x85"]
everywhere = mock.patch.multiple(pieces, SIZE=1, LONG=0)

hostile = st.lists(
    st.sampled_from([*SNIPPETS, *LEFT, *RIGHT, *SPACES, "  ", " \n ", "word", "def f(x):\n    return x\n"])
    | st.text(max_size=4)
).map("".join)


def whole(backend: Backend, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


@given(hostile)
@settings(max_examples=400, deadline=None)
def test_cut_wherever_it_can_be(tokenizer: Tokenizer, backend: Backend, text: str) -> None:
    with everywhere:
        assert Pieces(backend).encode([text, text[::-1]]) == [whole(backend, text), whole(backend, text[::-1])]
        assert "".join(pieces.pieces(text)) == text


def test_every_kind_of_character_about_every_kind_of_space(backend: Backend) -> None:
    """By what the tokenizer hands to its BPE, which says more than tokens do."""

    def words(text: str) -> list[str]:
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]

    cuts = 0
    for length in (1, 2, 3):
        for run in itertools.product(SPACES[:5] if length == 3 else SPACES, repeat=length):
            for left, right in itertools.product(LEFT, RIGHT):
                text = left + "".join(run) + right
                with everywhere:
                    parts = [part for part in pieces.pieces(text) if part]
                if len(parts) > 1 and "<|" not in text:
                    cuts += 1
                    assert [word for part in parts for word in words(part)] == words(text), repr(text)
    assert cuts > 1000


@given(st.lists(hostile, min_size=1, max_size=3), st.integers(1, 400))
@settings(max_examples=30, deadline=None)
def test_long_texts(tokenizer: Tokenizer, backend: Backend, texts: list[str], times: int) -> None:
    long = [" ".join([text, "and so on."] * times) for text in texts]
    assert tokenizer.encode_all(long) == [whole(backend, text) for text in long]


def test_texts_without_a_place_to_cut(tokenizer: Tokenizer, backend: Backend) -> None:
    for text in ("思" * 3 * LONG, "\n" * LONG, " " * 3 * LONG, "a" * LONG + " " + "b" * LONG, " b" * LONG):
        assert tokenizer.encode(text) == whole(backend, text)


def test_pieces_are_of_the_size_wanted_and_begin_anew_with_a_message() -> None:
    message = "<|im_start|>user\n" + "some words, " * 1000
    parts = pieces.pieces("before " + message)
    assert {len(part) // SIZE for part in parts[1:-1]} == {1} and len(parts) > 5
    assert parts[1:] == pieces.pieces(message) == pieces.pieces("another beginning " * 500 + message)[-len(parts) + 1 :]


@pytest.mark.parametrize("name", ["demo", "demo-moe", "real"])
def test_our_tokenizers_are_known(name: str, folder: Path) -> None:
    path = folder if name == "real" else hub.resolve(name)
    assert cuttable(Backend.from_file(str(path / "tokenizer.json")))


def change(key: str, value: object) -> Callable[[dict], None]:
    return lambda source: source.update({key: value})


def change_added(key: str, value: object) -> Callable[[dict], None]:
    return lambda source: source["added_tokens"][5].update({key: value})


def change_pre(index: int, key: str, value: object) -> Callable[[dict], None]:
    return lambda source: source["pre_tokenizer"]["pretokenizers"][index].update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        change("normalizer", {"type": "NFKC"}),
        change("normalizer", {"type": "Strip", "strip_left": True, "strip_right": True}),
        change("pre_tokenizer", None),
        change_pre(0, "pattern", {"Regex": pieces.PATTERN.replace("|\\p{N}|", "|\\p{N}{1,3}|")}),
        change_pre(0, "pattern", {"String": " "}),
        change_pre(0, "behavior", "MergedWithNext"),
        change_pre(0, "invert", True),
        change_pre(1, "add_prefix_space", True),
        change_pre(1, "use_regex", True),
        change_added("lstrip", True),
        change_added("rstrip", True),
        change_added("single_word", True),
        change_added("content", "two words"),
        change_added("content", "x<|im_start|>"),
        lambda source: source["model"].update(dropout=0.1),
    ],
)
def test_others_get_their_texts_whole(folder: Path, tmp_path: Path, change: Callable[[dict], None]) -> None:
    source = json.loads((hub.resolve("demo") / "tokenizer.json").read_text())
    change(source)
    (tmp_path / "tokenizer.json").write_text(json.dumps(source))
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    assert not cuttable(backend)
    spy = Spy(backend)
    text = "two words, and x<|im_start|> " * 500
    ids = Pieces(spy).encode([text])
    assert spy.seen == [text]
    if not backend.model.dropout:
        assert ids == [whole(backend, text)]


class Spy:
    """A backend that notes what it is given to encode as a batch."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def encode_batch_fast(self, texts: list[str], **options: object) -> list:
        self.seen += texts
        return self.backend.encode_batch_fast(texts, **options)


def numbered(begin: int, count: int = 500) -> str:
    return " ".join(f"sentence number {n}." for n in range(begin, begin + count))


def test_what_was_encoded_before_is_remembered(backend: Backend) -> None:
    spy = Spy(backend)
    encoder = Pieces(spy)
    turns = [f"<|im_start|>user\n{numbered(n)}" for n in (0, 1000, 2000)]
    for end in (1, 2, 3):
        text = "".join(turns[:end])
        spy.seen.clear()
        assert encoder.encode([text]) == [whole(backend, text)]
        assert "".join(sorted(spy.seen, key=text.index)) == turns[end - 1]
    spy.seen.clear()
    assert encoder.encode(turns) == [whole(backend, turn) for turn in turns]
    assert spy.seen == []


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(backend: Backend) -> None:
    spy = Spy(backend)
    encoder = Pieces(spy, limit=100_000)
    first, second = numbered(0), numbered(5000)
    encoder.encode([first, second])
    for n in range(10_000, 20_000, 500):
        encoder.encode([numbered(n), first])
        assert 0 < encoder.nbytes <= 100_000
    spy.seen.clear()
    encoder.encode([first])
    assert spy.seen == []
    encoder.encode([second])
    assert "".join(sorted(spy.seen, key=second.index)) == second


def test_several_threads_at_once(backend: Backend) -> None:
    encoder = Pieces(backend, limit=50_000)
    texts = [numbered(n % 7 * 100) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: encoder.encode([text])[0], texts))
    assert found == [whole(backend, text) for text in texts]


@pytest.mark.parametrize("trusted", [True, False])
def test_half_a_surrogate_pair_in_a_long_text(tokenizer: Tokenizer, trusted: bool) -> None:
    with pytest.raises(InvalidRequest, match=f"character {2 * LONG} is half of a surrogate pair"):
        tokenizer.encode("ab" * LONG + "\ud83d and more", trusted)
