"""`mlx_lm.load` takes a converted folder unchanged, tokenizer and all, and computes what was packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from qwen3_mlx.checkpoint import Checkpoint
from qwen3_mlx.convert import convert

from ..weights import makers


def give_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 160 entries with Qwen's end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:158]
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [158]}))


@pytest.mark.parametrize("raw", [makers.DENSE, makers.MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("group_size", [32, 64])
def test_loads_unchanged(tmp_path: Path, raw: dict[str, Any], group_size: int) -> None:
    import mlx_lm

    source = makers.write(tmp_path / "hf", raw, makers.weights(raw))
    give_tokenizer(source)
    out = convert(source, tmp_path / "out", group_size=group_size).output
    model, tokenizer = mlx_lm.load(str(out))  # type: ignore[misc]
    assert tokenizer.encode("abc") == [tokenizer.convert_tokens_to_ids(letter) for letter in "abc"]
    assert tokenizer.eos_token_ids == {158}
    checkpoint = Checkpoint(out)
    held = dict(tree_flatten(model.parameters()))
    assert set(held) == set(checkpoint)
    assert all(mx.array_equal(array, checkpoint.take(name)) for name, array in held.items())
    logits = model(mx.array([tokenizer.encode("abc")]))
    assert mx.all(mx.isfinite(logits)).item() and logits.shape == (1, 3, 160)


def test_half_of_the_widths_packed(tmp_path: Path) -> None:
    """What stays unpacked is recorded so that mlx-lm leaves it alone too."""
    from mlx_lm.utils import load_model

    source = makers.dense(tmp_path / "hf", hidden_size=96)
    out = convert(source, tmp_path / "out").output
    model, _ = load_model(out)
    assert set(dict(tree_flatten(model.parameters()))) == set(Checkpoint(out))


def test_config_of_transformers_5(tmp_path: Path) -> None:
    """mlx-lm refuses such a folder as it is ("missing num_experts and rope_theta"); converted, it takes it."""
    from mlx_lm.utils import load_model

    raw = {key: value for key, value in makers.MOE.items() if key not in ("rope_theta", "rope_scaling", "num_experts")}
    raw |= {"num_local_experts": 4, "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}
    source = makers.write(tmp_path / "hf", raw, makers.fused(makers.weights(makers.MOE), 4))
    model, config = load_model(convert(source, tmp_path / "out").output)
    assert (config["num_experts"], config["rope_theta"], config["rope_scaling"]) == (4, 5e6, None)
    assert model.layers[0].self_attn.rope.base == 5e6
