"""Which instantiations of the Metal kernels a model uses.

Nobody keeps a list: one layer of the model is built on the kernels and its graph for a prompt and for later steps is
made, with nothing evaluated and nothing compiled, while ``trusts`` writes down what it is asked for. So a kernel that
the dispatch learns of is in here by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..cache.kv import KVCache
from ..config import ModelConfig, QuantSpec
from ..errors import UnsupportedModel
from ..hub import EMBEDDED
from ..hub.names import embedded
from ..kernels import Kernels, attention_trials, linear_trials, moe_trials
from ..kernels.deterministic import deterministic as on_deterministic
from ..kernels.dispatch import on_metal, on_stock
from ..kernels.metal_source import in_constant, standing_in
from ..kernels.verify import Trial
from ..model.deterministic import substitute
from ..model.qwen3 import Qwen3
from ..names import groups
from ..packing import GROUP_SIZES, packed_shapes, recipe
from ..released import RELEASED
from ..weights import place

KV_BITS = (None, 8, 4)
#: Bits of weights that kernels take.
WEIGHT_BITS = (4, 8)
#: Of activations and scales: those of a checkpoint that is stored in float16 are float16, of any other bfloat16.
DTYPE = mx.bfloat16


class Pass(NamedTuple):
    """A forward pass: ``length`` tokens in each of ``batch`` rows that hold ``held`` tokens already."""

    batch: int
    length: int
    held: int


#: What one conversation asks for, in the order it does: a long prompt, answers in a short and a long history, and
#: prompts of fewer tokens, for which other kernels may be chosen.
ALONE = (Pass(1, 512, 0), Pass(1, 1, 100), Pass(1, 1, 4096), *(Pass(1, length, 0) for length in (128, 48, 16, 8, 4, 2)))
#: And several at once; what is handed to a kernel is laid out otherwise from 8 rows on.
TOGETHER = tuple(Pass(batch, 1, held) for batch in (2, 4, 8, 16, 32) for held in (100, 4096))


class Use(NamedTuple):
    """An instantiation, ``trial`` with these compile-time ``parameters``, and the ``config`` of a model that uses it
    with weights packed as ``weights``; ``models``: the names of all that do."""

    trial: Trial
    parameters: tuple[Any, ...]
    config: ModelConfig
    weights: QuantSpec | None
    models: tuple[str, ...]

    @property
    def key(self) -> tuple[str, tuple[Hashable, ...]]:
        return self.trial.kernel, self.parameters


def trials() -> dict[str, Trial]:
    """Every kernel's trial, by the kernel's name."""
    held = [vars(module).values() for module in (attention_trials, moe_trials, linear_trials)]
    return {value.kernel: value for values in held for value in values if isinstance(value, Trial)}


def uses(
    name: str,
    config: ModelConfig,
    weights: QuantSpec | None,
    kv_bits: int | None,
    passes: Sequence[Pass] = ALONE,
    dtype: mx.Dtype = DTYPE,
    deterministic: bool = False,
) -> list[Use]:
    """What a model asks for in these passes, in order, if its weights are packed as ``weights`` (``None``: not at all),
    unless its config says how they are, and its cache to ``kv_bits``; ``dtype``: that of activations and scales;
    ``deterministic``: if it is loaded so, and then nothing where that is refused."""
    asked = _Asked()
    with standing_in(asked.metal_kernel), contextlib.suppress(UnsupportedModel):
        _build(config, weights, kv_bits, passes, dtype, asked, deterministic)
    return [Use(trial, parameters, config, weights, (name,)) for trial, parameters in asked.trials.values()]


def compiled(
    config: ModelConfig, weights: QuantSpec | None, kv_bits: int | None, passes: Sequence[Pass]
) -> set[tuple[Any, ...]]:
    """The kernels, told apart as a compiler does, that these passes launch."""
    asked = _Asked()
    with standing_in(asked.metal_kernel):
        _build(config, weights, kv_bits, passes, DTYPE, asked)
    return asked.launched


def released(passes: Sequence[Pass] = ALONE + TOGETHER) -> list[Use]:
    """Of every released size and the embedded checkpoints: weights of 4 and 8 bits in groups of any size, caches of
    every kind."""
    return merged(use for name in (*RELEASED, *EMBEDDED) for use in _offered(name, passes))


def merged(found: Iterable[Use]) -> list[Use]:
    """Each instantiation once, in order, with all models that use it."""
    held: dict[Any, Use] = {}
    for use in found:
        first = held.setdefault(use.key, use)
        held[use.key] = first._replace(models=tuple(dict.fromkeys((*first.models, *use.models))))
    return list(held.values())


def shape_of(name: str) -> ModelConfig:
    """The config of an alias or an embedded checkpoint."""
    return RELEASED[name] if name in RELEASED else ModelConfig.from_folder(embedded(name))


def _offered(name: str, passes: Sequence[Pass]) -> Iterable[Use]:
    config = shape_of(name)
    sizes = GROUP_SIZES if config.num_experts else (64,)  # only experts' kernels read packed weights
    specs = [QuantSpec(bits, size) for size in sorted(sizes, key=lambda size: size != 64) for bits in WEIGHT_BITS]
    for index, spec in enumerate(specs):
        for kv_bits in KV_BITS if index == 0 else (None,):  # the cache's kernels do not read weights
            yield from uses(name, config, spec, kv_bits, passes)
    for own in (*(QuantSpec(bits, 64) for bits in WEIGHT_BITS), None):
        yield from uses(name, config, own, None, passes, deterministic=True)


class _Asked:
    """Trusts everything, launches nothing, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.trials: dict[Any, tuple[Trial, tuple[Hashable, ...]]] = {}
        self.launched: set[tuple[Any, ...]] = set()

    def trusts(self, trial: Trial, *parameters: Hashable) -> bool:
        self.trials.setdefault((trial.kernel, parameters), (trial, parameters))
        return True

    def metal_kernel(self, *, name: str, **_: Any) -> Callable[..., list[mx.array]]:
        def launch(
            *, inputs: Sequence[mx.array], output_shapes: Any, output_dtypes: Any, template: Any = (), **_: Any
        ) -> list[mx.array]:
            kinds = tuple((x.dtype, in_constant(x.size), x.ndim == 0) for x in inputs)
            self.launched.add((name, kinds, tuple(output_dtypes), tuple(template)))
            return [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return launch


def _build(
    config: ModelConfig,
    weights: QuantSpec | None,
    kv_bits: int | None,
    passes: Sequence[Pass],
    dtype: mx.Dtype,
    asked: _Asked,
    deterministic: bool = False,
) -> None:
    """The graphs of these passes."""
    kernels = (on_deterministic if deterministic else on_metal)(on_stock("emulate"), asked.trusts)
    for small in _small(config):
        model = _empty(small, kernels, weights, dtype)
        for batch, length, held in passes:
            cache = KVCache(small, batch, kv_bits=kv_bits, kernels=kernels)
            for count in (held, length):
                if count:
                    model.hidden(mx.zeros((batch, count), mx.int32), cache)


def _small(config: ModelConfig) -> list[ModelConfig]:
    """The config with hardly a vocabulary, and one layer of each kind that it has; with all of them if they may be
    packed differently."""
    config = dataclasses.replace(config, vocab_size=8, tie_word_embeddings=True)
    if config.quantization and config.quantization.overrides:
        return [config]
    kinds = {config.is_moe_layer(index) for index in range(config.num_hidden_layers)}
    one = dataclasses.replace(config, num_hidden_layers=1, decoder_sparse_step=1, mlp_only_layers=())
    return [one if sparse else dataclasses.replace(one, num_experts=0) for sparse in sorted(kinds, reverse=True)]


def _empty(config: ModelConfig, kernels: Kernels, weights: QuantSpec | None, dtype: mx.Dtype) -> Qwen3:
    """A model as it is after loading, of zeros that nobody allocates."""
    model, own = Qwen3(config, kernels), config.quantization
    for leaf in (leaf for group in groups(config) for leaf in group):
        wanted = own.for_path(leaf.path) if own else weights
        spec = recipe(leaf.kind, leaf.shape, wanted) if wanted else None
        shapes = packed_shapes(leaf.shape, spec) if spec else {"weight": leaf.shape}
        kinds = {"weight": mx.uint32 if spec else dtype}
        place(model, leaf, {part: mx.zeros(shape, kinds.get(part, dtype)) for part, shape in shapes.items()}, spec)
    for block in model.model.layers:
        block.self_attn.fuse(kernels.transposed)
        block.mlp.fuse(kernels.transposed)
    if kernels.linear is not None:
        substitute(model, kernels.linear)
    return model
