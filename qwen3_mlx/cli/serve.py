"""`qwen3-mlx serve`, also `python -m qwen3_mlx.server`: OpenAI's API on this machine."""

from __future__ import annotations

from typing import Any

import click

from .options import Number, Options, server_options

EXAMPLES = """\b
Examples:
  qwen3-mlx serve --model qwen3:4b
  qwen3-mlx serve --model qwen3:4b --host 0.0.0.0 --api-key "$KEY"
  qwen3-mlx serve --model ./my-qwen --alias gpt-4o --port 0
  qwen3-mlx serve --model qwen3:4b --uds ~/.qwen.sock --parent-pid $$ --log-format json
"""


@click.command(
    "serve",
    epilog=EXAMPLES,
    short_help="Answer OpenAI's API over HTTP.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@server_options
@click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Another name for the model; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need --api-key.")
@click.option("--port", type=Number(int, 0, 65535, hint="0 to 65535 (0: any)"), default=8080, show_default=True)
@click.option("--uds", metavar="PATH", help="Listen at a Unix socket that only you can use.")
@click.option("--listen-fd", type=Number(int, 0, hint="a file descriptor"), help="Listen at an inherited socket.")
@click.option("--api-key", "api_keys", metavar="KEY", multiple=True, help="Clients must send it; repeatable.")
@click.option("--api-key-file", type=click.File(encoding="utf-8"), help="Keys, one a line.")
@click.option("--no-auth", is_flag=True, help="Let anybody in who can reach --host.")
@click.option("--allowed-host", "hosts", metavar="NAME", multiple=True, help="A name clients may use; repeatable.")
@click.option("--cors-origin", "origins", metavar="ORIGIN", multiple=True, help="Let its web pages in ('*': all).")
@click.option("--max-batch", type=Number(int, 1, hint="at least 1"), default=8, show_default=True, help="Running.")
@click.option("--max-queue", type=Number(int, 0, hint="at least 0"), default=64, show_default=True, help="Waiting.")
@click.option("--max-body", type=Number(int, 1024, hint="at least 1024 bytes"), default=8 << 20, show_default=True)
@click.option(
    "--timeout",
    type=Number(float, 1, hint="at least 1 s"),
    default=3600.0,
    show_default=True,
    help="Per request, seconds.",
)
@click.option(
    "--grace",
    type=Number(float, 0, hint="at least 0 s"),
    default=10.0,
    show_default=True,
    help="For running answers at the end, seconds.",
)
@click.option("--parent-pid", type=Number(int, 1, hint="a process id"), help="Exit when this process does.")
@click.option(
    "--ready-fd", type=Number(int, 0, hint="a file descriptor"), help="Write a line of JSON to it when ready."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option("--dump-requests", metavar="DIR", help="Keep every request and its answer in DIR, prompts included.")
@click.option("--debug/--no-debug", default=None, help="/v1/debug/cache; on where only this machine can ask.")
@click.pass_context
def command(context: click.Context, options: Options, **given: Any) -> None:
    """Serve a model to OpenAI's clients: chat completions, completions, models.

    Listens at 127.0.0.1 only, unless told otherwise. A line on stdout says when and where; the log goes to stderr.
    Ctrl-C or SIGTERM lets running answers finish first.
    """
    from ..server.start import start

    status = start(options, given)
    if status:
        context.exit(status)
