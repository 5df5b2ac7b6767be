"""A conversation with its settings, and the slash commands that change it. No terminal, no model: text in, text out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidRequest
from .answer import Answer
from .files import parse_messages, read_json, unmarked

HELP = """\
/think, /no_think   think before answering, or answer at once; inside a message they hold for that message
/budget N           at most N tokens of thinking (/budget off: no bound)
/more [N]           let the last thought, cut short by the budget, go on for N more tokens (/more: to its end)
/system TEXT        the system message (/system: show it; /system off: none)
/save FILE          write the conversation as JSON; `qwen3-mlx generate --messages FILE` reads it too
/load FILE          go on with a saved conversation
/clear              forget the messages; system text and settings stay
/exit               leave, as Ctrl-D does
Ctrl-C stops an answer; what was said of it stays in the conversation. A line that ends in \\ goes on in the next."""


class Leave(Exception):
    """The user wants to go."""


class More(Exception):
    """The user wants the last thought to go on, for ``tokens`` more or to its end."""

    def __init__(self, tokens: int | None) -> None:
        super().__init__(tokens)
        self.tokens = tokens


def _is_saved(path: Path) -> bool:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and isinstance(value.get("messages"), list)


@dataclass
class Conversation:
    """Messages so far (without the system message), and how the next one is to be answered.

    An answer that was stopped carries ``"interrupted": true``; the model never sees that mark.
    """

    system: str | None = None
    thinking: bool = True
    budget: int | None = None
    model: str = "demo"
    messages: list[dict[str, Any]] = field(default_factory=list)

    def prompt(self) -> list[dict[str, Any]]:
        """What the model is given."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return system + unmarked(self.messages)

    def ask(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def take_back(self) -> None:
        """Undo ``ask``: the question was not answered, and two in a row would confuse the next answer."""
        self.messages.pop()

    def answer(self, answer: Answer, *, interrupted: bool = False) -> None:
        """Keep an answer, or what there is of it. A stopped one without a word takes the question back."""
        completion = answer.completion()
        if interrupted and not (completion.content or completion.reasoning_content or completion.tool_calls):
            self.take_back()
            return
        message = completion.to_message()
        self.messages.append(message | ({"interrupted": True} if interrupted else {}))

    def save(self, path: Path) -> None:
        """Write everything as JSON: a temporary file beside ``path``, then renamed over it.

        Raises InvalidRequest for a file that is there and is not a saved conversation.
        """
        if path.exists() and not _is_saved(path):
            raise InvalidRequest(f"{path} is there already and is not a saved conversation: choose another name")
        settings = {"model": self.model, "thinking": self.thinking, "thinking_budget": self.budget}
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        text = json.dumps({**settings, "messages": system + self.messages}, ensure_ascii=False, indent=2) + "\n"
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Take over a saved conversation; raises InvalidRequest and changes nothing when the file is not one."""
        value = read_json(str(path))
        messages = parse_messages(value, str(path))
        for index, message in enumerate(messages):
            if not isinstance(message.get("content"), str):
                raise InvalidRequest(f"{path}: messages[{index}].content must be text")
        settings = value if isinstance(value, dict) else {}
        thinking, budget = settings.get("thinking", self.thinking), settings.get("thinking_budget", self.budget)
        if not isinstance(thinking, bool):
            raise InvalidRequest(f"{path}: thinking must be true or false")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 0):
            raise InvalidRequest(f"{path}: thinking_budget must be null or a number of tokens from 0")
        head = messages[0] if messages[0]["role"] in ("system", "developer") else None
        self.system = head["content"] if head else None
        self.messages = messages[1:] if head else messages
        self.thinking, self.budget = thinking, budget


def run_command(conversation: Conversation, line: str) -> str | None:
    """Obey a slash command and return what to tell the user; None when the line is a message for the model.

    Raises InvalidRequest with a one-line hint for a command that cannot be obeyed, ``Leave`` for ``/exit``.
    """
    if not line.startswith("/"):
        return None
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if name in ("/think", "/no_think") and argument:
        return None  # the soft switch at the head of a message: the chat template's to read
    handler = _COMMANDS.get(name)
    if handler is None:
        if not name[1:].replace("_", "").isalpha():
            return None  # a path, a fraction, a comment: not meant as a command
        raise InvalidRequest(f"there is no command {name}: /help lists them; a space before it makes it a message")
    return handler(conversation, argument)


def _think(on: bool) -> Callable[[Conversation, str], str]:
    def command(conversation: Conversation, argument: str) -> str:
        conversation.thinking = on
        return "thinking before every answer" if on else "answering without thinking"

    return command


def _budget(conversation: Conversation, argument: str) -> str:
    if argument == "off":
        conversation.budget = None
    elif _is_count(argument):
        conversation.budget = int(argument)
    elif argument:
        raise InvalidRequest(f"/budget takes a number of tokens, or off, not {argument!r}")
    return "no thinking budget" if conversation.budget is None else f"thinking budget: {conversation.budget:,} tokens"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _more(conversation: Conversation, argument: str) -> str:
    if argument and not (_is_count(argument) and int(argument)):
        raise InvalidRequest(f"/more takes a number of tokens from 1, or nothing, not {argument!r}")
    raise More(int(argument) if argument else None)


def _system(conversation: Conversation, argument: str) -> str:
    if argument:
        conversation.system = None if argument == "off" else argument
    return "no system message" if conversation.system is None else f"system message: {conversation.system}"


def _save(conversation: Conversation, argument: str) -> str:
    path = _path("/save", argument)
    try:
        conversation.save(path)
    except OSError as error:
        raise InvalidRequest(f"cannot save to {path}: {error.strerror or error}; choose another place") from None
    return f"saved {_count(conversation)} to {path}"


def _load(conversation: Conversation, argument: str) -> str:
    path = _path("/load", argument)
    conversation.load(path)
    return f"loaded {_count(conversation)} from {path}"


def _clear(conversation: Conversation, argument: str) -> str:
    conversation.messages.clear()
    return "the conversation starts anew"


def _exit(conversation: Conversation, argument: str) -> str:
    raise Leave


def _path(command: str, argument: str) -> Path:
    if not argument:
        raise InvalidRequest(f"{command} needs a file: {command} chat.json")
    return Path(argument).expanduser()


def _count(conversation: Conversation) -> str:
    count = len(conversation.messages)
    return f"{count} message{'s' * (count != 1)}"


_COMMANDS: dict[str, Callable[[Conversation, str], str]] = {
    "/think": _think(True),
    "/no_think": _think(False),
    "/budget": _budget,
    "/more": _more,
    "/system": _system,
    "/save": _save,
    "/load": _load,
    "/clear": _clear,
    "/help": lambda conversation, argument: HELP,
    "/exit": _exit,
    "/quit": _exit,
}
