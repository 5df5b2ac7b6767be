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
        used = min(cached, len(prompt) - 1)  # an answer begins behind a token that is computed
        return CacheReport(len(prompt), used, None, "", "", _without_divergence(cached, bool(rest)))
    talk = _Talk(list(prompt[:cached]), list(following), rest, tokenizer)
    reason = talk.reason() if cached else "another prompt from its first token on"
    shown, wanted = (tokenizer.decode(list(tokens[:_SHOWN])) for tokens in (following, rest))
    return CacheReport(len(prompt), cached, cached, shown, wanted, reason)


def _without_divergence(cached: int, more: bool) -> str:
    if not cached:
        return "nothing is stored"
    return "all that is stored is used, and new text follows" if more else "the whole prompt is stored"


class _Talk:
    """Two prompts with the same beginning. Turns are told apart by the token that begins them, not by its text, which
    a message may hold as well."""

    def __init__(self, before: list[int], stored: list[int], asked: list[int], tokenizer: Tokenizer) -> None:
        self.start, self.decode = tokenizer.token_id(_TURN), tokenizer.decode
        self.before, self.stored, self.asked = before, stored, asked
        self.starts = [at for at, token in enumerate(before) if token == self.start]

    def reason(self) -> str:
        turn = self.decode(self.before[self.starts[-1] + 1 :]) if self.starts else ""
        role, found, _ = turn.partition("\n")
        if not found:  # between two messages, or inside the name of a role
            return "an earlier message was added, removed or given another role"
        tools = [_tools(self._first_turn(tokens)) for tokens in (self.stored, self.asked)]
        if tools[0] != tools[1]:
            return _tools_reason(*tools)
        if role == "system" and len(self.starts) == 1:
            return "the system text changed"
        if role == "assistant":
            return self._assistant_reason(turn)
        if role not in [self._role(at) for at in self.starts[:-1]]:
            return f"the first message of the {role} changed"
        if self.asked.count(self.start or 0) <= 1:  # behind it, only the answer begins
            return f"the message of the {role} that is to be answered is another"
        return f"an earlier message of the {role} changed"

    def _assistant_reason(self, turn: str) -> str:
        thoughts = [_THINK in turn + self.decode(self._turn(tokens)) for tokens in (self.stored, self.asked)]
        if self.start not in self.asked:
            return "the answer is to begin in another way: thinking was turned on or off, or it was begun for the model"
        if thoughts == [True, False]:
            return "the thought of an earlier answer was removed, as the chat template does once it is answered"
        return "an earlier answer changed"

    def _turn(self, tokens: list[int]) -> list[int]:
        """What is left of the turn that both are in."""
        return tokens[: tokens.index(self.start)] if self.start in tokens else tokens

    def _first_turn(self, tokens: list[int]) -> str:
        whole = self.before[self.starts[0] + 1 :] + tokens
        return self.decode(self._turn(whole))

    def _role(self, at: int) -> str:
        return self.decode(self.before[at + 1 : at + 8]).partition("\n")[0]


def _tools(turn: str) -> list[str]:
    """The tools that a system turn lists, one a line."""
    if not turn.startswith("system\n"):
        return []
    found = re.search(r"<tools>\n(.*?)\n?(?:</tools>|$)", turn, re.DOTALL)
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
