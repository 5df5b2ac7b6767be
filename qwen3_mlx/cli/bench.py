"""`qwen3-mlx bench`: what to expect of a chip, what this machine does, and benchmarks side by side with others."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from ..errors import MemoryLimit, Unavailable
from ..predict import CONTEXT, Setting
from .errors import INTERRUPTED
from .options import Number, Options, Width
from .terminal import notice

if TYPE_CHECKING:
    from .bench_run import Receipt, Run

#: Bits that stand for weights which are not packed.
UNPACKED = 16
ELSEWHERE = (
    "the benchmarks beside other runtimes are in this project's repository and not in the package: clone it, and run"
    " `qwen3-mlx bench {name}` in its folder"
)


class Bench(click.Command):
    """A command whose first word, if it is no option, names a benchmark that all other words are for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-"):
            ctx.meta["benchmark"] = args
            args = ["--"]
        return super().parse_args(ctx, args)


@click.command(
    "bench",
    cls=Bench,
    no_args_is_help=True,
    options_metavar="[OPTIONS | BENCHMARK ...]",
    epilog="\b\nExamples:\n"
    "  qwen3-mlx bench --predict M4-Max\n"
    "  qwen3-mlx bench --predict m3-pro --model qwen3:30b-a3b --kv-bits 8 --context 16384\n"
    "  qwen3-mlx bench --model qwen3:4b\n"
    "  qwen3-mlx bench --model qwen3:4b --output receipt.json\n"
    "  qwen3-mlx bench decode --model qwen3:4b        (in a clone of the repository)\n",
    short_help="Predict a chip's speed, measure this machine's.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--predict", metavar="CHIP", help="What a Mac with this chip may decode; measures and downloads nothing.")
@click.option("--model", metavar="NAME", help="A path, ORG/NAME, or an alias such as qwen3:4b. --predict alone: all.")
@click.option(
    "--bits",
    type=Width(2, 3, 4, 5, 6, 8, 16),
    help="Weights of a model that is not quantized: packed while loading; predicted 4, or 16 for none.",
)
@click.option("--kv-bits", type=Width(4, 8), help="Keep the cache of keys and values at this width.")
@click.option(
    "--context",
    "contexts",
    type=Number(int, 1, hint="at least 1 token"),
    multiple=True,
    help=f"Tokens of the prompt; may be given repeatedly for a measurement. Predicted: {CONTEXT}.",
)
@click.option(
    "--batch",
    type=Number(int, 1, 63, hint="from 1 to 63"),
    help="With --predict: conversations that decode together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else on stdout.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the receipt to this file.")
@click.pass_context
def command(
    context: click.Context,
    predict: str | None,
    model: str | None,
    bits: int | None,
    kv_bits: int | None,
    contexts: tuple[int, ...],
    batch: int | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Say how fast a model is: predicted for a chip, or measured here.

    With --predict: from the bytes and the launches of a decode step, a bound that its memory allows no step to pass,
    and a band in which to expect this runtime. That is a model, not a measurement. A chip is named like M4-Max, one of
    its variants like M4-Max-32 (GPU cores).

    With --model alone: prompts and answers of one stream are timed on this machine; on a Mac with the bound of its chip
    and the share of it that was reached. The receipt holds machine, versions and every run, and no names of users or
    paths: attach it to an issue.

    With the NAME of a benchmark, in a clone of the repository: that benchmark, beside other runtimes.
    """
    if "benchmark" in context.meta:
        context.exit(_side_by_side(context.meta["benchmark"]))
    if predict is None and model is None:
        raise click.UsageError("say what: --predict CHIP, --model NAME, or the name of a benchmark", context)
    if predict is not None:
        if output is not None:
            raise click.UsageError("--output keeps a measurement: leave it, or --predict, out", context)
        if len(contexts) > 1:
            raise click.UsageError("--predict takes one --context", context)
        setting = Setting(kv_bits=kv_bits, context=contexts[0] if contexts else CONTEXT, rows=batch or 1)
        _predict(predict, model, bits, setting, as_json)
        return
    if batch is not None:
        raise click.UsageError("--batch belongs to --predict: one stream is measured", context)
    if bits == UNPACKED:
        raise click.UsageError("--bits packs while loading: leave it out to measure a model as it is", context)
    options = Options(model=model, bits=bits, kv_bits=kv_bits)
    context.exit(_measure(options, contexts, as_json, output))


# -- predictions -------------------------------------------------------------------------------------------------------


def _predict(chip: str, name: str | None, bits: int | None, setting: Setting, as_json: bool) -> None:
    from . import bench_predict
    from . import bench_text as text

    found = bench_predict.forecasts(chip, name, bits, setting)
    if as_json:
        print(json.dumps(bench_predict.to_json(found), indent=1))
    else:
        text.predicted(found)


# -- measurements ------------------------------------------------------------------------------------------------------


def _measure(options: Options, asked: tuple[int, ...], as_json: bool, output: Path | None) -> int:
    from ..doctor.receipt import check_output, to_json, write
    from . import bench_text as text

    if output is not None:
        check_output(output)
    done: list[Run] = []
    try:
        made = _run(options, asked, done)
    except KeyboardInterrupt:
        timed = sum(each.timings is not None for each in done)
        notice(f"interrupted: {timed} runs were measured; no receipt was written")
        return INTERRUPTED
    if as_json:
        print(to_json(made))
    else:
        text.measured(made)
    if output is not None:
        write(to_json(made), output)
        notice(f"the receipt is in {output}{': please attach it to an issue' if made.machine.metal else ''}")
    elif made.machine.metal:
        notice("to share this, run it again with --output receipt.json and attach that to an issue")
    return 0


def _run(options: Options, asked: tuple[int, ...], done: list[Run]) -> Receipt:
    """Every run, put into ``done``. A usual length that does not fit is left out; one that was asked for is an
    error."""
    from ..doctor.machine import machine, mode
    from . import bench_run
    from .model import open_model
    from .progress import progress

    chosen, _ = mode()
    with open_model(options, once=True) as model, progress() as show:
        opened = cast(Any, model)
        lengths = bench_run.contexts(asked, opened.context)
        planned = len(lengths) * (1 + bench_run.RUNS)
        for length in lengths:
            show(f"{length:,} tokens", len(done), planned)
            try:
                for run in bench_run.runs(opened, length):
                    done.append(run)
                    show(f"{length:,} tokens", len(done), planned)
            except MemoryLimit as refused:
                if asked or not done:
                    raise
                notice(f"{length:,} tokens are left out: {refused}")
        return bench_run.receipt(opened, options, machine(), chosen, done)


# -- benchmarks of the repository --------------------------------------------------------------------------------------


def _side_by_side(args: list[str]) -> int:
    """Run a benchmark of the checkout in the current folder, with its own arguments; its exit status."""
    here = Path.cwd()
    if not _is_checkout(here):
        raise Unavailable(ELSEWHERE.format(name=args[0]))
    sys.path.insert(0, str(here))
    main = importlib.import_module("benchmarks.__main__").main
    return main(args) or 0


def _is_checkout(folder: Path) -> bool:
    """Whether this is a clone of this project's repository, and not somebody's folder of that name."""
    if not (folder / "benchmarks" / "__main__.py").is_file():
        return False
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return project.get("project", {}).get("name") == "qwen3-mlx"
