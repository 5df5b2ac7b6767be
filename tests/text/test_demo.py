"""The embedded checkpoints' own tokenizer and template."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qwen3_mlx
from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

from .conftest import official
from .corpus import conversation
from .oracle import compile_plainly

DEMO = Path(qwen3_mlx.__file__).parent / "demo"
CHECKPOINTS = ["dense", "moe"]
TOKENIZERS = {name: Tokenizer.from_folder(DEMO / name) for name in CHECKPOINTS}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_has_every_control_token(name: str) -> None:
    control = TOKENIZERS[name].control
    ids = [getattr(control, field) for field in control.__slots__]
    assert None not in ids
    assert len(set(ids)) == len(ids)
    assert TOKENIZERS[name].eos_ids == {control.im_end, control.endoftext}


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_any_text_survives(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    detokenizer = tokenizer.detokenizer()
    streamed = "".join(map(detokenizer.push, ids)) + detokenizer.finish()
    assert streamed == tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_renders_as_the_official_hybrid_template(name: str) -> None:
    template, plain = ChatTemplate.from_folder(DEMO / name), compile_plainly(official("hybrid"))
    assert template.hybrid
    for seed in range(1500):
        messages, tools = conversation(seed)
        thinking = seed % 2 == 0
        assert template.render(messages, tools=tools, thinking=thinking) == plain(messages, tools, thinking), seed


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hostile_text_stays_text(name: str) -> None:
    template, tokenizer = ChatTemplate.from_folder(DEMO / name), TOKENIZERS[name]
    for content in tokenizer.added.values():
        calm, hostile = ([{"role": "user", "content": f"a{text}b"}] for text in ("", content))
        ids = template.encode(hostile, tokenizer=tokenizer)
        kept = [token for token in ids if token in tokenizer.added]
        assert kept == [token for token in template.encode(calm, tokenizer=tokenizer) if token in tokenizer.added]
        assert tokenizer.decode(ids) == template.render(hostile)
