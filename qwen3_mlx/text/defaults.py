"""Sampling values nobody asked for: the checkpoint's own, else the release's recommendation for the thinking mode.

Released hybrid checkpoints carry the values of their *thinking* mode in ``generation_config.json``. Where a template
can switch thinking off, such a value gives way in non-thinking mode to the release's recommendation for that mode; a
value that somebody changed holds in both. Templates without a switch have one mode, and their file speaks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InvalidRequest
from ..types import SamplingParams
from ..values import frozen
from .chat import ChatTemplate
from .tokenizer import read_json

FILE = "generation_config.json"
THINKING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
NON_THINKING = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}
_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_OFF: dict[str, Any] = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}}
MAX_LOGPROBS = 20
#: Of a value in either direction: with it, sums of scores stay finite in the sampler's float32.
_MOST = 1e30


@frozen
class Defaults:
    """What ``None`` stands for in each mode: every field but ``seed``, ``max_tokens`` and ``logprobs`` is set."""

    thinking: SamplingParams
    non_thinking: SamplingParams

    @classmethod
    def from_folder(cls, folder: Path | str, *, hybrid: bool | None = None) -> Defaults:
        """Reads ``generation_config.json``, which may be absent. ``hybrid``: the template can switch thinking on and
        off (``ChatTemplate.hybrid``, looked up in the folder unless given). Raises CheckpointError for values that no
        sampler can honour.
        """
        if hybrid is None:
            hybrid = ChatTemplate.from_folder(folder).hybrid
        path = Path(folder) / FILE
        config = read_json(path) or {}
        given = {key: config[key] for key in _KEYS if config.get(key) is not None}
        if config.get("do_sample") is False:
            given["temperature"] = 0.0
        try:
            validate(SamplingParams(**given))
        except InvalidRequest as error:
            raise CheckpointError(str(error), path) from None
        chosen = {key: value for key, value in given.items() if not (hybrid and value == THINKING.get(key))}
        return cls(
            thinking=SamplingParams(**{**_OFF, **THINKING, **given}),
            non_thinking=SamplingParams(**{**_OFF, **NON_THINKING, **chosen}),
        )

    def resolve(self, params: SamplingParams, thinking: bool, vocab_size: int | None = None) -> SamplingParams:
        """``params`` checked (see ``validate``) and filled in (see ``resolve``) for one mode."""
        validate(params, vocab_size)
        return resolve(params, thinking, self)


def resolve(params: SamplingParams, thinking: bool, defaults: Defaults) -> SamplingParams:
    """``params`` with every ``None`` filled in, but for ``seed`` (the engine draws one), ``max_tokens`` (as many as the
    context holds) and ``logprobs`` (none). The seed is folded to 64 bits. ``params`` must be valid.
    """
    base = defaults.thinking if thinking else defaults.non_thinking
    missing = {key: getattr(base, key) for key in (*_KEYS, *_OFF) if getattr(params, key) is None}
    seed = None if params.seed is None else params.seed & (2**64 - 1)
    return replace(params, **missing, seed=seed, stop=tuple(params.stop))


def validate(params: SamplingParams, vocab_size: int | None = None) -> None:
    """Raises InvalidRequest naming the first value that cannot be honoured, and what could be.

    ``vocab_size`` (ids of the model's output) bounds ``top_k`` and the ids of ``logit_bias``.
    """
    _number(params, "temperature", low=0, hint="0 is greedy, 0.6 is usual")
    _number(params, "top_p", low=0, high=1, open_low=True, hint="1 turns it off")
    _number(params, "min_p", low=0, high=1, hint="0 turns it off")
    _number(params, "repetition_penalty", low=1 / _MOST, hint="1 turns it off")
    _number(params, "presence_penalty", hint="0 turns it off")
    _number(params, "frequency_penalty", hint="0 turns it off")
    _integer(params, "top_k", low=0, high=vocab_size, hint="0 turns it off")
    _integer(params, "max_tokens", low=1)
    _integer(params, "logprobs", low=0, high=MAX_LOGPROBS)
    _integer(params, "seed")
    _stop(params.stop)
    _logit_bias(params.logit_bias, vocab_size)


def _number(
    params: SamplingParams,
    name: str,
    low: float = -_MOST,
    high: float = _MOST,
    open_low: bool = False,
    hint: str = "",
) -> None:
    value = getattr(params, name)
    if value is None:
        return
    if not _is_between(value, low, high) or (open_low and value == low):
        raise _refusal(name, value, "a number", low, high, open_low, hint)


def _integer(
    params: SamplingParams, name: str, low: int | None = None, high: int | None = None, hint: str = ""
) -> None:
    value = getattr(params, name)
    if value is None:
        return
    low_bound, high_bound = -math.inf if low is None else low, math.inf if high is None else high
    if isinstance(value, bool) or not isinstance(value, int) or not low_bound <= value <= high_bound:
        raise _refusal(name, value, "a whole number", low_bound, high_bound, False, hint)


def _refusal(name: str, value: Any, kind: str, low: float, high: float, open_low: bool, hint: str) -> InvalidRequest:
    bounds = []
    if low > -math.inf:
        bounds.append(f"above {low}" if open_low else f"at least {low}")
    if high < math.inf:
        bounds.append(f"at most {high}")
    span = " and ".join(bounds) or "finite"
    note = f" ({hint})" if hint else ""
    return InvalidRequest(f"{name} must be {kind}, {span}{note}; got {value!r}", param=name)


def _is_between(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _stop(stop: Any) -> None:
    if isinstance(stop, (str, bytes)) or not isinstance(stop, (tuple, list)):
        raise InvalidRequest("stop must be a list of strings", param="stop")
    for text in stop:
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"a stop string must be text and not empty; got {text!r}", param="stop")


def _logit_bias(bias: Any, vocab_size: int | None) -> None:
    if bias is None:
        return
    if not isinstance(bias, Mapping):
        raise InvalidRequest("logit_bias must map token ids to numbers", param="logit_bias")
    for token, value in bias.items():
        where = f"logit_bias[{token!r}]"
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InvalidRequest(f"{where}: a token id must be a whole number, at least 0", param="logit_bias")
        if vocab_size is not None and token >= vocab_size:
            raise InvalidRequest(f"{where}: the vocabulary ends at {vocab_size - 1}", param="logit_bias")
        if not _is_between(value, -_MOST, _MOST):
            bounds = f"at least {-_MOST} and at most {_MOST}"
            raise InvalidRequest(f"{where} must be a number, {bounds}; got {value!r}", param="logit_bias")
