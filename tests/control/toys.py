"""A toy vocabulary, and drivers that run the controller as the engine does."""

from __future__ import annotations

import codecs
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

from qwen3_mlx.control.collect import collect
from qwen3_mlx.control.controller import Controller, Emit, Force, Stop
from qwen3_mlx.control.parser import OutputParser, Piece
from qwen3_mlx.types import (
    Completion,
    Event,
    Finished,
    FinishReason,
    Request,
    SamplingParams,
    TextDelta,
    ThinkingDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

CONTROL = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>")
THINK_OPEN, THINK_CLOSE, CALL_OPEN, CALL_CLOSE, EOS = range(256, 261)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


class ToyControls(NamedTuple):
    think_open: int | None = THINK_OPEN
    think_close: int | None = THINK_CLOSE
    tool_call_open: int | None = CALL_OPEN
    tool_call_close: int | None = CALL_CLOSE


class ToyDetokenizer:
    def __init__(self, pieces: dict[int, bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def pending(self) -> bool:
        return bool(self._decoder.getstate()[0])

    def push(self, token: int) -> str:
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ToyVocabulary:
    """Every byte is a token, and so is every control string; ``token`` makes further ones of any bytes."""

    def __init__(self) -> None:
        self._pieces = {i: bytes([i]) for i in range(256)} | {256 + i: s.encode() for i, s in enumerate(CONTROL)}
        self._made: dict[bytes, int] = {}

    eos_ids = frozenset({EOS})
    control = ToyControls()
    added: ClassVar[dict[int, str]] = {256 + i: name for i, name in enumerate(CONTROL)}

    @property
    def tokens(self) -> Iterable[int]:
        return self._pieces

    @property
    def vocab_size(self) -> int:
        return max(self._pieces) + 1

    def token_bytes(self, token: int) -> bytes:
        return self._pieces.get(token, b"")

    def token(self, piece: bytes) -> int:
        if piece not in self._made:
            self._made[piece] = 1000 + len(self._made)
            self._pieces[self._made[piece]] = piece
        return self._made[piece]

    def encode(self, text: str, trusted: bool = True) -> list[int]:
        out: list[int] = []
        while text:
            control = next((i for i, s in enumerate(CONTROL) if trusted and text.startswith(s)), None)
            if control is None:
                out += text[0].encode()
                text = text[1:]
            else:
                out.append(256 + control)
                text = text[len(CONTROL[control]) :]
        return out

    def chunks(self, data: bytes, cuts: Iterable[int]) -> list[int]:
        """``data`` as tokens that end at ``cuts``."""
        ends = sorted({c for c in cuts if 0 < c < len(data)} | {0, len(data)})
        return [self.token(data[a:b]) for a, b in itertools.pairwise(ends)]

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._pieces[t] for t in tokens)

    def detokenizer(self) -> ToyDetokenizer:
        return ToyDetokenizer(self._pieces)


def ids() -> Callable[[], str]:
    counter = itertools.count()
    return lambda: f"call_{next(counter)}"


def request(
    *,
    stop: Sequence[str] = (),
    max_tokens: int | None = None,
    logprobs: int | None = None,
    prompt: Sequence[int] = (65,),
    tools: Sequence[Any] = (),
    **rest: Any,
) -> Request:
    params = SamplingParams(stop=tuple(stop), max_tokens=max_tokens, logprobs=logprobs)
    return Request(tuple(prompt), params, tools=tuple(tools), **rest)


def parse(req: Request, pieces: Iterable[str]) -> list[tuple[str, str]]:
    """The merged output of the text-level parser: (kind, text) for text, ("call", name) and ("args", text) for calls.

    Checks that every span says truly where its text stands.
    """
    parser = OutputParser(req, ids())
    whole = ""
    out: list[tuple[str, str]] = []

    def add(items: Iterable[Piece | ToolCallDelta]) -> None:
        for item in items:
            if isinstance(item, ToolCallDelta):
                if item.id is not None:
                    out.append(("call", item.name or ""))
                if item.arguments:
                    merge("args", item.arguments)
                continue
            for at, text in item.spans:
                assert text and whole[at : at + len(text)] == text
                merge(item.kind, text)

    def merge(kind: str, text: str) -> None:
        if out and out[-1][0] == kind:
            out[-1] = (kind, out[-1][1] + text)
        else:
            out.append((kind, text))

    for piece in pieces:
        if parser.stopped:
            break
        whole += piece
        add(parser.feed(piece))
    if not parser.stopped:
        add(parser.finish())
    out.append(("calls", str(parser.calls)))
    return out


class Run(NamedTuple):
    """What came of a run: the tokens that ended up in the sequence (forced ones included), the events, the end."""

    tokens: list[int]
    events: list[Event]
    reason: FinishReason
    usage: Usage
    forced: list[int]

    @property
    def completion(self) -> Completion:
        return collect([*self.events, Finished(self.reason, self.usage)])

    @property
    def thinking(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ThinkingDelta))

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    def shown(self) -> list[int]:
        return [t for e in self.events if isinstance(e, (ThinkingDelta, TextDelta)) for t in e.token_ids]


def run(req: Request, tokens: Iterable[int], vocabulary: ToyVocabulary, *, end: FinishReason = "cancelled") -> Run:
    """Feeds ``tokens`` as the model's samples; what the controller forces goes in between."""
    controller = Controller(req, vocabulary, ids())
    sequence: list[int] = []
    events: list[Event] = []
    forced: list[int] = []
    reason: FinishReason | None = None

    def take(result: Emit | Force | Stop) -> None:
        nonlocal reason
        events.extend(result.events)
        if isinstance(result, Force):
            assert result.tokens
            forced.extend(result.tokens)
            sequence.extend(result.tokens)
        elif isinstance(result, Stop):
            reason = result.reason

    take(controller.start())
    for token in tokens:
        if reason is not None:
            break
        sequence.append(token)
        take(controller.step(token))
    if reason is None:
        reason = end
        events.extend(controller.finish(end))
    assert controller.finish("cancelled") == ()
    return Run(sequence, events, reason, controller.usage(len(req.prompt), 0), forced)


Choose = Callable[[int, Sequence[int]], int]
"""The model: what to draw at a position, out of the tokens that a mask allows."""


def draw(seed: int) -> Choose:
    """Anything, depending on the position alone."""
    return lambda position, options: options[random.Random(f"{seed} {position}").randrange(len(options))]


def allowed(mask: bytes | None, vocabulary: ToyVocabulary) -> list[int]:
    """The tokens of the vocabulary that a mask allows."""
    tokens = sorted(vocabulary.tokens)
    return tokens if mask is None else [t for t in tokens if mask[t >> 3] >> (t & 7) & 1]


def play(req: Request, choose: Choose, vocabulary: ToyVocabulary, *, limit: int = 5000) -> Run:
    """Runs a request with a model that keeps to its masks."""
    controller = Controller(req, vocabulary, ids())
    sequence: list[int] = []
    events: list[Event] = []
    forced: list[int] = []
    result: Emit | Force | Stop = controller.start()
    while True:
        events.extend(result.events)
        if isinstance(result, Stop):
            return Run(sequence, events, result.reason, controller.usage(len(req.prompt), 0), forced)
        if isinstance(result, Force):
            sequence.extend(result.tokens)
            forced.extend(result.tokens)
        assert len(sequence) < limit
        sequence.append(choose(len(sequence), allowed(controller.mask(), vocabulary)))
        result = controller.step(sequence[-1], req.params.logprobs and TokenLogprob(sequence[-1], 0.0))
