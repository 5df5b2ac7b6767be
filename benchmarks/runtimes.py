"""Ours and the peers behind one interface: how long a prompt takes, and how fast one answer grows. All greedy."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from qwen3_mlx.config import ModelConfig
from qwen3_mlx.errors import InvalidRequest, MemoryLimit, QwenError

from .machine import on_cpu
from .peers import Peer
from .results import OURS

SAMPLE = "Ünicode, 12345 <|im_start|>user\n  tabs\tand spaces"  # whose tokens two vocabularies hardly have in common
CONTEXT_BYTES = 1 << 40  # of contexts that are kept: as many as there is memory for


class Short(QwenError):
    """An answer that ended before it was to: its speed would be another's."""

    def __init__(self, side: str, tokens: int, wanted: int) -> None:
        super().__init__(f"{side} answered {tokens} tokens instead of {wanted}: nothing can be said of its speed")


class Runtime(Protocol):
    """A loaded checkpoint. ``name``: what its side is called in a result."""

    name: str

    def prefill(self, prompt: Sequence[int]) -> float:
        """Seconds from handing over a prompt, of which nothing is cached, to the first token."""
        ...

    def fill(self, prompt: Sequence[int]) -> None:
        """Have all of a prompt but its last token in the cache, where :meth:`decode` finds it."""
        ...

    def decode(self, prompt: Sequence[int], tokens: int) -> float:
        """Tokens per second from the first to the last of an answer of ``tokens``."""
        ...

    def close(self) -> None: ...


def layer(config: ModelConfig, index: int, tokens: int, dtype: Any) -> list[Any]:
    """Keys and values ``[1, kv_heads, tokens, head_dim]`` of one layer: random numbers, for every side the same."""
    import mlx.core as mx

    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    return [mx.random.normal(shape, key=mx.random.key(2 * index + part)).astype(dtype) for part in (0, 1)]


class Ours:
    """Events of the library, with text and all. ``limit``: bytes it may have."""

    name = OURS

    def __init__(self, folder: Path, limit: int | None = None, *, cached: bool = False) -> None:
        from qwen3_mlx import Qwen3

        self.q = Qwen3.load(folder, memory_limit=limit, prefix_cache_bytes=CONTEXT_BYTES if cached else 0)

    def prefill(self, prompt: Sequence[int]) -> float:
        begun = time.perf_counter()
        for _ in self._stream(prompt, 1):
            pass
        return time.perf_counter() - begun

    def fill(self, prompt: Sequence[int]) -> None:
        from qwen3_mlx.cache.kv import KVCache
        from qwen3_mlx.kernels.views import entry

        config, model = self.q.config, self.q._model
        cache = KVCache(config, kernels=model.kernels)
        if tokens := len(prompt) - 1:
            for index, held in enumerate(cache.layers):
                held.append(entry(*layer(config, index, tokens, model.model.norm.weight.dtype), held.packing))
            self.q._prefixes.store(prompt[:-1], cache)

    def decode(self, prompt: Sequence[int], tokens: int) -> float:
        begun, early, total = 0.0, 0, 0
        for event in self._stream(prompt, tokens):
            if not begun and (ids := getattr(event, "token_ids", ())):
                begun, early = time.perf_counter(), len(ids)
            if hasattr(event, "usage"):
                total = event.usage.completion_tokens
        seconds = time.perf_counter() - begun
        if total != tokens:
            raise Short(self.name, total, tokens)
        return (total - early) / seconds

    def _stream(self, prompt: Sequence[int], tokens: int) -> Any:
        from qwen3_mlx import SamplingParams

        return self.q.stream_raw(list(prompt), params=SamplingParams(temperature=0, max_tokens=tokens))

    def close(self) -> None:
        self.q.close()


