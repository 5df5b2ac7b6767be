"""The command line of the converter; ``__main__`` and ``qwen3-mlx convert`` both run it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import click

from ..errors import UnsupportedModel
from ..packing import BITS, GROUP_SIZES, affine


@click.command(
    "convert",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n"
    "  python -m qwen3_mlx.convert --model Qwen/Qwen3-4B --output qwen3-4b-4bit\n"
    "  python -m qwen3_mlx.convert --model ./my-finetune --output my-finetune-6bit --bits 6\n"
    "  python -m qwen3_mlx.convert --model demo --output /tmp/demo-4bit --group-size 32 --force",
)
@click.option("--model", required=True, metavar="NAME", help="What to convert: a folder, ORG/NAME, or any other name.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to make.")
@click.option(
    "--bits", default=4, show_default=True, metavar="N", help=f"Bits per weight: {', '.join(map(str, BITS))}."
)
@click.option(
    "--group-size",
    default=64,
    show_default=True,
    metavar="N",
    help=f"Weights that share a scale: {', '.join(map(str, GROUP_SIZES))}. Smaller is better and larger.",
)
@click.option("--force", is_flag=True, help="Replace an earlier checkpoint in DIR, once the new one is complete.")
def command(model: str, output: Path, bits: int, group_size: int, force: bool) -> None:
    """Quantize a Qwen3 checkpoint from Hugging Face into MLX weights.

    The result is a folder that this package and mlx-lm both load.
    """
    affine(bits, group_size)  # before a download
    from ..hub import ALIASES, EMBEDDED, names, resolve
    from . import convert
    from .report import Progress, summary
    from .save import check_output

    if (alias := ALIASES.get(model.lower())) is not None:
        original = alias.repo.removesuffix("-MLX-4bit")
        raise UnsupportedModel(f"{model} is quantized already ({alias.repo}): convert the original, {original}")
    # A stopped job cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, _stop)
    check_output(output, None, force)
    folder, found = resolve(model), names.parse(model)
    base = found.target if found.kind == "huggingface" else None
    name = model if model in EMBEDDED else folder.name if found.kind == "folder" else found.target
    with Progress() as progress:
        result = convert(
            folder, output, bits=bits, group_size=group_size, force=force, name=name, base=base, progress=progress
        )
    click.echo(summary(result))


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
