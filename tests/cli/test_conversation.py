from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qwen3_mlx.cli.answer import Answer
from qwen3_mlx.cli.conversation import HELP, Conversation, Leave, run_command
from qwen3_mlx.errors import InvalidRequest
from qwen3_mlx.types import Finished, TextDelta, ThinkingDelta


def answer(text: str = "", thinking: str = "") -> Answer:
    made = Answer()
    made.add(ThinkingDelta(thinking))
    made.add(TextDelta(text))
    made.add(Finished("stop"))
    return made


def talk() -> Conversation:
    conversation = Conversation(system="Be kind")
    conversation.ask("Hi")
    conversation.answer(answer("Hello", "greet"))
    conversation.ask("More")
    conversation.answer(answer("Wel"), interrupted=True)
    return conversation


def test_turns_become_messages() -> None:
    assert talk().prompt() == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "reasoning_content": "greet"},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "Wel"},
    ]
    assert [m.get("interrupted") for m in talk().messages] == [None, None, None, True]


def test_a_question_stopped_before_its_answer_is_taken_back() -> None:
    conversation = talk()
    conversation.ask("And?")
    conversation.answer(Answer(), interrupted=True)
    assert len(conversation.messages) == 4
    conversation.ask("And?")
    conversation.answer(answer(thinking="hm"), interrupted=True)
    assert conversation.messages[-1] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "interrupted": True,
    }


def test_settings() -> None:
    conversation = Conversation()
    assert run_command(conversation, "/no_think") == "answering without thinking" and not conversation.thinking
    assert run_command(conversation, "/think") == "thinking before every answer" and conversation.thinking
    assert run_command(conversation, "/budget 1200") == "thinking budget: 1,200 tokens" and conversation.budget == 1200
    assert run_command(conversation, "/budget") == "thinking budget: 1,200 tokens"
    assert run_command(conversation, "/budget off") == "no thinking budget" and conversation.budget is None
    assert run_command(conversation, "/system") == "no system message"
    assert run_command(conversation, "/system  Be brief. ") == "system message: Be brief."
    assert run_command(conversation, "/system") == "system message: Be brief." and conversation.system == "Be brief."
    assert run_command(conversation, "/system off") == "no system message" and conversation.system is None
    assert run_command(conversation, "/help") == HELP
    for way_out in ("/exit", "/quit"):
        with pytest.raises(Leave):
            run_command(conversation, way_out)


def test_clear_keeps_the_settings() -> None:
    conversation = talk()
    conversation.budget = 5
    run_command(conversation, "/clear")
    assert (conversation.messages, conversation.system, conversation.budget) == ([], "Be kind", 5)


@pytest.mark.parametrize(
    "line", ["Hi", "/think what is 2+2?", "/no_think quick", "/usr/bin/env?", "/2 is half", "1/2", " /exit", "/", "//"]
)
def test_messages_are_not_commands(line: str) -> None:
    assert run_command(Conversation(), line) is None


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/budget many", "/budget takes a number of tokens, or off, not 'many'"),
        ("/budget -1", "/budget takes a number"),
        ("/budget ٣", "/budget takes a number"),
        ("/save", "/save needs a file: /save chat.json"),
        ("/load", "/load needs a file: /load chat.json"),
        ("/nothing here", "there is no command /nothing: /help lists them"),
        ("/load /no/such/file", "/no/such/file: cannot be read"),
        ("/save /no/such/folder/chat.json", "cannot save to /no/such/folder/chat.json: No such file"),
    ],
)
def test_a_command_that_cannot_be_obeyed_gets_a_hint(line: str, hint: str) -> None:
    conversation = talk()
    before = conversation.prompt()
    with pytest.raises(InvalidRequest) as error:
        run_command(conversation, line)
    assert str(error.value).startswith(hint) and "\n" not in str(error.value)
    assert conversation.prompt() == before


def test_what_is_saved_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation = talk()
    conversation.thinking, conversation.budget = False, 50
    assert run_command(conversation, "/save ~/my chat.json") == f"saved 4 messages to {tmp_path / 'my chat.json'}"
    assert os.listdir(tmp_path) == ["my chat.json"]
    loaded = Conversation()
    assert run_command(loaded, "/load ~/my chat.json") == f"loaded 4 messages from {tmp_path / 'my chat.json'}"
    assert loaded == conversation
    saved = json.loads((tmp_path / "my chat.json").read_text(encoding="utf-8"))
    assert list(saved) == ["model", "thinking", "thinking_budget", "messages"]


def test_saving_replaces_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.json"
    path.write_text('{"messages": []}')

    def full(self: Path, *args: object, **given: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InvalidRequest, match=r"cannot save to .*: No space left on device; choose another place"):
        run_command(talk(), f"/save {path}")
    assert path.read_text() == '{"messages": []}' and os.listdir(tmp_path) == ["chat.json"]


def test_saving_never_replaces_another_file(tmp_path: Path) -> None:
    path = tmp_path / "thesis.json"
    path.write_text("[1, 2]")
    with pytest.raises(InvalidRequest, match="not a saved conversation"):
        run_command(Conversation("demo"), f"/save {path}")
    assert path.read_text() == "[1, 2]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "line 1, column 2: not valid JSON"),
        ("{}", "expected a list of messages"),
        ('[{"role": "user", "content": [{"type": "image_url"}]}]', "messages[0].content must be text"),
        ('[{"role": "user"}]', "messages[0].content must be text"),
        ('{"messages": [{"role": "user", "content": "a"}], "thinking": "yes"}', "thinking must be true or false"),
        ('{"messages": [{"role": "user", "content": "a"}], "thinking_budget": -1}', "thinking_budget must be null"),
        ('{"messages": [{"role": "user", "content": "a"}], "thinking_budget": true}', "thinking_budget must be null"),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    conversation = talk()
    with pytest.raises(InvalidRequest) as error:
        run_command(conversation, f"/load {path}")
    assert says in str(error.value) and conversation == talk()


def test_a_bare_list_is_a_conversation_too(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text('[{"role": "user", "content": "a"}]')
    conversation = talk()
    conversation.thinking = False
    run_command(conversation, f"/load {path}")
    assert conversation == Conversation(thinking=False, messages=[{"role": "user", "content": "a"}])
