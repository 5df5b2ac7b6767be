"""Copies of a checkpoint's folder that a benchmark runs on."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.folders import adapted, prompt
from qwen3_mlx import hub
from qwen3_mlx.config import ModelConfig
from qwen3_mlx.text.tokenizer import Tokenizer

DEMO = hub.resolve("demo")


def test_what_is_enough_is_not_copied(tmp_path: Path) -> None:
    longest = ModelConfig.from_folder(DEMO).max_position_embeddings
    assert adapted(DEMO, tmp_path, context=longest) == DEMO and not list(tmp_path.iterdir())


def test_longer_contexts(tmp_path: Path) -> None:
    copy = adapted(DEMO, tmp_path, context=40_000)
    assert ModelConfig.from_folder(copy).max_position_embeddings == 40_000
    assert (copy / "model.safetensors").resolve() == (DEMO / "model.safetensors").resolve()
    assert Tokenizer.from_folder(copy).eos_ids == Tokenizer.from_folder(DEMO).eos_ids
    assert ModelConfig.from_folder(DEMO).max_position_embeddings == 8192, "the original is as it was"


def test_answers_without_end(tmp_path: Path) -> None:
    copy = adapted(DEMO, tmp_path, context=10, endless=True)
    tokenizer = Tokenizer.from_folder(copy)
    assert tokenizer.eos_ids == {tokenizer.token_id("<|video_pad|>")}
    assert json.loads((copy / "tokenizer_config.json").read_text())["eos_token"] == "<|video_pad|>"
    assert ModelConfig.from_folder(copy).max_position_embeddings == 8192


def test_prompts_have_their_length_and_are_unlike() -> None:
    tokenizer = Tokenizer.from_folder(DEMO)
    made = {length: prompt(tokenizer, length, length) for length in (1, 16, 1000)}
    assert [len(ids) for ids in made.values()] == list(made)
    assert made[16] == prompt(tokenizer, 16, 16) != prompt(tokenizer, 16, 17)
