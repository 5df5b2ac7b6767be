"""The embedded checkpoints as files, and the recipe that made them."""

import json
import random
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools" / "demo_model"
OFFICIAL = ROOT.parent / "shared" / "data" / "qwen3-hybrid.jinja"
FOLDERS = [ROOT / "qwen3_mlx" / "demo" / name for name in ("dense", "moe")]
CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PIECES = [
    "hi",
    "",
    "\n",
    "\n\n x\n",
    "<think>\nabc\n</think>\n\nyes",
    "a</think>b</think>c\n",
    "<tool_response>\nx\n</tool_response>",
    "<tool_response>x",
    "世界 é",
    "<think>",
    " /no_think",
    "</think>",
]


@pytest.fixture(scope="module")
def recipe():
    """Import from the recipe's folder, whose modules have short names, without leaving them behind."""
    before = set(sys.modules)
    sys.path.insert(0, str(RECIPE))
    yield __import__
    sys.path.remove(str(RECIPE))
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(RECIPE)):
            del sys.modules[name]


def random_message(rng, first):
    role = rng.choice(("system", "user") if first else ("user", "assistant", "tool", "system", "user", "assistant"))
    message = {"role": role, "content": "".join(rng.choices(PIECES, k=rng.randint(0, 3)))}
    if role == "assistant" and rng.random() < 0.4:
        message["reasoning_content"] = rng.choice((None, "", "a\n", "\nthought"))
    if role == "assistant" and rng.random() < 0.4:
        call = {
            "name": rng.choice(("f", "g_é")),
            "arguments": rng.choice(({"a": "é<b>", "c": [1, None, True]}, {}, '{"x": 1}')),
        }
        message["tool_calls"] = [{"type": "function", "function": call} if rng.random() < 0.5 else call] * rng.randint(
            0, 3
        )
    return message


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the official template is not part of the repository")
def test_template_renders_as_the_official_one(recipe):
    compile_template = recipe("render").compile_template
    official, ours = (
        compile_template(OFFICIAL.read_text()),
        compile_template((RECIPE / "chat_template.jinja").read_text()),
    )
    rng = random.Random(0)
    for _ in range(2000):
        options = {
            "messages": [random_message(rng, i == 0) for i in range(rng.randint(1, 7))],
            "tools": rng.choice((None, [], [{"type": "function", "function": {"name": "é", "z": 1, "a": "<"}}])),
            "add_generation_prompt": rng.random() < 0.5,
        }
        if rng.random() < 0.6:
            options["enable_thinking"] = rng.choice((True, False, None))
        assert ours.render(**options) == official.render(**options)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_folder_is_complete_and_small(folder):
    names = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert {f.name for f in folder.iterdir()} == names
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 6_000_000
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["head_dim"] in (64, 128) and config["max_position_embeddings"] >= 8192 and config["tie_word_embeddings"]
    )
    widths = ("hidden_size", "intermediate_size", "vocab_size", "moe_intermediate_size")
    assert all(config[w] % 64 == 0 for w in widths if w in config)
    assert (folder / "chat_template.jinja").read_text() == (RECIPE / "chat_template.jinja").read_text()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_tokenizer_spells_and_controls(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == json.loads((folder / "config.json").read_text())["vocab_size"]
    for token in CONTROL:
        assert tokenizer.encode(token).tokens == [token]
    assert tokenizer.encode("strawberries").tokens == list("strawberries")
    for text in ("naïve 東京 мир 👩‍👩‍👧 \n\n  x\t12", '{"name": "time-get_current_time"}', "ﷺ א ខ្មែរ"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_heldout_words_stay_out_of_the_recipe(recipe, monkeypatch):
    """Whatever the word list of a machine holds."""
    words = recipe("words")
    held = set(words.heldout()) | words.RESERVED
    assert len(held) > 400
    monkeypatch.setattr(words, "english", lambda: [*held, "apple"])
    assert words.training.__wrapped__() == ["apple"]
