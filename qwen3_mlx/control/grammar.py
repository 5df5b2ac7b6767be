"""Following a grammar token by token: which tokens may come next, and which must.

llguidance does the parsing; it is loaded with the first request that needs it. It is told the vocabulary once for each
tokenizer: ordinary tokens by their bytes, while tokens that have a name (control tokens) can be produced by no text,
only where a grammar asks for them by id. So an answer under a grammar may contain the text ``</think>``, but never the
token.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import EngineError, InvalidRequest
from ..types import Request

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from .lark import Rule

KEPT = 4  # compiled grammars of a vocabulary; the largest that is let in holds some megabytes


class Controls(Protocol):
    """The ids of control tokens, ``None`` for those the vocabulary lacks."""

    @property
    def think_open(self) -> int | None: ...

    @property
    def think_close(self) -> int | None: ...

    @property
    def tool_call_open(self) -> int | None: ...

    @property
    def tool_call_close(self) -> int | None: ...


class TokenTable(Protocol):
    """What a grammar needs of a tokenizer. ``added``: the tokens that have a name."""

    @property
    def eos_ids(self) -> Set[int]: ...

    @property
    def control(self) -> Controls: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def added(self) -> Mapping[int, str]: ...

    def token_bytes(self, token: int, /) -> bytes: ...

    def encode(self, text: str, /, trusted: bool = True) -> Sequence[int]: ...


class Follower:
    """One answer on its way through its grammar.

    ``thought``: the mask while a thought is still open, in which no answer can end or be a call. A mask has a bit for
    each token, the first in the lowest bit of the first byte, in whole words of 32; tokens beyond it may not come.
    """

    def __init__(self, matcher: LLMatcher, thought: bytes, eos: Set[int], param: str = "schema") -> None:
        self.thought = thought
        self._param = param
        self._matcher = matcher
        self._eos = eos
        self._forced: list[int] = []
        self._look_ahead()

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that come next, whatever the model says; often none."""
        return self._forced

    @property
    def done(self) -> bool:
        """Whether the answer is whole and nothing can follow it."""
        return bool(self._matcher.is_stopped())

    def mask(self) -> bytes:
        """What may come next; an end token exactly where the answer may end. Raises InvalidRequest if the
        grammar turns out to be too complex."""
        if self._forced:
            return mask_of([self._forced[0]], len(self.thought))
        mask: bytes = self._matcher.compute_bitmask()
        self._check()
        return mask[: len(self.thought)]

    def accept(self, token: int) -> None:
        """Go on behind ``token``, which :meth:`mask` has allowed; EngineError for any other."""
        if not self._matcher.consume_token(token):
            if any(sign in self._matcher.get_error() for sign in ("max is", "limit")):  # on what it may hold at a time
                self._check()
            raise EngineError(f"token {token} does not fit the grammar")
        self._check()
        if self._forced and self._forced[0] == token:
            del self._forced[0]
        else:
            self._forced = []
        if not self._forced:
            self._look_ahead()

    def _look_ahead(self) -> None:
        self._forced = self._matcher.compute_ff_tokens()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _line(self._matcher.get_error())
            raise InvalidRequest(f"{self._param} cannot be followed any further: {reason}", param=self._param)


def follow(request: Request, table: TokenTable) -> Follower:
    """The start of an answer to ``request``. Raises InvalidRequest for a grammar that is wrong, too large, or that no
    text fits, naming the parameter."""
    known = _vocabulary(table)
    from .lark import rules

    grammar = rules(request, table.control.tool_call_open, table.control.tool_call_close)
    for rule in grammar:
        if not rule.body.isascii() and any("\ud800" <= char < "\ue000" for char in rule.body):
            raise InvalidRequest(
                f"{rule.param} is not valid Unicode: it has half of a surrogate pair", param=rule.param
            )
    matcher = known.matcher(grammar)
    if matcher.is_error():
        rule, reason = _culprit(known, grammar) or (grammar[-1], matcher.get_error())
        raise InvalidRequest(f"{rule.param} cannot be kept: {_line(reason)}", param=rule.param)
    matcher.compute_bitmask()
    if matcher.is_error():
        param = grammar[-1].param
        raise InvalidRequest(f"{param} cannot be kept, no text fits: {_line(matcher.get_error())}", param=param)
    follower = Follower(matcher, known.thought, table.eos_ids, grammar[-1].param)
    if follower.forced and not matcher.deep_copy().consume_token(follower.forced[0]):
        param = grammar[-1].param
        raise InvalidRequest(f"{param} cannot be kept: what it leaves no choice in never ends, or is too long", param)
    return follower


