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

_BYTES = _NATURAL = Number(int, 0, hint="at least 0")
_COUNT = Number(int, 1, hint="at least 1")
_DESCRIPTOR = Number(int, 0, hint="a file descriptor")
_PROCESS = Number(int, 1, 2**31 - 1, hint="the number of a process")
_PORT = Number(int, 0, 65535, hint="between 0 and 65535")
_SECONDS = Number(float, 0, 1e9, hint="at least 0 seconds")


@click.command(
    "serve",
    epilog=EXAMPLES,
    short_help="Answer OpenAI's API over HTTP.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@server_options
@click.option("--memory-limit", type=_BYTES, help="Bytes of weights, caches and working memory together.")
@click.option("--prefix-cache", "prefix_cache_bytes", type=_BYTES, help="Bytes to keep of former requests.")
@click.option("--alias", "aliases", metavar="NAME", multiple=True, help="Another name for the model; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; others need --api-key.")
@click.option("--port", type=_PORT, default=8080, show_default=True, help="0: any that is free.")
@click.option("--uds", metavar="PATH", help="Listen at a Unix socket that only you can use.")
@click.option("--listen-fd", type=_DESCRIPTOR, help="Listen at an inherited socket.")
@click.option(
    "--api-key",
    "api_keys",
    metavar="KEY",
    multiple=True,
    envvar="QWEN3_MLX_API_KEY",
    help="Clients must send it; repeatable. Or in QWEN3_MLX_API_KEY, which other users cannot see.",
)
@click.option("--api-key-file", type=click.File(encoding="utf-8"), help="Keys, one a line.")
@click.option("--no-auth", is_flag=True, help="Let anybody in who can reach --host.")
@click.option("--allowed-host", "hosts", metavar="NAME", multiple=True, help="A name clients may use; repeatable.")
@click.option("--cors-origin", "origins", metavar="ORIGIN", multiple=True, help="Let its web pages in ('*': all).")
@click.option("--max-batch", type=_COUNT, default=8, show_default=True, help="Answers that are written at a time.")
@click.option("--max-queue", type=_NATURAL, default=64, show_default=True, help="Answers that may wait behind them.")
@click.option("--max-body", type=_BYTES, default=8 << 20, show_default=True, help="Bytes of a request.")
@click.option("--timeout", type=_SECONDS, default=3600.0, show_default=True, help="Seconds of a request.")
@click.option("--grace", type=_SECONDS, default=10.0, show_default=True, help="Seconds for answers at the end.")
@click.option("--parent-pid", type=_PROCESS, help="Exit when this process does.")
@click.option("--ready-fd", type=_DESCRIPTOR, help="Write a line of JSON to it when ready.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--dump-requests", metavar="DIR", help="Keep every request and its answer in DIR, prompts included.")
@click.option("--debug/--no-debug", default=None, help="/v1/debug/cache, quoting what is stored.")
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
