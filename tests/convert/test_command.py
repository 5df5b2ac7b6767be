"""`python -m qwen3_mlx.convert` from outside: what it prints, and with which status it ends."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..weights import makers


def run(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwen3_mlx.convert", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makers.dense(tmp_path_factory.mktemp("hf") / "tiny model")


def test_summary_says_sizes_bits_time_and_what_next(source: Path, tmp_path: Path) -> None:
    done = run("--model", source, "--output", tmp_path / "o u t", "--group-size", 32)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert "218 kB -> 69 kB (32%), 5.05 bits per weight, " in first and first.endswith(" s")
    words = shlex.split(second)
    assert words[2:] == ["python", "-m", "qwen3_mlx.generate", "--model", str(tmp_path / "o u t"), "Hello"]
    assert "# tiny model, 4-bit" in (tmp_path / "o u t" / "README.md").read_text()


def test_relative_output(source: Path, tmp_path: Path) -> None:
    assert run("--model", source, "--output", "here/out", "--bits", 8, cwd=tmp_path).returncode == 0
    assert '"bits": 8' in (tmp_path / "here" / "out" / "config.json").read_text()


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    for text in ("--model", "--output", "--bits", "--group-size", "--force", "qwen3_mlx.convert --model Qwen/Qwen3-4B"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--bits", "7"], "7 bits: choose from 2, 3, 4, 5, 6, 8"),
        (["--group-size", "16"], "choose from 32, 64, 128"),
        (["--bits", "four"], "'four'"),
        (["--model", "./nowhere"], "nowhere"),
        (["--model", "/"], "config.json"),
        (["--colour"], "--colour"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_status_2(source: Path, tmp_path: Path, args: list[str], says: str) -> None:
    done = run("--model", source, "--output", tmp_path / "out", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["--model", "--output"])
def test_missing_options(source: Path, tmp_path: Path, missing: str) -> None:
    given = {"--model": source, "--output": tmp_path / "out"}
    del given[missing]
    done = run(*next(iter(given.items())))
    assert done.returncode == 2 and f"'{missing}'" in done.stderr


def test_damaged_source_names_file_and_tensor(source: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    held = makers.weights(makers.DENSE)
    held["model.norm.weight"] = mx.full((64,), float("nan"), mx.bfloat16)
    hurt = makers.write(tmp_path / "hurt", makers.DENSE, held)
    done = run("--model", hurt, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "model.safetensors: tensor model.norm.weight: holds nothing but NaN" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hurt"]


def test_existing_output_is_noticed_before_the_model_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    done = run("--model", "Nobody/no-such-model", "--output", tmp_path / "out")
    assert done.returncode == 2 and "--force" in done.stderr


def test_force(source: Path, tmp_path: Path) -> None:
    for bits in (8, 3):
        assert run("--model", source, "--output", tmp_path / "out", "--bits", bits, "--force").returncode == 0
        assert f'"bits": {bits}' in (tmp_path / "out" / "config.json").read_text()


def test_embedded_name(tmp_path: Path) -> None:
    done = run("--model", "demo", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert "# demo, 4-bit for MLX" in (tmp_path / "out" / "README.md").read_text()


def test_alias_of_a_quantized_checkpoint_is_refused_before_a_download(tmp_path: Path) -> None:
    done = run("--model", "qwen3:0.6B", "--output", tmp_path / "out")
    assert done.returncode == 2 and "convert the original, Qwen/Qwen3-0.6B\n" in done.stderr
