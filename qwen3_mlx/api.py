"""The library: load a Qwen3 checkpoint once, then generate, stream, or stream asynchronously."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import costs, hub
from .arguments import Messages, check_budget, check_settings, context_of, conversation, token_ids
from .config import ModelConfig
from .control.collect import collect
from .control.wish import Schema, ToolChoice, grammar_of, offered_tools, with_calls
from .engine.engine import PREFILL_CHUNK, STALL, Engine, LocalEngine
from .engine.memory import Memory
from .engine.pace import Pace
from .engine.streams import EventStream, Then, astream
from .errors import CheckpointError, InvalidRequest
from .text.chat import ChatTemplate, ends_in_thinking, thinking_requested
from .text.defaults import Defaults
from .text.explain import explain
from .text.next_turn import next_prompt
from .text.tokenizer import Tokenizer
from .types import CacheReport, Completion, Event, KernelMode, Request, SamplingParams

if TYPE_CHECKING:
    import mlx.core as mx

    from .cache.prefix import PrefixCache
    from .model.qwen3 import Qwen3 as Model

Tools = Sequence[Mapping[str, Any]]


class Qwen3:
    """A loaded checkpoint: model, tokenizer, chat template and engine. Use ``Qwen3.load``.

    Methods may be called from any thread; the engine runs requests, several at a time, on a thread of its own.
    ``messages`` is a list in OpenAI's shape (dicts or ``Message``), or a string: one user message.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        config: ModelConfig,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        defaults: Defaults,
        engine: Engine,
        prefixes: PrefixCache,
        context: int,
    ) -> None:
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.context = context
        self._model = model
        self._template = template
        self._defaults = defaults
        self._engine = engine
        self._prefixes = prefixes

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        bits: int | None = None,
        kv_bits: int | None = None,
        kernels: KernelMode = "auto",
        deterministic: bool = False,
        context: int | None = None,
        max_batch: int = 8,
        prefix_cache_bytes: int | None = None,
        stall: float = STALL,
        memory_limit: int | None = None,
    ) -> Qwen3:
        """Load a checkpoint by name, alias or path (see ``qwen3_mlx.hub``).

        ``bits`` quantizes an unquantized checkpoint while loading; ``kv_bits`` (8 or 4) keeps the cache quantized;
        ``deterministic``: a request with a seed gives the same tokens whatever runs beside it and whatever is found in
        the cache, on a GPU too, where prompts then take longer (README says what is proved, and what it costs);
        ``context`` bounds prompt and answer together, in tokens (default: what the checkpoint was made for);
        ``max_batch``: how many requests run at a time, the others wait; ``prefix_cache_bytes``: what is kept of
        former requests for those that begin alike (default: a tenth of ``memory_limit``; 0: nothing); ``stall``:
        seconds that prompts of others may keep a running answer from its next token; ``memory_limit``: bytes for
        weights, caches and working memory together (default: what Metal recommends, or nine tenths of what is free).
        A request that does not fit is refused with ``MemoryLimit``, which says what would; so is a checkpoint.

        Raises ``ModelNotFound``, ``Unavailable``, ``UnsupportedModel``, ``CheckpointError``, ``MemoryLimit``,
        ``InvalidRequest``.
        """
        begun = time.perf_counter()
        if not isinstance(name_or_path, str | Path):
            raise InvalidRequest(f"a model is named by a string or a Path, not {name_or_path!r}", param="name_or_path")
        check_settings(kv_bits, deterministic, max_batch, prefix_cache_bytes, stall, memory_limit)
        folder = hub.resolve(name_or_path)
        config = ModelConfig.from_folder(folder)
        context = context_of(context, config)
        tokenizer = _tokenizer(folder, config)
        template = ChatTemplate.from_folder(folder)
        defaults = Defaults.from_folder(folder, hybrid=template.hybrid)
        from .cache.kv import kv_group_size  # the first import of mlx: most mistakes are found before it
        from .cache.prefix import PrefixCache
        from .engine.runner import Runner, working_bytes
        from .weights import device_limit, keep_buffers, load_model

        if kv_bits is not None:
            kv_group_size(config.head_dim, kv_bits)
        limit = device_limit() if memory_limit is None else memory_limit
        working = partial(working_bytes, config, kv_bits)
        model, _ = load_model(
            folder, bits=bits, kernels=kernels, deterministic=deterministic, limit=limit, working=working
        )
        keep_buffers(limit)
        if deterministic:
            model.rehearse(kv_bits)
        prefixes = PrefixCache(limit // 10 if prefix_cache_bytes is None else prefix_cache_bytes)
        runner = Runner(model, config, prefixes, kv_bits)
        engine = LocalEngine(
            runner,
            tokenizer,
            context=context,
            vocab_size=config.vocab_size,
            max_rows=max_batch,
            stall=stall,
            pace=Pace(costs.attention_depth(config)),
            memory=Memory(runner.footprint, limit, PREFILL_CHUNK, prefixes, release=runner.release),
            load_s=time.perf_counter() - begun,
        )
        return cls(str(name_or_path), model, config, tokenizer, template, defaults, engine, prefixes, context)

    # -- the model itself ----------------------------------------------------------------------------------------

    def model(self, tokens: mx.array | list[list[int]]) -> mx.array:
        """Logits ``[batch, length, vocab]`` of token ids ``[batch, length]``, evaluated; no cache, no sampling.

        Raises ``InvalidRequest`` for another shape or type, and for ids outside the vocabulary.
        """
        import mlx.core as mx

        try:
            ids = tokens if isinstance(tokens, mx.array) else mx.array(tokens)
        except (TypeError, ValueError):
            raise InvalidRequest("tokens must be rows of equal length of token ids", param="tokens") from None
        if ids.ndim != 2 or ids.size == 0 or not mx.issubdtype(ids.dtype, mx.integer):
            raise InvalidRequest(
                f"tokens must be integers [batch, length], not {ids.dtype} of shape {list(ids.shape)}", param="tokens"
            )
        low, high = int(mx.min(ids).item()), int(mx.max(ids).item())  # type: ignore[arg-type]
        if low < 0 or high >= self.config.vocab_size:
            worst = low if low < 0 else high
            raise InvalidRequest(
                f"token id {worst} is outside the vocabulary of {self.config.vocab_size:,}", param="tokens"
            )
        logits = self._model(ids)
        mx.eval(logits)  # another thread could not
        return logits

    @property
    def weight_bytes(self) -> costs.Parameters:
        """Bytes that the weights take here, by role."""
        return self._model.held()

    # -- text ----------------------------------------------------------------------------------------------------

    def render(self, messages: Messages, thinking: bool = True, tools: Tools | None = None) -> str:
        """The prompt as the checkpoint's chat template writes it."""
        return self._template.render(conversation(messages), tools=tools, thinking=thinking)

    def encode(self, messages: Messages, thinking: bool = True, tools: Tools | None = None) -> list[int]:
        """The prompt's token ids. Control tokens in user text, tool results and tool schemas stay plain text."""
        return self._template.encode(conversation(messages), tools=tools, thinking=thinking, tokenizer=self.tokenizer)

    def explain_cache(self, messages: Messages, thinking: bool = True, tools: Tools | None = None) -> CacheReport:
        """How much of this prompt need not be computed, and what in it is not as it was before; computes nothing.

        What is compared with is what was used last. A request that runs is stored when its prompt, if that is long, or
        else its answer has ended.
        """
        prompt = self.encode(messages, thinking, tools)
        cached, following = self._prefixes.match(prompt)
        return explain(prompt, cached, following, self.tokenizer)

    # -- generation ----------------------------------------------------------------------------------------------

    def stream(
        self,
        messages: Messages,
        thinking: bool = True,
        thinking_budget: int | None = None,
        tools: Tools | None = None,
        schema: Schema | None = None,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> EventStream:
        """Events as they are generated, the last one ``Finished``. Closing the stream stops the generation.

        ``thinking_budget`` bounds the thought, in tokens: when it is spent, an early-stop sentence is put in the
        model's mouth and the answer follows.

        ``schema`` says what the answer behind the thought has to be: JSON that is valid under a JSON schema (a dict) or
        for a pydantic model, or a ``Grammar``; with ``tools``, calls may come instead. An object has the properties
        that are listed and no others, unless its ``additionalProperties`` says so. ``max_tokens`` may cut the answer
        off: ``finish_reason`` is ``length`` then.

        ``tool_choice`` is ``auto``, ``none`` (as if there were no tools), ``required`` or a function's name as
        ``{"type": "function", "function": {"name": ...}}``; the last two make calls whose arguments are valid under the
        function's parameters. Without ``parallel_tool_calls`` an answer ends with its first call, as with a named one.

        Raises ``InvalidRequest`` for what cannot be served, before anything runs.
        """
        request, then = self.prepare(
            messages,
            thinking,
            thinking_budget,
            tools,
            schema,
            params,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        )
        return EventStream(self._engine, request, then)

    def generate(
        self,
        messages: Messages,
        thinking: bool = True,
        thinking_budget: int | None = None,
        tools: Tools | None = None,
        schema: Schema | None = None,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> Completion:
        """The whole answer at once: ``stream`` collected."""
        with self.stream(
            messages,
            thinking,
            thinking_budget,
            tools,
            schema,
            params,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        ) as events:
            return collect(events)

    def extend(self, completion: Completion, thinking_budget: int | None = None) -> Completion:
        """``stream_extend`` collected."""
        with self.stream_extend(completion, thinking_budget) as events:
            return collect(events)

    def stream_extend(self, completion: Completion, thinking_budget: int | None = None) -> EventStream:
        """Let a thought that was closed because its budget was spent go on, with this budget in all (``None``: without
        one), and answer again. What comes, the thought so far included, is what would have come if it had not been
        closed.

        The tokens so far are not computed again if they are still in the cache. Raises ``InvalidRequest`` for a thought
        that ended by itself, or a budget that is spent already.
        """
        if not isinstance(completion, Completion):
            raise InvalidRequest(f"only a Completion can be extended, not {type(completion).__name__}")
        request = completion.resume
        if request is None:
            raise InvalidRequest("this thought was not closed by its budget: there is nothing to extend")
        check_budget(thinking_budget)
        return EventStream(self._engine, replace(request, thinking_budget=thinking_budget))

    def astream(
        self,
        messages: Messages,
        thinking: bool = True,
        thinking_budget: int | None = None,
        tools: Tools | None = None,
        schema: Schema | None = None,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> AsyncIterator[Event]:
        """``stream`` for asyncio: ``async for event in q.astream(...)``."""
        request, then = self.prepare(
            messages,
            thinking,
            thinking_budget,
            tools,
            schema,
            params,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
        )
        return astream(self._engine, request, then)

    def stream_raw(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> EventStream:
        """Continue a text, or token ids, as they are: no template, no thinking, no tools; control tokens in it are
        control."""
        return EventStream(self._engine, self.prepare_raw(prompt, params))

    def prepare(
        self,
        messages: Messages,
        thinking: bool = True,
        thinking_budget: int | None = None,
        tools: Tools | None = None,
        schema: Schema | None = None,
        params: SamplingParams | None = None,
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
    ) -> tuple[Request, Then | None]:
        """What ``stream`` hands to the engine, for a server that does so itself: the request, and what is to be told
        all of its events when it has ended, before the last one is passed on."""
        offered = offered_tools(tools, tool_choice)
        request = self._request(messages, thinking, thinking_budget, offered, schema, params)
        return with_calls(request, tool_choice, parallel_tool_calls), self._then(messages, thinking, offered)

    def prepare_raw(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> Request:
        """What ``stream_raw`` hands to the engine."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids(prompt)
        if not tokens:
            raise InvalidRequest("the prompt is empty: there is nothing to continue", param="prompt")
        resolved = self._params(params, thinking=False)
        return Request(tuple(tokens), resolved, thinking=False, raw=True)

    @property
    def engine(self) -> Engine:
        """What runs the requests."""
        return self._engine

    def close(self) -> None:
        """Stop what runs and free the engine's thread. The object cannot generate afterwards."""
        self._engine.close()

    def __enter__(self) -> Qwen3:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------

    def _request(
        self,
        messages: Messages,
        thinking: bool,
        thinking_budget: int | None,
        tools: Tools | None,
        schema: Schema | None,
        params: SamplingParams | None,
    ) -> Request:
        check_budget(thinking_budget)
        turns = conversation(messages)
        resolved = self._params(params, thinking=thinking_requested(turns, thinking))
        prompt = self.encode(turns, thinking, tools)
        return Request(
            prompt=tuple(prompt),
            params=resolved,
            thinking=thinking,
            in_thinking=ends_in_thinking(prompt, self.tokenizer),
            thinking_budget=thinking_budget,
            tools=tuple(tools or ()),
            grammar=grammar_of(schema),
        )

    def _then(self, messages: Messages, thinking: bool, tools: Tools | None) -> Then | None:
        """After an answer: have the next turn's beginning computed in idle time."""
        if not self._prefixes.budget:
            return None
        engine = self._engine
        render = partial(next_prompt, self._template, self.tokenizer, conversation(messages), thinking, tools)

        def then(events: Sequence[Event]) -> None:
            completion = collect(events)
            if completion.finish_reason != "cancelled":
                engine.expect(partial(render, completion))

        return then

    def _params(self, params: SamplingParams | None, thinking: bool) -> SamplingParams:
        if params is not None and not isinstance(params, SamplingParams):
            raise InvalidRequest(f"params must be SamplingParams, not {type(params).__name__}", param="params")
        return self._defaults.resolve(params or SamplingParams(), thinking, self.config.vocab_size)


def _tokenizer(folder: Path, config: ModelConfig) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer knows {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}: they do not"
            " belong together",
            folder,
        )
    return tokenizer
