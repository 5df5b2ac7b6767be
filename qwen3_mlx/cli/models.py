"""`qwen3-mlx models`: the names that need no looking up, and what each would cost."""

from __future__ import annotations

import click


@click.command(
    "models",
    epilog="\b\nExamples:\n  qwen3-mlx models\n  qwen3-mlx models --json\n",
    short_help="List the names a model can be called by.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def command(as_json: bool) -> None:
    """List embedded checkpoints and aliases: where they lead, their size, and whether they are on this machine.

    Any path, ORG/NAME (Hugging Face), modelscope:ORG/NAME or kaggle:HANDLE works as a --model, too.
    """
    from ..hub import EMBEDDED, list_models

    models = list_models()
    if as_json:
        import dataclasses
        import json

        print(json.dumps([dataclasses.asdict(model) for model in models], ensure_ascii=False, indent=2))
        return
    rows = [("NAME", "SIZE", "HERE", "LEADS TO")]
    for model in models:
        here = "-" if not model.local else "embedded" if model.name in EMBEDDED else "cached"
        rows.append((model.name, _size(model.bytes), here, model.target))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, size, here, target in rows:
        print(f"{name:<{widths[0]}}  {size:>{widths[1]}}  {here:<{widths[2]}}  {target}")


def _size(count: int) -> str:
    """Decimal megabytes or gigabytes, as disks and hubs count them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
