"""A checkpoint's ``config.json``, parsed once: frozen, validated, and honest.

Every key is either honoured, known to be irrelevant to the numbers the model computes, or refused by name with
:class:`~qwen3_mlx.errors.UnsupportedModel`; nothing is dropped silently. The spellings of transformers 4
(``rope_theta`` and ``rope_scaling``), of transformers 5 (``rope_parameters``, ``num_local_experts``) and of MLX folders
(``quantization``) are all read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from qwen3_mlx.errors import CheckpointError, UnsupportedModel

from .values import frozen

ModelType = Literal["qwen3", "qwen3_moe"]
RopeType = Literal["default", "yarn"]

# mode -> (default group size, default bits, group sizes, bits) of mx.quantize
_QUANT_MODES: Mapping[str, tuple[int, int, tuple[int, ...], tuple[int, ...]]] = {
    "affine": (64, 4, (32, 64, 128), (2, 3, 4, 5, 6, 8)),
    "mxfp4": (32, 4, (32,), (4,)),
    "mxfp8": (32, 8, (32,), (8,)),
    "nvfp4": (16, 4, (16,), (4,)),
}

_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_HONOURED = _names(
    "model_type architectures hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    " head_dim rms_norm_eps vocab_size max_position_embeddings tie_word_embeddings rope_theta rope_scaling"
    " rope_parameters original_max_position_embeddings quantization quantization_config"
)
_HONOURED_MOE = _names(
    "num_experts num_local_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step"
    " mlp_only_layers"
)

# Keys that say nothing about what a forward pass computes: bookkeeping, training, generation defaults (those that count
# are read from generation_config.json and the tokenizer), what transformers' base class writes into every config.
_IRRELEVANT = _names(
    "_name_or_path name_or_path transformers_version torch_dtype dtype use_cache initializer_range"
    " attention_dropout max_window_layers sliding_window bos_token_id eos_token_id pad_token_id sep_token_id"
    " decoder_start_token_id tokenizer_class model_max_length _attn_implementation _attn_implementation_autoset"
    " attn_implementation output_attentions output_hidden_states return_dict torchscript use_bfloat16"
    " tf_legacy_loss is_decoder chunk_size_feed_forward tie_encoder_decoder id2label label2id num_labels"
    " problem_type finetuning_task prefix task_specific_params max_length min_length do_sample early_stopping"
    " num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty"
    " length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences"
    " output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values"
    " exponential_decay_length_penalty suppress_tokens begin_suppress_tokens pretraining_tp output_router_logits"
    " router_aux_loss_coef router_jitter_noise unsloth_fixed unsloth_version transformers.js_config hidden_dropout"
    " residual_dropout embd_pdrop gradient_checkpointing _commit_hash license"
)

# Keys that would change the numbers, with the values under which they do not.
_ONLY: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "use_sliding_window": ((False, None), "sliding-window attention is not supported"),
    "attention_bias": ((False, None), "biases in the attention projections are not supported"),
    "qkv_bias": ((False, None), "biases in the attention projections are not supported"),
    "mlp_bias": ((False, None), "biases in the MLP are not supported"),
    "use_qk_norm": ((True, None), "Qwen3 attention always normalises queries and keys"),
    "hidden_act": (("silu", None), "only the silu activation is supported"),
    "shared_expert_intermediate_size": ((0, None), "shared experts are not supported"),
    "num_shared_experts": ((0, None), "shared experts are not supported"),
    "partial_rotary_factor": ((1, None), "rotary embeddings over a part of the head are not supported"),
    "use_mrope": ((False, None), "multimodal rotary embeddings are not supported"),
    "is_encoder_decoder": ((False, None), "only decoders are supported"),
    "add_cross_attention": ((False, None), "cross attention is not supported"),
    "cross_attention_hidden_size": ((None,), "cross attention is not supported"),
    "pruned_heads": (({}, None), "pruned heads are not supported"),
}

_ROPE_KEYS = _names(
    "rope_type type rope_theta factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale"
    " mscale_all_dim truncate partial_rotary_factor"
)

_QUANT_PATH = (  # as text: compiled by the first config that says something of one module
    r"lm_head|model\.embed_tokens|model\.layers\.(\d+)\."
    r"(self_attn\.[qkvo]_proj|mlp\.(gate|(switch_mlp\.)?(gate|up|down)_proj))"
)


@frozen
class RopeConfig:
    """Rotary position embedding, every default resolved. ``attention_factor`` (YaRN) scales cos and sin."""

    theta: float
    type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@frozen
class QuantSpec:
    """How one weight is packed: as ``mx.quantize(w, group_size, bits, mode=mode)``."""

    bits: int = 4
    group_size: int = 64
    mode: str = "affine"


@frozen
class QuantConfig:
    """The ``quantization`` entry of an MLX folder. ``overrides`` maps a module path to its own packing; ``False`` keeps
    that module unquantized."""

    bits: int
    group_size: int
    mode: str = "affine"
    overrides: Mapping[str, QuantSpec | Literal[False]] = field(default_factory=lambda: MappingProxyType({}))

    def for_path(self, path: str) -> QuantSpec | None:
        """The packing of the module at ``path`` (``model.layers.0.mlp.gate``), or ``None`` when it is declared
        unquantized. Whether a module without an override is packed is for the tensors to say."""
        spec = self.overrides.get(path, QuantSpec(self.bits, self.group_size, self.mode))
        return spec if isinstance(spec, QuantSpec) else None


@frozen
class ModelConfig:
    """The shape of a Qwen3 model, dense (``qwen3``) or mixture of experts (``qwen3_moe``).

    The MoE fields are 0, ``False`` and empty for a dense model.
    """

    model_type: ModelType
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope: RopeConfig
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    quantization: QuantConfig | None = None

    @property
    def q_size(self) -> int:
        """Width of all query heads together; often not ``hidden_size``."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together (and of all value heads)."""
        return self.num_key_value_heads * self.head_dim

    def is_moe_layer(self, index: int) -> bool:
        """Whether decoder layer ``index`` (from 0) routes to experts."""
        if self.num_experts == 0 or index in self.mlp_only_layers:
            return False
        return (index + 1) % self.decoder_sparse_step == 0

    @classmethod
    def from_folder(cls, path: Path | str) -> ModelConfig:
        """Read ``config.json`` of a checkpoint folder.

        Raises :class:`CheckpointError` when the file is missing or is not a JSON object, and
        :class:`UnsupportedModel` as :meth:`from_dict` does.
        """
        file = Path(path) / "config.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError("there is no config.json: this is not a checkpoint folder", path) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"cannot be read as JSON ({error})", file) from None
        if not isinstance(data, dict):
            raise CheckpointError("does not hold a JSON object", file)
        return cls.from_dict(data, where=str(file))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """Parse a config as loaded from JSON.

        Raises :class:`UnsupportedModel`, with ``key`` set, for an unknown key, a value that cannot be honoured, a
        missing key or one of the wrong type; ``where`` names the file in the message.
        """
        return _Reader(data, where).config()


