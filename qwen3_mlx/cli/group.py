"""The group of commands, each found by name when it is asked for."""

from __future__ import annotations

import importlib

import click

# Where each command's `command` is. Only convert lives elsewhere: it is a program of its own, too.
COMMANDS = {
    "generate": "qwen3_mlx.cli.generate",
    "chat": "qwen3_mlx.cli.chat",
    "serve": "qwen3_mlx.cli.serve",
    "demo": "qwen3_mlx.cli.demo",
    "models": "qwen3_mlx.cli.models",
    "bench": "qwen3_mlx.cli.bench",
    "doctor": "qwen3_mlx.cli.doctor",
    "convert": "qwen3_mlx.convert.command",
}


class LazyGroup(click.Group):
    """Imports a command's module when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        command: click.Command | None = importlib.import_module(module).command if module else None
        return command


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"qwen3-mlx {version('qwen3-mlx')}")
        ctx.exit()


@click.command(
    "qwen3-mlx",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: qwen3-mlx demo, then qwen3-mlx chat --model qwen3:4b. Every command has its own --help.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Print it.")
def group() -> None:
    """Qwen3 on Apple silicon: talk to it, convert it, see what is there."""
