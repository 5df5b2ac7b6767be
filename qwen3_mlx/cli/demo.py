"""`qwen3-mlx demo`: the chat example of the Qwen3 release, played on the embedded checkpoint."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from .answer import PlainView, play
from .conversation import Conversation
from .model import SUGGESTED, open_model
from .options import Options, model_options
from .terminal import notice

TURNS = (
    "strawberries 这个单词里有多少个 'r'?",
    "那么，blueberries 这个单词里有多少个 'r'? /no_think",
    "真的吗？请再想想。 /think",
)


@click.command(
    "demo",
    epilog="\b\nExamples:\n  qwen3-mlx demo\n  qwen3-mlx demo --model demo-moe\n  qwen3-mlx demo --model qwen3:4b\n",
    short_help="Play the release's chat example.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@model_options
def command(options: Options) -> None:
    """Play three turns: a question, one answered without thinking, and a second thought.

    Thoughts and answers appear on stdout as they stream.
    """
    options = replace(options, model=options.model or "demo")
    if options.params.seed is None:  # the same show every time
        options = replace(options, params=replace(options.params, seed=0))
    conversation = Conversation(thinking=options.thinking, budget=options.thinking_budget)
    with open_model(options) as model:
        for text in TURNS:
            print(f"> {text}", flush=True)
            conversation.ask(text)
            events = model.stream(
                conversation.prompt(),
                thinking=conversation.thinking,
                thinking_budget=conversation.budget,
                tools=None,
                params=options.params,
            )
            answer = play(events, PlainView(sys.stdout, sys.stdout))
            conversation.answer(answer)
            notice(answer.summary())
            print(flush=True)
    print(f"That was {options.model}. Go on with: qwen3-mlx chat, or qwen3-mlx chat --model {SUGGESTED}")
