"""Names by their form alone: where each leads, and what a wrong one is answered."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qwen3_mlx import hub
from qwen3_mlx.errors import ModelNotFound, Unavailable
from qwen3_mlx.hub import names

from .conftest import checkpoint, write


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("Qwen/Qwen3-0.6B", "huggingface", "Qwen/Qwen3-0.6B"),
        ("mlx-community/Qwen3-4B-Instruct-2507-4bit", "huggingface", "mlx-community/Qwen3-4B-Instruct-2507-4bit"),
        ("qwen3:0.6b", "huggingface", "Qwen/Qwen3-0.6B-MLX-4bit"),
        ("qwen3:235b-a22b", "huggingface", "Qwen/Qwen3-235B-A22B-MLX-4bit"),
        ("Qwen3:30B-A3B", "huggingface", "Qwen/Qwen3-30B-A3B-MLX-4bit"),
        ("modelscope:Qwen/Qwen3-0.6B", "modelscope", "Qwen/Qwen3-0.6B"),
        ("kaggle:qwen-lm/qwen-3/transformers/0.6b", "kaggle", "qwen-lm/qwen-3/transformers/0.6b"),
        ("kaggle:qwen-lm/qwen-3/transformers/0.6b/2", "kaggle", "qwen-lm/qwen-3/transformers/0.6b/2"),
    ],
)
def test_where_a_name_leads(name: str, kind: str, target: str) -> None:
    assert names.parse(name) == names.Source(kind, target)  # type: ignore[arg-type]


def test_every_released_size_has_an_alias() -> None:
    sizes = ["0.6b", "1.7b", "4b", "8b", "14b", "32b", "30b-a3b", "235b-a22b"]
    assert list(hub.ALIASES) == [f"qwen3:{size}" for size in sizes]
    for alias in hub.ALIASES.values():
        assert alias.repo.lower() == f"qwen/{alias.name.replace(':', '-')}-mlx-4bit"
        assert names.four_bit(alias.repo.removesuffix("-MLX-4bit")) == alias
    assert names.four_bit("Qwen/Qwen3-8B-Base") is None and names.four_bit("Other/Qwen3-8B") is None


def test_a_folder_wins_over_every_other_reading_but_the_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("Qwen/Qwen3-0.6B", "plain", "demo"):
        (tmp_path / name).mkdir(parents=True)
    assert hub.resolve("Qwen/Qwen3-0.6B") == tmp_path / "Qwen" / "Qwen3-0.6B"
    assert hub.resolve("plain") == tmp_path / "plain"
    assert hub.resolve("./demo") == tmp_path / "demo"
    assert hub.resolve(Path("demo")) == tmp_path / "demo"
    with_embedded = Path(hub.__file__).parents[1] / "demo" / "dense"
    assert names.embedded("demo") == with_embedded != tmp_path / "demo"


def test_a_home_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ckpt").mkdir()
    assert hub.resolve("~/ckpt") == tmp_path / "ckpt"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "the model's name is empty.*demo-moe.*qwen3:4b.*ORG/NAME"),
        ("   ", "the model's name is empty"),
        ("qwen3:7b", r"no alias qwen3:7b \(did you mean .*qwen3:8b.*aliases are: qwen3:0.6b.*qwen3:235b-a22b"),
        ("dmeo", r"no model is called 'dmeo' \(did you mean demo"),
        ("Qwen3-8B", r"did you mean qwen3:8b"),
        ("Qwen3-8B-Base-and-more", r"did you mean Qwen/Qwen3-8B-Base-and-more\?"),
        ("nothing-like-it", "no model is called 'nothing-like-it'; a name is one of"),
        ("ollama:qwen3", "no names start with ollama:"),
        ("modelscope:Qwen3", "modelscope:ORG/NAME"),
        ("kaggle:qwen/qwen3", "kaggle:OWNER/MODEL/FRAMEWORK/VARIATION"),
        (
            "https://huggingface.co/Qwen/Qwen3-4B/tree/main",
            "is an address: .* such as Qwen/Qwen3-4B$",
        ),
        ("./absent", "there is no folder ./absent"),
        ("../absent/", "there is no folder"),
        ("/no/such/folder", r"there is no folder /no/such/folder \(/no/such does not exist either\)"),
        ("a/b/c", "there is no folder a/b/c"),
        ("~no-such-user/x", "there is no folder ~no-such-user/x"),
        ("./" + "x" * 5000, "there is no folder"),
        ("/bad\0name", "there is no folder"),
        ("~/absent-folder", "there is no folder ~/absent-folder"),
    ],
)
def test_a_wrong_name_is_told_what_would_be_right(name: str, says: str) -> None:
    with pytest.raises(ModelNotFound, match=says) as caught:
        hub.resolve(name)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_names_those_near_it(tmp_path: Path) -> None:
    write(tmp_path / "Qwen3-0.6B", checkpoint())
    write(tmp_path / "another", checkpoint())
    (tmp_path / "unrelated").mkdir()
    with pytest.raises(ModelNotFound) as caught:
        hub.resolve(str(tmp_path / "qwen3-0.6b"))
    assert str(caught.value).endswith(f"; near it: {tmp_path / 'Qwen3-0.6B'}, {tmp_path / 'another'}")


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFound, match=r"model.gguf is a file: give the folder"):
        hub.resolve(str(tmp_path / "model.gguf"))


def test_embedded_names_and_paths_never_reach_for_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(names, "embedded", lambda name: write(tmp_path / name, checkpoint()))
    for name in ("demo", "demo-moe", str(tmp_path)):
        assert hub.resolve(name).is_dir()


@pytest.mark.parametrize(("extra", "name"), [("modelscope", "modelscope:Qwen/Qwen3"), ("kagglehub", "kaggle:a/b/c/d")])
def test_an_extra_that_is_absent_says_how_to_install_it(extra: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("modelscope", "modelscope.hub.snapshot_download", "kagglehub"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unavailable, match=rf"pip install {extra}"):
        hub.resolve(name)


def test_the_list_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    listed = hub.list_models()
    assert [entry.name for entry in listed] == [*hub.EMBEDDED, *hub.ALIASES]
    assert not any(entry.local for entry in listed if entry.name in hub.ALIASES)
    sizes = {entry.name: entry.bytes / 1e9 for entry in listed}
    assert 0.3 < sizes["qwen3:0.6b"] < 0.4 and 16 < sizes["qwen3:30b-a3b"] < 18 and 120 < sizes["qwen3:235b-a22b"] < 140


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (351_000_000, "351 MB"), (999_600_000, "1.0 GB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert names.size(count) == text


def test_resolving_imports_no_client(tmp_path: Path) -> None:
    code = (
        "import sys; from qwen3_mlx import hub\n"
        f"hub.resolve({str(tmp_path)!r})\n"
        "bad = {'huggingface_hub', 'modelscope', 'kagglehub', 'mlx', 'numpy', 'httpx', 'requests'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
