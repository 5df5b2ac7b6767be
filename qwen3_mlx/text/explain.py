"""Why a prompt is not, or not wholly, what was computed before: in words, from the two texts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ..types import CacheReport
from .tokenizer import Tokenizer

_SHOWN = 24  # tokens of each text that are told
_TURN = "<|im_start|>"
_THINK = "<think>"


def explain(prompt: Sequence[int], cached: int, following: Sequence[int], tokenizer: Tokenizer) -> CacheReport:
    """``cached`` tokens of ``prompt`` are stored, and behind them ``following``, which the prompt does not go on
    with."""
    rest = list(prompt[cached:])
    if not rest or not following:
        return CacheReport(len(prompt), cached, None, "", "", _without_divergence(cached, bool(rest)))
    before = tokenizer.decode(list(prompt[:cached]))
    stored, asked = tokenizer.decode(list(following)), tokenizer.decode(rest)
    reason = _reason(before, stored, asked) if cached else "another prompt from its first token on"
    shown, wanted = (tokenizer.decode(list(tokens[:_SHOWN])) for tokens in (following, rest))
    return CacheReport(len(prompt), cached, cached, shown, wanted, reason)


def _without_divergence(cached: int, more: bool) -> str:
    if not cached:
        return "nothing is stored"
    return "all that is stored is used, and new text follows" if more else "the whole prompt is stored"


def _reason(before: str, stored: str, asked: str) -> str:
    if "<tools>" in before + asked or "<tools>" in before + stored:
        tools = [_tools(before + text) for text in (stored, asked)]
        if tools[0] != tools[1]:
            return _tools_reason(*tools)
    head, _, turn = before.rpartition(_TURN)
    role, _, _ = turn.partition("\n")
    first = f"{_TURN}{role}" not in head
    if not turn or role == turn:  # between two messages, or inside the name of a role
        return "an earlier message was added, removed or given another role"
    if role == "system" and first:
        return "the system text changed"
    if role == "assistant":
        return _assistant_reason(turn, stored, asked)
    return "the first message of the user changed" if first else f"an earlier message of the {role} changed"


def _assistant_reason(turn: str, stored: str, asked: str) -> str:
    thought = _THINK in turn + stored.split(_TURN)[0]
    if thought and _TURN in asked and _THINK not in turn + asked.split(_TURN)[0]:
        return "the thought of an earlier answer was removed, as the chat template does once it is answered"
    if _TURN not in asked:
        return "the answer is to begin in another way: thinking was turned on or off, or it was begun for the model"
    return "an earlier answer changed"


def _tools(text: str) -> list[str]:
    """The tools of a prompt as it lists them, one a line."""
    found = re.search(r"<tools>\n(.*?)\n?(?:</tools>|$)", text, re.DOTALL)
    return found[1].split("\n") if found else []


def _tools_reason(stored: list[str], asked: list[str]) -> str:
    if sorted(stored) == sorted(asked):
        return "the tools were reordered"
    names = [[_name(line) for line in lines] for lines in (stored, asked)]
    gone, new = ([name for name in one if name not in other] for one, other in (names, names[::-1]))
    if gone or new:
        changes = [f"{len(gone)} removed ({', '.join(gone)})"] * bool(gone) + [
            f"{len(new)} added ({', '.join(new)})"
        ] * bool(new)
        return f"the tools changed: {', '.join(changes)}"
    changed = [name for name, line in zip(names[1], asked, strict=True) if line not in stored]
    return f"the tools changed: the schema of {', '.join(changed)}"


def _name(line: str) -> str:
    try:
        return str(json.loads(line)["function"]["name"])
    except (ValueError, LookupError, TypeError):
        return line[:40]
