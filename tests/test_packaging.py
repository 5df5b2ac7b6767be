"""What gets installed: wheel, sdist, plain and editable, with the converter that lives outside the package's folder.

Built with this environment's own setuptools and installed without dependencies, so that no index is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest

from .environments import ROOT, Environment, copy_checkout, install_or_skip

BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

#: Run inside an installation: prints where things were found.
PROBE = """
import importlib.util as util, pathlib, qwen3_mlx, qwen3_mlx.convert
from qwen3_mlx import hub
assert util.find_spec("qwen3_mlx.convert.save") and util.find_spec("qwen3_mlx.convert.__main__")
assert util.find_spec("convert") is None, "a top-level module convert is importable"
for name in hub.EMBEDDED:
    assert not hub.files.missing(hub.resolve(name)), name
print(pathlib.Path(qwen3_mlx.__file__).parent)
"""


def build(hook: str, tree: Path, into: Path) -> Path:
    """Call a build hook as an installer does, in ``tree``."""
    into.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", BUILD, hook, str(into)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return into / ran.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if tuple(int(part) for part in version("setuptools").split(".")[:1]) < (77,):
        pytest.fail("setuptools 77 or newer is needed here: run `make setup`")
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_wheel", tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_sdist", tree, tmp_path_factory.mktemp("sdist"))


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def expected(tree: Path) -> set[str]:
    """The package's files of the checkout, with the converter in its installed place."""
    found = {path.relative_to(tree).as_posix() for path in (tree / "qwen3_mlx").rglob("*") if path.is_file()}
    found |= {
        f"qwen3_mlx/{path.relative_to(tree).as_posix()}" for path in (tree / "convert").rglob("*") if path.is_file()
    }
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path, tree: Path) -> None:
    held = contents(wheel)
    assert held == expected(tree)
    needed = {"qwen3_mlx/py.typed", "qwen3_mlx/convert/__main__.py", "qwen3_mlx/generate.py"}
    for kind in ("dense", "moe"):
        files = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors")
        needed |= {f"qwen3_mlx/demo/{kind}/{name}" for name in files}
    assert needed <= held
    assert {name.split("/")[0] for name in held} == {"qwen3_mlx"}


def test_the_wheels_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "qwen3-mlx" and metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"modelscope", "kaggle", "dev"}
    requires = metadata.get_all("Requires-Dist", [])
    plain = {re.split(r"[^\w-]", line)[0] for line in requires if "extra ==" not in line}
    own = {"mlx", "mlx-lm", "numpy", "tokenizers", "huggingface_hub", "jinja2", "click", "rich", "llguidance"}
    server = {"starlette", "uvicorn", "httptools", "uvloop", "orjson", "prometheus-client"}
    assert plain == own | server
    assert any(line.startswith("mlx[cpu]") and 'sys_platform == "linux"' in line for line in requires)
    assert archive.read(f"{info}/licenses/LICENSE").decode().lstrip().startswith("Apache License")
    assert archive.read(f"{info}/top_level.txt").decode().split() == ["qwen3_mlx"]
    assert "qwen3-mlx = qwen3_mlx.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_sdist_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("build_wheel", next(path for path in tmp_path.iterdir() if path.is_dir()), tmp_path / "dist")
    assert contents(again) == contents(wheel)


def test_a_plain_install(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "plain")
    environment.borrow_dependencies()
    environment.pip("install", "--no-deps", "--no-index", str(wheel))
    assert Path(environment.run(PROBE)).is_relative_to(environment.folder)
    assert not list(environment.folder.glob("lib/python*/site-packages/convert*"))


def test_an_editable_install(tree: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "editable")
    environment.borrow_dependencies()
    environment.pip("install", "--no-deps", "--no-index", str(build("build_editable", tree, tmp_path / "dist")))
    assert Path(environment.run(PROBE)) == tree / "qwen3_mlx"


def test_the_symlink_is_what_git_holds() -> None:
    listed = subprocess.check_output(["git", "ls-files", "-s", "qwen3_mlx/convert"], cwd=ROOT, text=True)
    assert listed.startswith("120000 ") and (ROOT / "qwen3_mlx" / "convert").samefile(ROOT / "convert")


@pytest.mark.foreign
def test_pip_installs_it_with_everything_it_needs(tree: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "whole")
    install_or_skip(environment, str(tree))
    assert Path(environment.run(PROBE)).is_relative_to(environment.folder)
    version_line = subprocess.check_output([str(environment.folder / "bin" / "qwen3-mlx"), "--version"], text=True)
    assert version_line.split()[-1] == environment.run("import qwen3_mlx; print(qwen3_mlx.__version__)")
    answer = subprocess.run(
        [str(environment.python), "-m", "qwen3_mlx.generate", "hello", "--model", "demo", "--max-tokens", "4"],
        cwd=environment.folder,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
