"""A checkpoint's folder as a benchmark needs it: contexts longer than the model was made for, answers that do not end.
What a model says there means nothing; how long it takes does."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from qwen3_mlx.text.tokenizer import Tokenizer

#: Tokens that no answer has, one of which stands in for the end.
UNUSED = ("<|video_pad|>", "<|vision_pad|>", "<|fim_pad|>")


def adapted(folder: Path, into: Path, *, context: int = 0, endless: bool = False) -> Path:
    """``folder``, or a copy of it in ``into`` (weights are linked, not copied) in which ``context`` tokens are allowed
    and, if it is to be ``endless``, no token that an answer has ends it."""
    config = json.loads((folder / "config.json").read_text())
    if context <= config["max_position_embeddings"] and not endless:
        return folder
    copy = into / folder.name
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            (copy / path.name).symlink_to(path.resolve())
        elif path.is_file():
            shutil.copy(path, copy)
    config["max_position_embeddings"] = max(context, config["max_position_embeddings"])
    if endless:
        _never_end(copy, config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def _never_end(folder: Path, config: dict) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    name = next(name for name in UNUSED if tokenizer.token_id(name) is not None)
    config["eos_token_id"] = tokenizer.token_id(name)
    for file, key, value in (
        ("generation_config.json", "eos_token_id", tokenizer.token_id(name)),
        ("tokenizer_config.json", "eos_token", name),
    ):
        path = folder / file
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**held, key: value}))


def first_layers(folder: Path, into: Path, count: int) -> Path:
    """A copy of a checkpoint that has its first ``count`` layers only."""
    import mlx.core as mx

    shutil.copytree(folder, into)
    config = json.loads((into / "config.json").read_text())
    gone = tuple(f"model.layers.{index}." for index in range(count, config["num_hidden_layers"]))
    for path in into.glob("*.safetensors"):
        arrays: Any = mx.load(str(path))
        kept = {name: array for name, array in arrays.items() if not name.startswith(gone)}
        mx.eval(list(kept.values()))
        mx.save_safetensors(str(path), kept, metadata={"format": "pt"})
    (into / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}))
    return into


def in_float32(folder: Path, into: Path) -> Path:
    """A copy of a checkpoint with its weights in float32."""
    import mlx.core as mx

    shutil.copytree(folder, into, dirs_exist_ok=True)
    for path in into.glob("*.safetensors"):
        arrays: Any = mx.load(str(path))
        wide = {name: array.astype(mx.float32) for name, array in arrays.items()}
        mx.eval(list(wide.values()))
        mx.save_safetensors(str(path), wide, metadata={"format": "pt"})
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    return into


def prompt(tokenizer: Tokenizer, length: int, seed: int) -> list[int]:
    """``length`` tokens of a text like no other: random letters."""
    rng = random.Random(seed)
    words: list[str] = []
    while True:
        words += ["".join(rng.choices("abcdefghij", k=4)) for _ in range(length // 8 + 1)]
        tokens = tokenizer.encode(" ".join(words))
        if len(tokens) >= length:
            return tokens[:length]
