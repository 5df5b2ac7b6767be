"""The group of commands, each found by name when it is asked for."""

from __future__ import annotations

import importlib

import click

COMMANDS = ("generate", "chat", "demo", "models")


class LazyGroup(click.Group):
    """Commands by name; the module `qwen3_mlx.cli.NAME` holds its `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
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
