"""`qwen3-mlx generate`, also `python -m qwen3_mlx.generate`: one prompt in, one answer out.

Nothing heavy may be imported on the way to the first token: no rich, no numpy, no hub client.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any

import click

from ..errors import InvalidRequest
from ..types import Event
from ..values import frozen
from .answer import PlainView, SilentView, completion_to_json, play
from .files import check_text, parse_messages, parse_tools, read_json, read_stdin, unmarked
from .model import ChatModel, open_model
from .options import Options, model_options
from .terminal import notice

EXAMPLES = """\b
Examples:
  qwen3-mlx generate "How many r's are in strawberries?"
  qwen3-mlx generate --model qwen3:4b --thinking-budget 512 "Prove that 7 is prime"
  git diff | qwen3-mlx generate --system "Write a commit message" --no-thinking
  qwen3-mlx generate --messages chat.json --tools tools.json --json
"""


@frozen
class Task:
    """What is to be generated: a plain continuation of ``raw``, or an answer to ``messages``."""

    raw: str | None
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    def start(self, model: ChatModel, options: Options) -> Iterator[Event]:
        if self.raw is not None:
            return model.stream_raw(self.raw, params=options.params)
        return model.stream(
            self.messages,
            thinking=options.thinking,
            thinking_budget=options.thinking_budget,
            tools=self.tools,
            params=options.params,
        )


@click.command(
    "generate",
    epilog=EXAMPLES,
    short_help="Answer one prompt.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--messages", "messages_file", metavar="FILE", help="A conversation (JSON) that PROMPT, if any, ends.")
@click.option("--tools", "tools_file", metavar="FILE", help="Tool schemas in OpenAI's shape (JSON).")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing before it is complete.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as plain text, without the chat template.")
@click.option("--hide-thinking", is_flag=True, help="Do not show the thinking.")
def command(
    prompt: str | None,
    system: str | None,
    messages_file: str | None,
    tools_file: str | None,
    options: Options,
    as_json: bool,
    raw: bool,
    hide_thinking: bool,
) -> None:
    """Answer PROMPT (or what is piped in; `-` reads stdin).

    The answer goes to stdout; thinking and a summary line go to stderr. Tool calls are printed one a line, as JSON.
    """
    if raw:
        _refuse_with_raw(system, messages_file, tools_file, options)
    task = _task(prompt, system, messages_file, tools_file, raw)
    view = SilentView() if as_json else PlainView(sys.stdout, sys.stderr, hide_thinking=hide_thinking)
    with open_model(options, once=True) as model:
        events = task.start(model, options)
        gc.freeze()  # what is loaded stays: looking through it would come right before the first token
        gc.enable()  # `python -m qwen3_mlx.generate` starts without it
        answer = play(events, view)
    if as_json:
        print(completion_to_json(options.model or "demo", answer.completion(), hide_thinking))
    else:
        notice(answer.summary())


def _task(prompt: str | None, system: str | None, messages_file: str | None, tools_file: str | None, raw: bool) -> Task:
    """Everything about the request that can be wrong without a model is found out here."""
    if messages_file == prompt == "-":
        raise InvalidRequest("stdin cannot be both the messages and the prompt: put one of them in a file")
    document = read_json(messages_file) if messages_file else None
    tools = parse_tools(read_json(tools_file), tools_file) if tools_file else None
    if messages_file is None or prompt == "-":
        prompt = _prompt(prompt)
    elif prompt is not None:
        prompt = check_text(prompt)
    if raw:
        return Task(prompt, [], None)
    messages = unmarked(parse_messages(document, messages_file)) if messages_file else []
    if tools is None and isinstance(document, dict) and document.get("tools") is not None:
        tools = parse_tools(document, str(messages_file))
    if system is not None:
        if messages and messages[0]["role"] in ("system", "developer"):
            raise InvalidRequest(f"{messages_file} has a system message already: drop --system, or that message")
        messages.insert(0, {"role": "system", "content": check_text(system, "--system")})
    if prompt is not None:
        messages.append({"role": "user", "content": prompt})
    return Task(None, messages, tools)


def _prompt(given: str | None) -> str:
    if given is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InvalidRequest("no prompt: give it as an argument, pipe it in, or talk with `qwen3-mlx chat`")
    return check_text(read_stdin() if given in (None, "-") else str(given))


def _refuse_with_raw(system: str | None, messages_file: str | None, tools_file: str | None, options: Options) -> None:
    given = {"--system": system, "--messages": messages_file, "--tools": tools_file}
    given["--thinking-budget"] = None if options.thinking_budget is None else str(options.thinking_budget)
    for name, value in given.items():
        if value is not None:
            raise InvalidRequest(f"--raw continues plain text and has no use for {name}: drop one of them")
