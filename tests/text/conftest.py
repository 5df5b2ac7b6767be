"""The real tokenizer and the official chat templates, once per session."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qwen3_mlx.text.chat import ChatTemplate
from qwen3_mlx.text.tokenizer import Tokenizer

from .real_tokenizer import real_folder

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def folder() -> Path:
    return real_folder()


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def backend(folder: Path):
    """The `tokenizers` library's own object: the oracle."""
    from tokenizers import Tokenizer as Backend

    return Backend.from_file(str(folder / "tokenizer.json"))


def official(name: str) -> str:
    path = SHARED_DATA / f"qwen3-{name}.jinja"
    if not path.is_file():
        pytest.skip(f"the official template {path.name} is not here")
    return path.read_text(encoding="utf-8")


@pytest.fixture
def make_template(tmp_path: Path):
    """Writes a template as a checkpoint has it and reads it back."""

    def make(source: str | list, config: dict | None = None) -> ChatTemplate:
        if isinstance(source, str):
            (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
        else:
            config = {**(config or {}), "chat_template": source}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config or {}))
        return ChatTemplate.from_folder(tmp_path)

    return make


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    """The official template of the hybrid models, from a checkpoint's folder."""
    place = tmp_path_factory.mktemp("hybrid")
    (place / "chat_template.jinja").write_text(official("hybrid"), encoding="utf-8")
    return ChatTemplate.from_folder(place)


@pytest.fixture(scope="session")
def nonthinking(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    place = tmp_path_factory.mktemp("nonthinking")
    (place / "chat_template.jinja").write_text(official("nonthinking"), encoding="utf-8")
    return ChatTemplate.from_folder(place)


@pytest.fixture
def copy_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy of the real tokenizer's folder that a test may damage."""
    for path in folder.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path
