from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from qwen3_mlx.cli.files import check_text, parse_messages, parse_tools, read_json, read_stdin
from qwen3_mlx.errors import InvalidRequest


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Hi\n", "Hi"),
        (b"Hi\r\n", "Hi"),
        (b"Hi\n\n", "Hi\n"),
        (b"", ""),
        ("\ufeff你好".encode(), "你好"),
    ],
)
def test_stdin_loses_the_end_of_its_last_line(monkeypatch: pytest.MonkeyPatch, data: bytes, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert read_stdin() == text


def test_stdin_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_stdin() == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'[{"role": "user",\n  "content": }]', "line 2, column 14: not valid JSON"),
        (b"", "line 1, column 1: not valid JSON"),
        (b"[\xff]", "not UTF-8 text (byte 2)"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_json_mistakes_are_placed(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as error:
        read_json(str(path))
    assert str(error.value).startswith(str(path)) and says in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none\.json: cannot be read \(No such file"):
        read_json(str(tmp_path / "none.json"))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_json(str(tmp_path))


@pytest.mark.parametrize("value", [[], {}, {"messages": {}}, 3, None, "Hi"])
def test_what_is_no_conversation(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^f: expected a list of messages"):
        parse_messages(value, "f")


@pytest.mark.parametrize("message", [3, {}, {"role": "robot"}, {"role": None}, {"role": ["user"]}])
def test_a_message_needs_a_known_role(message: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^f: messages\[1\] must be an object whose role is one of system"):
        parse_messages([{"role": "user", "content": "Hi"}, message], "f")


def test_messages_and_tools_may_share_an_object() -> None:
    document = {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function"}]}
    assert parse_messages(document, "f") == document["messages"]
    assert parse_tools(document, "f") == document["tools"]
    assert parse_tools(document["tools"], "f") == document["tools"]


@pytest.mark.parametrize("value", [{}, {"tools": 3}, [3], "f"])
def test_what_are_no_tools(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^f: expected a list of tools"):
        parse_tools(value, "f")


def test_text_must_be_something_and_utf8() -> None:
    assert check_text(" 你好 ") == " 你好 "
    for blank in ("", " \n\t"):
        with pytest.raises(InvalidRequest, match="the prompt is empty"):
            check_text(blank)
    with pytest.raises(InvalidRequest, match="--system is not UTF-8"):
        check_text("a\udcff", "--system")
