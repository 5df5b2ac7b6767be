"""Copies of this checkout and environments to install them in, for the tests that are about installing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def copy_checkout(folder: Path) -> Path:
    """What git holds or would hold of this checkout, in ``folder``: nothing built, ignored or left over."""
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT)
    for name in os.fsdecode(listed).split("\0"):
        source, target = ROOT / name, folder / name
        if not name or not (source.is_symlink() or source.is_file()):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        else:
            shutil.copy2(source, target)
    return folder


class Environment:
    """A virtual environment of its own, filled from outside by this one's pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python*/site-packages"))

    def borrow_dependencies(self) -> None:
        """Make importable what this process's environment holds, all but the package under test itself."""
        borrowed = self.folder / "borrowed"
        borrowed.mkdir()
        for entry in Path(sysconfig.get_path("platlib")).iterdir():
            if not entry.name.startswith(("__editable__", "qwen3_mlx", "distutils-precedence")):
                (borrowed / entry.name).symlink_to(entry)
        (self.site / "borrowed.pth").write_text(f"{borrowed}\n")

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments, "--quiet"]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, f"pip {' '.join(arguments)}\n{ran.stdout}{ran.stderr}"

    def run(self, code: str, *arguments: str, **environment: str) -> str:
        """The stdout of ``code`` in a process that sees neither the checkout nor this process's PYTHONPATH."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.python), "-c", code, *arguments]
        ran = subprocess.run(command, cwd=self.folder, env=variables | environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout.strip()


def install_or_skip(environment: Environment, *requirements: str) -> None:
    """``pip install`` from the index. Without one the test is skipped, except where skipping is not allowed: in CI."""
    required = os.environ.get("CI") == "true" or os.environ.get("QWEN3_MLX_REQUIRE_FOREIGN") == "1"
    try:
        # Most of what is installed is never imported: compiling it all takes longer than fetching it.
        environment.pip("install", "--no-compile", *requirements)
    except AssertionError as error:
        if required:
            raise
        pytest.skip(f"pip could not install {' '.join(requirements)}: {str(error).splitlines()[-1]}")