class _Reader:
    """Reads typed values out of a JSON object; every refusal names the key and the file."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data = data
        self.where = where

    def refuse(self, key: str, why: str) -> NoReturn:
        raise UnsupportedModel(f"{self.where}: {key}: {why}", key=key)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.data.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            self.refuse(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"must be an integer of at least {least}, not {value!r}")
        return value

    def number(self, source: Mapping[str, Any], key: str, name: str, default: float | None = None) -> float:
        value = source.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            self.refuse(name, "is missing")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            self.refuse(name, f"must be a positive number, not {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, f"must be true or false, not {value!r}")
        return value

    def config(self) -> ModelConfig:
        model_type = self.data.get("model_type")
        if model_type != "qwen3" and model_type != "qwen3_moe":
            self.refuse("model_type", f"{model_type!r} is not supported; only qwen3 and qwen3_moe are")
        self.check_keys(model_type)
        heads = self.integer("num_attention_heads")
        kv_heads = self.integer("num_key_value_heads", default=heads if "num_key_value_heads" in self.data else None)
        if heads % kv_heads:
            self.refuse("num_key_value_heads", f"{kv_heads} key/value heads do not divide {heads} query heads")
        hidden = self.integer("hidden_size")
        # transformers' own defaults: a fixed 128 for dense models, the head's share of hidden_size for MoE
        head_dim = self.integer("head_dim", default=128 if model_type == "qwen3" else max(hidden // heads, 1))
        if head_dim % 2:
            self.refuse("head_dim", f"must be even for rotary embeddings, not {head_dim}")
        layers = self.integer("num_hidden_layers")
        max_positions = self.integer("max_position_embeddings")
        self.check_layer_types(layers)
        return ModelConfig(
            model_type=model_type,
            hidden_size=hidden,
            intermediate_size=self.integer("intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=self.integer("vocab_size"),
            max_position_embeddings=max_positions,
            rope=self.rope(max_positions),
            rms_norm_eps=self.number(self.data, "rms_norm_eps", "rms_norm_eps", default=1e-6),
            tie_word_embeddings=self.flag("tie_word_embeddings", False),
            quantization=self.quantization(layers),
            **(self.moe(layers) if model_type == "qwen3_moe" else {}),
        )

    def check_keys(self, model_type: ModelType) -> None:
        honoured = _HONOURED | _HONOURED_MOE if model_type == "qwen3_moe" else _HONOURED
        for key, value in self.data.items():
            if key in _ONLY:
                allowed, why = _ONLY[key]
                if value not in allowed:
                    self.refuse(key, f"{why} (the value is {value!r})")
            elif key not in honoured and key not in _IRRELEVANT and key != "layer_types":
                self.refuse(key, "this key is not known, so a model that needs it would compute something else")
        architectures = self.data.get("architectures")
        if architectures and architectures != [_ARCHITECTURES[model_type]]:
            self.refuse("architectures", f"{architectures!r} is not supported; {_ARCHITECTURES[model_type]} is")

    def check_layer_types(self, layers: int) -> None:
        types = self.data.get("layer_types")
        if types is None:
            return
        if not isinstance(types, list) or len(types) != layers:
            self.refuse("layer_types", f"must list {layers} layers, one for each")
        for kind in types:
            if kind != "full_attention":
                self.refuse("layer_types", f"{kind!r} is not supported; only 'full_attention' is")

    def rope(self, max_positions: int) -> RopeConfig:
        scaling, name = self.data.get("rope_scaling"), "rope_scaling"
        parameters = self.data.get("rope_parameters")
        for key, value in (("rope_scaling", scaling), ("rope_parameters", parameters)):
            if value is not None and not isinstance(value, dict):
                self.refuse(key, f"must be an object, not {value!r}")
        top = self.data.get("rope_theta")
        source = dict(scaling or {})
        if parameters:
            own = {k: v for k, v in parameters.items() if k != "rope_theta"}
            if source and {k: v for k, v in source.items() if k != "rope_theta"} != own:
                self.refuse("rope_parameters", "says something else than rope_scaling; keep one of them")
            source, name = dict(parameters), "rope_parameters"
        nested = source.get("rope_theta")
        if top is not None and nested is not None and top != nested:
            self.refuse("rope_theta", f"is {top!r} at the top and {nested!r} in {name}; keep one of them")
        theta = self.number({"rope_theta": nested if top is None else top}, "rope_theta", "rope_theta")
        for key in source:
            if key not in _ROPE_KEYS:
                self.refuse(f"{name}.{key}", "this key is not known")
        if source.get("partial_rotary_factor") not in (None, 1):
            self.refuse(f"{name}.partial_rotary_factor", "rotary embeddings over a part of the head are not supported")
        kind = source.get("rope_type", source.get("type", "default"))
        if source.get("type", kind) != kind:
            self.refuse(f"{name}.type", f"is {source['type']!r} while rope_type is {kind!r}")
        if kind == "default":
            return RopeConfig(theta)
        if kind != "yarn":
            self.refuse(f"{name}.rope_type", f"{kind!r} is not supported; 'default' and 'yarn' are")
        return self.yarn(source, name, theta, max_positions)

    def yarn(self, source: dict[str, Any], name: str, theta: float, max_positions: int) -> RopeConfig:
        """YaRN (Peng et al. 2023) with the defaults of transformers, which are the released models' truth."""
        top = self.data.get("original_max_position_embeddings")
        if top is not None:
            source["original_max_position_embeddings"] = top
        key = "original_max_position_embeddings"
        if source.get("factor") is None and source.get(key) is None:
            self.refuse(f"{name}.factor", "is missing: YaRN needs a factor or original_max_position_embeddings")
        original = self.number(source, key, f"{name}.{key}", default=float(max_positions))
        factor = self.number(source, "factor", f"{name}.factor", default=max_positions / original)
        if factor < 1:
            self.refuse(f"{name}.factor", f"must be at least 1, not {factor}")
        truncate = source.get("truncate", True)
        if not isinstance(truncate, bool):
            self.refuse(f"{name}.truncate", f"must be true or false, not {truncate!r}")

        def mscale(weight: float) -> float:
            return 0.1 * weight * math.log(factor) + 1.0

        attention = mscale(1.0)
        if source.get("mscale") and source.get("mscale_all_dim"):
            numerator = mscale(self.number(source, "mscale", f"{name}.mscale"))
            attention = numerator / mscale(self.number(source, "mscale_all_dim", f"{name}.mscale_all_dim"))
        return RopeConfig(
            theta=theta,
            type="yarn",
            factor=factor,
            original_max_position_embeddings=int(original),
            attention_factor=self.number(source, "attention_factor", f"{name}.attention_factor", default=attention),
            beta_fast=self.number(source, "beta_fast", f"{name}.beta_fast", default=32.0),
            beta_slow=self.number(source, "beta_slow", f"{name}.beta_slow", default=1.0),
            truncate=truncate,
        )

    def moe(self, layers: int) -> dict[str, Any]:
        key = "num_experts" if self.data.get("num_experts") is not None else "num_local_experts"
        experts = self.integer(key) if self.data.get(key) is not None else self.integer("num_experts")
        other = self.data.get("num_local_experts")
        if other is not None and other != experts:
            self.refuse("num_local_experts", f"is {other!r} while num_experts is {experts}; keep one of them")
        top_k = self.integer("num_experts_per_tok")
        if top_k > experts:
            self.refuse("num_experts_per_tok", f"{top_k} of {experts} experts cannot be chosen")
        dense = self.data.get("mlp_only_layers") or []
        if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < layers for i in dense):
            self.refuse("mlp_only_layers", f"must list layers from 0 to {layers - 1}, not {dense!r}")
        return {
            "num_experts": experts,
            "num_experts_per_tok": top_k,
            "moe_intermediate_size": self.integer("moe_intermediate_size"),
            "norm_topk_prob": self.flag("norm_topk_prob", False),
            "decoder_sparse_step": self.integer("decoder_sparse_step", default=1),
            "mlp_only_layers": tuple(sorted(set(dense))),
        }

    def quantization(self, layers: int) -> QuantConfig | None:
        own, other = self.data.get("quantization"), self.data.get("quantization_config")
        if isinstance(other, dict) and other.get("quant_method") is not None:
            self.refuse(
                "quantization_config",
                f"weights packed with {other['quant_method']!r} are not read; use the original bf16 checkpoint"
                " (the same name without the suffix) or its MLX version (-MLX-4bit, or mlx-community's)",
            )
        if own is None and other is None:
            return None
        if own is not None and other is not None and own != other:
            self.refuse("quantization_config", "says something else than quantization; keep one of them")
        name, entry = ("quantization", own) if own is not None else ("quantization_config", other)
        if not isinstance(entry, dict):
            self.refuse(name, f"must be an object, not {entry!r}")
        default = self.quant_spec(name, {k: v for k, v in entry.items() if not isinstance(v, dict | bool)})
        overrides: dict[str, QuantSpec | Literal[False]] = {}
        for path, value in entry.items():
            if not isinstance(value, dict | bool):
                continue
            match = re.fullmatch(_QUANT_PATH, path)
            if match is None or int(match[1] or 0) >= layers:
                self.refuse(f"{name}.{path}", "this model has no such module")
            if isinstance(value, dict):
                overrides[path] = self.quant_spec(f"{name}.{path}", value)
            elif not value:
                overrides[path] = False
        return QuantConfig(default.bits, default.group_size, default.mode, MappingProxyType(overrides))

    def quant_spec(self, name: str, entry: Mapping[str, Any]) -> QuantSpec:
        for key in entry:
            if key not in ("bits", "group_size", "mode"):
                self.refuse(f"{name}.{key}", "this key is not known")
        mode = entry.get("mode", "affine")
        if mode not in _QUANT_MODES:
            self.refuse(f"{name}.mode", f"{mode!r} is not supported; {', '.join(_QUANT_MODES)} are")
        group_default, bits_default, groups, widths = _QUANT_MODES[mode]
        bits, group = entry.get("bits", bits_default), entry.get("group_size", group_default)
        if type(bits) is not int or bits not in widths:
            self.refuse(f"{name}.bits", f"{bits!r} is not supported in mode {mode}; {widths} are")
        if type(group) is not int or group not in groups:
            self.refuse(f"{name}.group_size", f"{group!r} is not supported in mode {mode}; {groups} are")
        return QuantSpec(bits, group, mode)
