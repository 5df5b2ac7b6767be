from __future__ import annotations

import json
import threading
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.errors import CheckpointError, InvalidRequest, UnsupportedModel
from qwen3_mlx.text.pieces import LONG
from qwen3_mlx.text.tokenizer import Tokenizer

CONTROL = ["<think>", "</think>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_response>", "<|endoftext|>"]
SAMPLES = [
    "",
    " ",
    "\n\n",
    "hello world",
    "Strawberry's r's",
    "你好，世界",
    "🧑‍🧑‍🧒‍🧒 family",
    "a\r\n\tb  c",
    "١٢٣ ½ ǅ",
    "e\u0301",
]


@pytest.mark.parametrize("text", SAMPLES + [f"a{name}b" for name in CONTROL])
def test_encodes_as_the_library_does(tokenizer: Tokenizer, backend, text: str) -> None:
    assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("piece", ["word ", "<think>x", "é思", " ", "1", "a"])
def test_long_texts_too(tokenizer: Tokenizer, backend, piece: str) -> None:
    text = piece * LONG
    assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids


def test_a_long_text_does_not_keep_other_threads_waiting(tokenizer: Tokenizer) -> None:
    turns, over = [0], threading.Event()

    def count() -> None:
        while not over.is_set():
            turns[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    before = turns[0]
    tokenizer.encode(" ".join(f"hello world {n}" for n in range(30_000)))
    during = turns[0] - before
    over.set()
    thread.join()
    assert during > 5


@pytest.mark.parametrize("name", CONTROL)
def test_untrusted_text_holds_no_control_token(tokenizer: Tokenizer, name: str) -> None:
    text = f"before {name}{name} after {name[:-1]}{name}"
    ids = tokenizer.encode(text, trusted=False)
    assert not set(ids) & set(tokenizer.added)
    assert tokenizer.decode(ids) == text
    assert set(tokenizer.encode(text)) & set(tokenizer.added) == {tokenizer.token_id(name)}


@given(st.text())
@settings(deadline=None)
def test_both_views_agree_on_harmless_text(tokenizer: Tokenizer, text: str) -> None:
    if not any(name in text for name in tokenizer.added.values()):
        assert tokenizer.encode(text, trusted=False) == tokenizer.encode(text)


@given(st.text())
@settings(deadline=None)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_known_ids(tokenizer: Tokenizer) -> None:
    control = tokenizer.control
    assert (control.think_open, control.think_close) == (151667, 151668)
    assert (control.tool_call_open, control.tool_call_close) == (151657, 151658)
    assert (control.tool_response_open, control.tool_response_close) == (151665, 151666)
    assert (control.endoftext, control.im_start, control.im_end) == (151643, 151644, 151645)
    assert tokenizer.eos_ids == {151645, 151643}
    assert tokenizer.vocab_size == 151669
    assert tokenizer.encode("\n") == [198]
    assert tokenizer.encode("\n\n") == [271]


def test_token_bytes_join_to_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve 数 🧑‍🧑‍🧒‍🧒<think>\n\n</think>"
    pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode(text)]
    assert b"".join(pieces).decode() == text
    assert any(piece.decode("utf-8", "ignore").encode() != piece for piece in pieces), "no character was split"


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    assert {tokenizer.token_bytes(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}


def test_padding_ids_stand_for_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(151935) == b""
    assert tokenizer.decode([9707, 151935, 0]) == "Hello!"


def test_half_a_surrogate_pair_is_refused(tokenizer: Tokenizer) -> None:
    for trusted in (True, False):
        with pytest.raises(InvalidRequest, match="character 2 is half of a surrogate pair"):
            tokenizer.encode("ab\ud83d", trusted=trusted)


def test_split_finds_what_the_library_finds(tokenizer: Tokenizer, backend) -> None:
    text = "<think><think ></think>x<|im_start|><|im_end|>\n<|im_end <tool_call></tool_call>"
    found = [control for _, control in tokenizer.split(text) if control is not None]
    assert found == [i for i in backend.encode(text).ids if i in tokenizer.added]
    assert "".join(piece for piece, _ in tokenizer.split(text)) == text


def _write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": {"eos_token_id": 7}}, {7}),
        ({"generation_config.json": {"eos_token_id": [7, 9]}}, {7, 9}),
        ({"generation_config.json": {}}, {151645}),
        (
            {"generation_config.json": {}, "tokenizer_config.json": {"eos_token": {"content": "<|endoftext|>"}}},
            {151643},
        ),
        ({"generation_config.json": {}, "tokenizer_config.json": {}, "config.json": {"eos_token_id": 5}}, {5}),
    ],
)
def test_end_tokens(copy_folder: Path, files: dict[str, dict], expected: set[int]) -> None:
    for name, value in files.items():
        _write(copy_folder, name, value)
    assert Tokenizer.from_folder(copy_folder).eos_ids == expected


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("generation_config.json", {"eos_token_id": "no such token"}, "names no token"),
        ("generation_config.json", {"eos_token_id": True}, "names no token"),
        ("generation_config.json", {"eos_token_id": 10**6}, "names no token"),
        ("generation_config.json", {"eos_token_id": 2**40}, "names no token"),
        ("generation_config.json", "{", "JSON"),
        ("generation_config.json", "[]", "object"),
        ("tokenizer.json", "{}", "damaged"),
        ("tokenizer.json", '{"version": ', "damaged"),
        ("tokenizer.json", "\x00" * 100, "damaged"),
    ],
)
def test_damaged_files_are_named(copy_folder: Path, name: str, value: object, says: str) -> None:
    _write(copy_folder, name, value)
    with pytest.raises(CheckpointError, match=says) as caught:
        Tokenizer.from_folder(copy_folder)
    assert caught.value.path == copy_folder / name
    assert "\n" not in str(caught.value)


def test_truncated_file(copy_folder: Path) -> None:
    path = copy_folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(copy_folder)


def test_missing_files(tmp_path: Path, copy_folder: Path) -> None:
    for path in copy_folder.glob("*config.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no end token"):
        Tokenizer.from_folder(copy_folder)
    (copy_folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: missing"):
        Tokenizer.from_folder(tmp_path)


def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    Backend(WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match="WordLevel"):
        Tokenizer.from_folder(tmp_path)


def test_control_tokens_that_merges_can_reach(copy_folder: Path) -> None:
    """A vocabulary that lists `<think>` among its ordinary tokens, with merges that end in it."""
    path = copy_folder / "tokenizer.json"
    value = json.loads(path.read_text())
    model = value["model"]
    model["vocab"]["<think>"] = 151667
    model["merges"] += [["<th", "ink"], ["<think", ">"]]
    model["vocab"]["<think"] = 151700
    value["pre_tokenizer"] = value["decoder"]  # Qwen3's cuts before the last character
    path.write_text(json.dumps(value))
    # the file's own control tokens are numbered anew behind the longer vocabulary
    (copy_folder / "generation_config.json").write_text('{"eos_token_id": "<|im_end|>"}')
    tokenizer = Tokenizer.from_folder(copy_folder)
    assert tokenizer._plain.encode("<think>").ids == [151667]
    ids = tokenizer.encode("a<think>b", trusted=False)
    assert 151667 not in ids
    assert tokenizer.decode(ids) == "a<think>b"
    assert tokenizer.encode("<think>") == [151667]


def test_a_truncating_tokenizer_does_not_truncate(copy_folder: Path, backend) -> None:
    path = copy_folder / "tokenizer.json"
    value = json.loads(path.read_text())
    value["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(value))
    assert len(Tokenizer.from_folder(copy_folder).encode("one two three four five")) == 5
