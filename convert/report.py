"""What a person sees of a conversion: a progress bar, a summary, and the model card."""

from __future__ import annotations

import shlex
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ..config import QuantSpec

if TYPE_CHECKING:
    import rich.progress

    from .quantize import Result
    from .source import Source

_PATIENCE = 2.0  # seconds before a bar appears: what is over sooner needs none


class Progress:
    """A bar on stderr, if that is a terminal and the work takes longer than two seconds."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._bar: rich.progress.Progress | None = None
        self._wanted = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are converted."""
        if not self._wanted or (self._bar is None and time.perf_counter() - self._begun < _PATIENCE):
            return
        if self._bar is None:
            self._bar = self._start(total)
        self._bar.update(self._bar.task_ids[0], completed=done)

    def _start(self, total: int) -> rich.progress.Progress:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), transient=True)
        bar.add_task("", total=total)
        bar.start()
        return bar


def size(count: float) -> str:
    """Bytes for people, in decimal units: ``69 kB``, ``4.2 MB``, ``351 MB``, ``18.4 GB``."""
    unit = 0
    while count >= 999.5 and unit < 3:
        count /= 1000
        unit += 1
    decimals = 1 if unit == 3 or (unit and count < 9.95) else 0
    return f"{count:,.{decimals}f} {('bytes', 'kB', 'MB', 'GB')[unit]}"


def summary(result: Result) -> str:
    """Sizes, bits per weight, time, and what to run next."""
    folder = shlex.quote(str(result.output))
    share = result.bytes_after / result.bytes_before
    return (
        f"{size(result.bytes_before)} -> {size(result.bytes_after)} ({share:.0%}), {result.bits_per_weight:.2f} bits"
        f" per weight, {result.seconds:.1f} s\n"
        f"try it:  python -m qwen3_mlx.generate --model {folder} 'Hello'"
    )


def model_card(name: str, base: str | None, source: Source, spec: QuantSpec, result: Result) -> str:
    """README.md of the result. ``base`` is the source's repository on the Hugging Face hub, if it has one."""
    config = source.config
    lines = ["---", "library_name: mlx", "pipeline_tag: text-generation"]
    lines += [f"base_model: {base}", "base_model_relation: quantized"] if base else []
    lines += ["tags:", "- mlx", "- qwen3", "---", "", f"# {name}, {spec.bits}-bit for MLX", ""]
    router = " The routers that choose the experts have 8 bits." if config.num_experts else ""
    lines += [
        f"Converted from {name} by `qwen3_mlx.convert` to {spec.bits}-bit affine weights in groups of"
        f" {spec.group_size}: {size(result.bytes_before)} became {size(result.bytes_after)},"
        f" {result.bits_per_weight:.2f} bits per weight. Norms are unchanged.{router}",
        "",
        "```bash",
        "python -m qwen3_mlx.generate --model PATH_TO_THIS_FOLDER 'Hello'",
        "mlx_lm.generate --model PATH_TO_THIS_FOLDER --prompt 'Hello'",
        "```",
        "",
    ]
    if config.rope.type == "yarn" and config.num_experts:
        lines += ["The config asks for YaRN, which mlx-lm 0.32.2 ignores for mixture-of-experts models.", ""]
    return "\n".join(lines)
