"""Log-probabilities of a prompt's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ..sampling import raw_logprobs
from ..types import TokenLogprob

PIECE = 4  # positions whose logits are there at a time: no more memory than a draw takes


def score(
    head: Callable[[mx.array], mx.array], hidden: mx.array, targets: Sequence[int], width: int
) -> list[TokenLogprob]:
    """How likely ``targets`` were, one behind each position of ``hidden`` [positions, hidden], which ``head`` turns
    into logits. ``width``: how many of the most likely tokens to tell with each. Waits for the device."""
    scores: list[TokenLogprob] = []
    for at in range(0, len(targets), PIECE):
        piece = targets[at : at + PIECE]
        drawn, ids, values = raw_logprobs(head(hidden[at : at + len(piece)]), mx.array(list(piece)), width)
        found: Any = drawn.tolist()
        top: Any = [[] for _ in piece]
        if ids is not None and values is not None:
            top = [list(zip(*pair, strict=True)) for pair in zip(_list(ids), _list(values), strict=True)]
        scores += [TokenLogprob(*one) for one in zip(piece, found, map(tuple, top), strict=True)]
    return scores


def _list(array: mx.array) -> list[Any]:
    return array.tolist()  # type: ignore[return-value]  # typed as if every array could be a scalar
