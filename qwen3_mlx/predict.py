"""What a Mac may decode, from a model's config and the chip: a model, not a measurement.

A decode step reads :func:`qwen3_mlx.costs.step_bytes` and launches :func:`qwen3_mlx.costs.dispatches` kernels.

- The **bound** is what memory bandwidth alone allows: no step takes less time than its bytes at the bandwidth that
  Apple publishes for the chip, unless they are so few that the chip's caches hold them (``CACHES``).
- The **band**, of one row alone: its bytes at 75 % of that bandwidth and 4 us a launch (low), or at 90 % and 1 us
  (high). These four numbers are no measurements of this project. They were chosen so that the band holds what others
  have published of mlx-lm and runtimes on it, given *their* launches (``tests/test_predict.py`` has the list).

The model knows nothing of the host's time, of drawing a token, of a chip that throttles, or of a kernel that is refused
there. It says nothing of prompts, which arithmetic bounds (Apple publishes no rates of it), and has no band for several
rows together, for lack of anything published to hold it to; many rows are bound by arithmetic, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from . import costs
from .chips import Chip, working_set
from .config import ModelConfig, QuantSpec

LABEL = "a model, not a measurement"
#: Bytes that the caches of a chip may hold (the largest are said to have 96 MB): what is read of so few again and again
#: does not come from memory, whose bandwidth then bounds nothing.
CACHES = 100_000_000


class Pace(NamedTuple):
    """``share`` of the published bandwidth, and seconds a ``launch``."""

    share: float
    launch: float


SLOW, FAST = Pace(0.75, 4e-6), Pace(0.90, 1e-6)
#: Tokens of context where nobody says how many.
CONTEXT = 1024
#: Tokens of a prompt that go at a time where memory is short, and positions times heads that a GPU unpacks at a time:
#: what the engine's admission reckons with.
LEAST_CHUNK, UNPACKED = 64, 32768


class Band(NamedTuple):
    """Tokens per second."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model is to run: weights packed as ``spec`` (``None``: bf16), a cache of ``kv_bits`` (``None``: bf16), and
    ``rows`` of ``context`` tokens each."""

    spec: QuantSpec | None = None
    kv_bits: int | None = None
    context: int = CONTEXT
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """``read``: bytes a step; ``launches``: kernels a step, ``None`` where our kernels do not take the shape; ``bound``
    and ``band``: tokens/s of all rows together; ``band``: ``None`` where there is none. ``longest``: by memory size
    (GB), the tokens that one conversation may have there, 0 where the model does not load; ``fits``: the least size on
    which the setting runs, ``None`` if there is none."""

    chip: Chip
    read: float
    launches: int | None
    bound: float
    band: Band | None
    longest: dict[int, int]
    fits: int | None


def predict(config: ModelConfig, chip: Chip, setting: Setting) -> Prediction:
    """What ``chip`` may decode of a model of this shape."""
    spec, kv_bits, context, rows = setting.spec, setting.kv_bits, setting.context, setting.rows
    read = costs.step_bytes(config, costs.bytes_by_role(config, spec=spec), context, rows, kv_bits)
    launches = costs.dispatches(config, spec, context, rows, kv_bits)
    footprint = costs.Footprint(config, costs.weight_bytes(config, spec=spec), kv_bits=kv_bits, unpacked=UNPACKED)
    needed = footprint.peak([(rows, -(-(context + 1) // costs.CACHE_STEP) * costs.CACHE_STEP)], LEAST_CHUNK)
    limits = {memory: working_set(memory) for memory in chip.memory}
    return Prediction(
        chip=chip,
        read=read,
        launches=launches,
        bound=bound(read, chip.bandwidth, rows),
        band=band(read, launches, chip.bandwidth) if launches is not None and rows == 1 else None,
        longest={
            memory: min(footprint.tokens(limit, LEAST_CHUNK), config.max_position_embeddings)
            for memory, limit in limits.items()
        },
        fits=next((memory for memory, limit in limits.items() if needed <= limit), None),
    )


def bound(read: float, bandwidth: float, rows: int = 1) -> float:
    """Tokens per second that a bandwidth (GB/s) allows at most to ``rows`` rows, which take ``read`` bytes a step."""
    return rows * bandwidth * 1e9 / read


def band(read: float, launches: int, bandwidth: float) -> Band:
    """What one row may get of that."""
    low, high = (1 / (read / (pace.share * bandwidth * 1e9) + launches * pace.launch) for pace in (SLOW, FAST))
    return Band(low, high)