class MlxLm:
    """``mlx_lm.stream_generate``: text and token ids. ``float32``: its weights in that type. Raises InvalidRequest
    where it cannot run a checkpoint as it is stored."""

    def __init__(self, folder: Path, float32: bool = False) -> None:
        self.config = config = ModelConfig.from_folder(folder)
        if config.num_experts and config.quantization is None and on_cpu() and not float32:
            raise InvalidRequest("on a CPU mlx-lm runs a MoE in float32 only: add --peer-float32", "peer_float32")
        import mlx.core as mx
        from mlx_lm import load, stream_generate

        self.name = "mlx-lm float32" if float32 else "mlx-lm"
        self.model, self.tokenizer = load(str(folder))[:2]
        if float32:
            self.model.set_dtype(mx.float32)
        self._generate, self._cache = stream_generate, None

    def prefill(self, prompt: Sequence[int]) -> float:
        import mlx.core as mx

        begun = time.perf_counter()
        stream = self._generate(self.model, self.tokenizer, list(prompt), max_tokens=1)
        next(stream)
        seconds = time.perf_counter() - begun
        for _ in stream:
            pass
        mx.synchronize()  # the step that it has begun beyond the last token
        return seconds

    def decode(self, prompt: Sequence[int], tokens: int) -> float:
        from mlx_lm.models.cache import trim_prompt_cache

        cache, begun, total = self._cache, 0.0, 0
        stream = self._generate(self.model, self.tokenizer, prompt[-1:], max_tokens=tokens, prompt_cache=cache)
        for response in stream:
            begun = begun or time.perf_counter()
            total = response.generation_tokens
        seconds = time.perf_counter() - begun
        if total != tokens:
            raise Short(self.name, total, tokens)
        trim_prompt_cache(cache, cache[0].offset - len(prompt) + 1)
        return (total - 1) / seconds

    def fill(self, prompt: Sequence[int]) -> None:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        self._cache = make_prompt_cache(self.model)
        if tokens := len(prompt) - 1:
            for index, held in enumerate(self._cache):
                held.update_and_fetch(*layer(self.config, index, tokens, self.model.model.norm.weight.dtype))
                mx.eval(held.state)

    def close(self) -> None:
        import mlx.core as mx

        del self.model, self._cache
        gc.collect()
        mx.clear_cache()


class LlamaCpp:
    """``llama_cpp.Llama.generate``: token ids. ``context``: tokens it has room for. ``known``: ids of ``text``. Raises
    InvalidRequest for a file that it cannot load, or that is of another model."""

    name = "llama.cpp"

    def __init__(self, gguf: Path, context: int, known: Sequence[int], text: str) -> None:
        from llama_cpp import Llama

        try:
            self.llama = Llama(str(gguf), n_ctx=context, n_gpu_layers=-1, verbose=False)
        except ValueError as error:
            raise InvalidRequest(f"--gguf {gguf}: llama.cpp cannot load it ({error})", "gguf") from None
        if self.llama.detokenize(list(known), special=True) != text.encode():
            raise InvalidRequest(
                f"--gguf {gguf} gives tokens other ids than the checkpoint: it is another model", "gguf"
            )

    def prefill(self, prompt: Sequence[int]) -> float:
        self.llama.reset()
        begun = time.perf_counter()
        next(self._tokens(prompt))
        return time.perf_counter() - begun

    def fill(self, prompt: Sequence[int]) -> None:
        """By computing it."""
        next(self._tokens(prompt))

    def decode(self, prompt: Sequence[int], tokens: int) -> float:
        stream = self._tokens(prompt)
        next(stream)
        begun = time.perf_counter()
        for _ in range(tokens - 1):
            next(stream)
        return (tokens - 1) / (time.perf_counter() - begun)

    def _tokens(self, prompt: Sequence[int]) -> Iterator[int]:
        return self.llama.generate(list(prompt), top_k=1, temp=0.0, repeat_penalty=1.0)

    def close(self) -> None:
        self.llama.close()


@contextmanager
def share(sides: int) -> Iterator[int]:
    """Bytes that each of so many sides may have while all are loaded. A MemoryLimit inside says so too."""
    from qwen3_mlx.weights import device_limit

    try:
        yield device_limit() // sides
    except MemoryLimit as error:
        raise MemoryLimit(f"{error} ({sides} sides are loaded at once and share what is free)") from None


@contextmanager
def opened(
    folder: Path, peers: Sequence[Peer], *, gguf: Path | None, context: int, float32: bool, cached: bool = False
) -> Iterator[list[Runtime]]:
    """Ours and the peers, all loaded from one checkpoint for contexts of so many tokens. ``cached``: ours keeps what it
    has computed of a prompt. Raises MemoryLimit, before anything is loaded, where the checkpoint does not fit."""
    with ExitStack() as stack:

        def held(runtime: Any) -> Any:
            stack.callback(runtime.close)
            return runtime

        limit = stack.enter_context(share(len(peers) + 1))
        ours = held(Ours(folder, limit, cached=cached))
        sides: list[Runtime] = [ours]
        for peer in peers:
            if peer.gguf:
                assert gguf is not None
                sides.append(held(LlamaCpp(gguf, context, ours.q.tokenizer.encode(SAMPLE), SAMPLE)))
            else:
                sides.append(held(MlxLm(folder, float32)))
        yield sides
