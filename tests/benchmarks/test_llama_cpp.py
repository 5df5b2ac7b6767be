"""llama.cpp as a peer, where something in its stead answers to the calls of ``llama_cpp.Llama`` that are made of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from benchmarks import decode, load, prefill, results
from benchmarks.results import OURS
from qwen3_mlx import hub
from qwen3_mlx.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_folder(hub.resolve("demo"))


class Llama:
    """Every prompt is answered by its own length, again and again."""

    made: ClassVar[list[Llama]] = []
    known = TOKENIZER.decode

    def __init__(self, model_path: str, **options: Any) -> None:
        self.path, self.options, self.prompts, self.held, self.closed = model_path, options, [], 0, False
        if not Path(model_path).read_text():
            raise ValueError("Failed to load model from file")  # as it does for any that is no GGUF
        Llama.made.append(self)

    def detokenize(self, tokens: list[int], special: bool = False) -> bytes:
        assert special
        return type(self).known(tokens).encode()

    def reset(self) -> None:
        self.held = 0

    def generate(self, tokens: Sequence[int], *, top_k: int, temp: float, repeat_penalty: float) -> Iterator[int]:
        assert (top_k, temp, repeat_penalty) == (1, 0.0, 1.0)
        self.prompts.append((len(tokens), self.held))
        self.held = len(tokens)
        while True:
            yield len(tokens)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    module = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", None)
    module.Llama = Llama  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(Llama, "made", [])
    (tmp_path / "demo.gguf").write_text("not read here")
    return tmp_path / "demo.gguf"


def ran(main: Any, gguf: Path, *options: str) -> results.Run:
    file = gguf.with_suffix(".json")
    assert main(["--peer", "llama.cpp", "--gguf", str(gguf), "--runs", "2", *options, "--json", str(file)]) == 0
    assert all(one.closed and one.path == str(gguf) for one in Llama.made)
    return results.load(file).runs[0]


def test_prefill_has_nothing_cached(gguf: Path) -> None:
    run = ran(prefill.main, gguf, "--lengths", "4,9")
    assert [row.at for row in run.tables[0].rows] == [4, 9] and run.tables[0].sides == [OURS, "llama.cpp"]
    (llama,) = Llama.made
    assert llama.prompts == [(4, 0)] * 3 + [(9, 0)] * 3 and llama.options["n_ctx"] == 10


def test_decode_keeps_the_context(gguf: Path) -> None:
    run = ran(decode.main, gguf, "--contexts", "5", "--tokens", "3", "--peer", "mlx-lm")
    assert run.tables[0].sides == [OURS, "llama.cpp", "mlx-lm"]
    (llama,) = Llama.made
    assert llama.prompts == [(6, 0)] + [(6, 6)] * 3 and llama.options["n_ctx"] == 9


def test_load(gguf: Path) -> None:
    assert ran(load.main, gguf).tables[0].sides == [OURS, "llama.cpp"]
    assert len(Llama.made) == 3


def test_another_model_is_refused(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Llama, "known", staticmethod(lambda tokens: "something else"))
    file = gguf.with_suffix(".json")
    assert prefill.main(["--peer", "llama.cpp", "--gguf", str(gguf), "--json", str(file)]) == 2
    assert "it is another model" in capsys.readouterr().err and not file.exists()


def test_a_file_that_cannot_be_loaded(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf.write_text("")
    assert prefill.main(["--peer", "llama.cpp", "--gguf", str(gguf)]) == 2
    assert "llama.cpp cannot load it (Failed to load" in capsys.readouterr().err