def mask_of(tokens: Sequence[int], size: int) -> bytes:
    """The mask of ``size`` bytes that allows ``tokens``."""
    mask = bytearray(size)
    for token in tokens:
        mask[token >> 3] |= 1 << (token & 7)
    return bytes(mask)


def with_token(mask: bytes, token: int | None) -> bytes:
    """``mask``, and ``token`` may come as well."""
    if token is None:
        return mask
    changed = bytearray(mask)
    changed[token >> 3] |= 1 << (token & 7)
    return bytes(changed)


def _culprit(known: _Vocabulary, grammar: Sequence[Rule]) -> tuple[Rule, str] | None:
    """The first rule that is wrong by itself, and why."""
    for rule in grammar:
        if rule.body.startswith(("%json", "/")):
            matcher = known.matcher([rule._replace(name="start")])
            if matcher.is_error():
                return rule, matcher.get_error()
    return None


def _line(reason: str) -> str:
    """One line of bounded length, without the source that the compiler draws below a mistake."""
    reason = re.split(r"\n +\d+ \| |\. Enable 'coerce_one_of'| <non-verbose/>", reason)[0]
    return re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", " ".join(reason.split()))[:300]


class _Vocabulary:
    """A tokenizer as llguidance knows it."""

    def __init__(self, table: TokenTable) -> None:
        from llguidance import LLParserLimits, LLTokenizer

        source: Any = _Source(table)
        self.tokenizer = LLTokenizer(source, eos_token=sorted(table.eos_ids))
        thought = (1 << table.vocab_size) - 1
        for token in {*table.eos_ids, table.control.tool_call_open}:
            thought &= ~(1 << token) if token is not None else thought
        self.thought = thought.to_bytes(-(-table.vocab_size // 32) * 4, "little")  # whole words of 32 bits
        self._limits = LLParserLimits(verbose_errors=False)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: Sequence[Rule]) -> LLMatcher:
        """A matcher of its own at the start of ``grammar``. Those compiled last are copied: an agent sends the same
        tools every turn, and ``n`` answers have one schema."""
        from llguidance import LLMatcher

        from .lark import text_of

        text = text_of(grammar)
        with self._lock:
            if (known := self._compiled.get(text)) is not None:
                self._compiled.move_to_end(text)
                return known.deep_copy()
        matcher = LLMatcher(self.tokenizer, text, log_level=0, limits=self._limits)
        if not matcher.is_error():
            with self._lock:
                self._compiled[text] = matcher.deep_copy()
                if len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
        return matcher


class _Source:
    """What LLTokenizer asks for: bytes of all tokens, which of them have a name, and a way to encode plain text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, table: TokenTable) -> None:
        self.eos_token_id = min(table.eos_ids)
        self.tokens = [table.token_bytes(token) for token in range(table.vocab_size)]
        self.special_token_ids = sorted({*table.added, *table.eos_ids})
        self._table = weakref.ref(table)  # a strong one would keep both alive for ever
        self._bytes = {self.tokens[token]: token for token in range(table.vocab_size) if len(self.tokens[token]) == 1}

    def __call__(self, text: str) -> list[int]:
        table = self._table()
        assert table is not None, "whoever follows a grammar has the tokenizer"
        tokens, data = list(table.encode(text, trusted=False)), text.encode()
        # A tokenizer normalises (NFC); a grammar wants each character as it is written.
        if b"".join(map(table.token_bytes, tokens)) != data:
            return [self._bytes[data[i : i + 1]] for i in range(len(data))]
        return tokens


_vocabularies: weakref.WeakKeyDictionary[TokenTable, _Vocabulary] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _vocabulary(table: TokenTable) -> _Vocabulary:
    with _lock:
        known = _vocabularies.get(table)
        if known is None:
            known = _vocabularies[table] = _Vocabulary(table)
        return known
