"""`qwen3-mlx chat`: a conversation in the terminal, or a scripted one from a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import click

from ..errors import InvalidRequest, QwenError
from ..types import Completion, Event
from .answer import PlainView, View, play
from .conversation import Conversation, Leave, More, run_command
from .errors import show_error
from .files import check_text, decode
from .model import ChatModel, open_model
from .options import Options, model_options
from .terminal import notice

EXAMPLES = """\b
Examples:
  qwen3-mlx chat --model qwen3:4b
  qwen3-mlx chat --model qwen3:4b --system "Answer in French" --thinking-budget 1000
  printf 'Hello\\n/no_think\\nAnd now?\\n' | qwen3-mlx chat
"""


@click.command(
    "chat",
    epilog=EXAMPLES,
    short_help="Talk, turn by turn.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--system", metavar="TEXT", help="The system message.")
@model_options
@click.option("--hide-thinking", is_flag=True, help="Do not show the thinking.")
@click.pass_context
def command(context: click.Context, system: str | None, options: Options, hide_thinking: bool) -> None:
    """Talk with a model; /help lists what can be set on the way.

    Without a terminal each line of stdin is a turn; answers go to stdout, the rest to stderr.
    """
    conversation = Conversation(system, options.thinking, options.thinking_budget, options.model or "demo")
    with open_model(options) as model:
        if sys.stdin.isatty():
            notice("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
        chat = Chat(model, conversation, options, hide_thinking)
        with contextlib.suppress(Leave):
            for line in turns():
                chat.turn(line)
    if chat.failed and not sys.stdin.isatty():
        context.exit(2)


class Chat:
    """Answers turns until there are none. ``failed`` says whether any could not be answered."""

    def __init__(self, model: ChatModel, conversation: Conversation, options: Options, hide_thinking: bool) -> None:
        self.model, self.conversation = model, conversation
        self.options, self.hide_thinking = options, hide_thinking
        self.failed = False
        self.last: Completion | None = None

    def turn(self, line: str) -> None:
        """One line of the user's: a command, or a message to answer."""
        if not line.strip():
            return
        try:
            check_text(line)
            said = run_command(self.conversation, line.rstrip())
        except InvalidRequest as error:
            self._refuse(error)
            return
        except More as more:
            self._more(more.tokens)
            return
        if said is not None:
            notice(said)
            return
        self.conversation.ask(line.strip())
        self._answer(
            lambda: self.model.stream(
                self.conversation.prompt(),
                thinking=self.conversation.thinking,
                thinking_budget=self.conversation.budget,
                tools=None,
                params=self.options.params,
            )
        )

    def _more(self, tokens: int | None) -> None:
        """Answer the last question again, from a longer thought; the answer that was stays if there is no other."""
        last = self.last
        if last is None or last.resume is None or self.conversation.messages[-1:] != [last.to_message()]:
            self._refuse(InvalidRequest("/more goes on with a thought that the budget has just cut short: see /budget"))
            return
        budget = None if tokens is None else (last.resume.thinking_budget or 0) + tokens
        messages = self.conversation.messages
        before = list(messages)
        messages.pop()
        if not self._answer(lambda: self.model.stream_extend(last, budget)):
            messages[:], self.last = before, last

    def _refuse(self, error: InvalidRequest) -> None:
        self.failed = True
        notice(str(error))

    def _answer(self, start: Callable[[], Iterator[Event]]) -> bool:
        """Show an answer to the last question and keep what there is of it. False if it is not whole."""
        view = self._view()
        self.last = None
        try:
            play(start(), view)
        except KeyboardInterrupt:
            notice("[stopped]")
            self.conversation.answer(view.answer, interrupted=True)
            return False
        except QwenError as error:
            self.conversation.take_back()
            self.failed = True
            show_error(str(error))
            return False
        notice(view.answer.summary())
        self.conversation.answer(view.answer)
        self.last = view.answer.completion()
        return True

    def _view(self) -> View:
        if sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
            from .live import LiveView

            return LiveView(hide_thinking=self.hide_thinking)
        return PlainView(sys.stdout, sys.stderr, hide_thinking=self.hide_thinking)


def turns() -> Iterator[str]:
    """What the user says, one turn at a time: typed (with editing and history, where readline is there) or piped."""
    if not sys.stdin.isatty():
        for number, line in enumerate(sys.stdin.buffer, 1):
            yield decode(line, f"stdin, line {number}").rstrip("\r\n")
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (its import gives input() editing and history)
    while True:
        try:
            yield _typed()
        except KeyboardInterrupt:
            notice("\n(Ctrl-D or /exit leaves)")
        except EOFError:
            print(file=sys.stderr)
            return


def _typed() -> str:
    lines = [_input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(_input(". "))
    return "\n".join(lines)


def _input(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    # input() would put its prompt into the redirected answers.
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
