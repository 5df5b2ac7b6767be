"""Which size of block decode attention is fastest in, here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..kernels import decode_attention
from ..kernels.attention_trials import ATTENTION
from .cases import ROOM, history
from .catalogue import Use
from .check import spelled
from .timing import ROUNDS, Case, Clock, Side, Times, measure

#: Tokens of a block, about: each is rounded down to whole steps.
SIZES = (64, 128, 256, 512, 1024, 2048)
#: Tokens of the histories.
TOKENS = (4096, 16384)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Milliseconds of a launch and its merge by size of block, over ``tokens`` tokens; ``block`` is the one in use.
    ``disagreeing``: sizes whose result is not that of the one in use, which are not timed."""

    kernel: str
    parameters: tuple[str, ...]
    tokens: int
    block: int
    ms: dict[int, Times]
    disagreeing: tuple[int, ...]

    @property
    def best(self) -> int:
        return min(self.ms, key=lambda block: self.ms[block].median)


def swept(uses: Sequence[Use]) -> list[Use]:
    """The instantiations to sweep: one row of a packed cache, cut into blocks."""
    attention = [use for use in uses if use.trial.kernel == ATTENTION.kernel]
    return [use for use in attention if all(use.parameters[-2:]) and use.parameters[3] != decode_attention.DENSE]


def blocks(sharing: int) -> list[int]:
    step = decode_attention.step_size(sharing)
    return list(dict.fromkeys(max(size // step, 1) * step for size in SIZES))


def sweep(use: Use, tokens: int, room: int = ROOM, clock: Clock = time.perf_counter, rounds: int = ROUNDS) -> Sweep:
    """All sizes in turns."""
    _, sharing, _, bits, group, *_ = use.parameters
    held, own = history(use, 1, tokens, room), decode_attention.block_size(sharing, bits)
    want = held.attend(held.rows[0], bits, group).astype(mx.float32)
    tolerance = 2.0**-6 * mx.max(mx.abs(want))  # one unit of bf16 at the largest value, and a little

    def side(block: int) -> Side:
        return lambda index: [held.attend(held.rows[index % len(held.rows)], bits, group, block)]

    right, wrong = {}, []
    for block in (own, *(size for size in blocks(sharing) if size != own)):
        got = held.attend(held.rows[0], bits, group, block).astype(mx.float32)
        if mx.all(mx.abs(got - want) <= tolerance).item():
            right[block] = side(block)
        else:
            wrong.append(block)
    ms = measure(Case({str(block): right[block] for block in right}, 0, ""), None, clock, rounds).ms
    return Sweep(
        kernel=use.trial.kernel,
        parameters=spelled(use.parameters),
        tokens=tokens,
        block=own,
        ms={int(block): times for block, times in sorted(ms.items(), key=lambda item: int(item[0]))},
        disagreeing=tuple(wrong),
    )
