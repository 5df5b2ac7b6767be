"""The set-up behind every make target, with stand-ins for Python and uv: no network, no real environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "dirname", "cat", "cksum", "uname", "date", "rm", "mkdir", "cp", "grep")

# Behaves as a Python new enough: makes an environment that holds a copy of itself, and notes what pip was asked.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
"--version") echo "Python 3.13.9" ;;
"-m venv .venv") mkdir -p .venv/bin; echo "home = here" >.venv/pyvenv.cfg; cp "$0" .venv/bin/python ;;
"-m pip install"*)
    echo "pip $*" >>"$LOG"
    if grep -q broken pyproject.toml; then echo "pip: no network" >&2; exit 1; fi ;;
"-c import venv"*) exit ${NO_PIP:-0} ;;
"-c"*) exit 0 ;;
*) exit 3 ;;
esac
"""

FAKE_UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
case "$*" in
"venv "*) mkdir -p .venv/bin; echo "home = here" >.venv/pyvenv.cfg; cp "$FAKE" .venv/bin/python ;;
esac
exit ${UV_FAILS:-0}
"""


class Checkout:
    """A folder with the set-up script in it, and a PATH on which there is nothing but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"  # with a space in it
        self.bin = folder / "some bin"
        self.log = folder / "log"
        self.log.touch()
        (self.folder / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "setup.sh", self.folder / "tools")
        (self.folder / "pyproject.toml").write_text("[project]\n")
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"{tool} is needed"))
        self.python = self.add("python-fake", FAKE_PYTHON)

    def add(self, name: str, script: str) -> Path:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def run(self, kind: str = "dev", **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": str(self.bin), "HOME": str(self.bin), "LOG": str(self.log), "FAKE": str(self.python)}
        return subprocess.run(
            ["sh", "tools/setup.sh", kind],
            cwd=self.folder,
            env=variables | environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def installs(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_makes_the_environment_once(checkout: Checkout) -> None:
    first = checkout.run(PYTHON=str(checkout.python))
    assert first.returncode == 0, first.stderr
    assert "creating .venv with Python 3.13.9" in first.stderr and "ready after" in first.stderr
    assert len(checkout.installs()) == 1 and checkout.installs()[0].endswith("--editable .[dev]")
    again = checkout.run(PYTHON=str(checkout.python))
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "") and len(checkout.installs()) == 1


def test_the_first_python_that_works_is_taken(checkout: Checkout) -> None:
    checkout.add("python3.13", '#!/bin/sh\necho "pyenv: python3.13: command not found" >&2\nexit 127\n')
    checkout.add("python3.12", '#!/bin/sh\n[ "$1" = -c ] && exit 1\n')  # too old, by its own word
    checkout.add("python3.11", FAKE_PYTHON)
    ran = checkout.run()
    assert ran.returncode == 0, ran.stderr
    assert f"({checkout.bin / 'python3.11'})" in ran.stderr and "pyenv" not in ran.stderr


def test_a_user_of_the_demo_needs_no_test_tools_and_a_developer_has_the_users(checkout: Checkout) -> None:
    python = str(checkout.python)
    checkout.run("run", PYTHON=python)
    assert checkout.installs()[-1].endswith("--editable .")
    checkout.run("dev", PYTHON=python)
    assert checkout.installs()[-1].endswith("--editable .[dev]") and len(checkout.installs()) == 2
    checkout.run("run", PYTHON=python)
    assert len(checkout.installs()) == 2


def test_a_changed_pyproject_is_installed_again(checkout: Checkout) -> None:
    checkout.run(PYTHON=str(checkout.python))
    (checkout.folder / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    checkout.run(PYTHON=str(checkout.python))
    assert len(checkout.installs()) == 2


def test_an_environment_that_broke_is_made_anew(checkout: Checkout) -> None:
    checkout.run(PYTHON=str(checkout.python))
    (checkout.folder / ".venv" / "bin" / "python").write_text("#!/no/such/interpreter\n")
    ran = checkout.run(PYTHON=str(checkout.python))
    assert ran.returncode == 0 and "does not work any more" in ran.stderr and len(checkout.installs()) == 2


def test_a_folder_of_that_name_that_is_something_else_is_left_alone(checkout: Checkout) -> None:
    (checkout.folder / ".venv").mkdir()
    (checkout.folder / ".venv" / "precious").touch()
    ran = checkout.run(PYTHON=str(checkout.python))
    assert ran.returncode == 1 and "move it away" in ran.stderr
    assert (checkout.folder / ".venv" / "precious").exists()


def test_no_python_says_what_to_install(checkout: Checkout) -> None:
    ran = checkout.run(PYTHON=str(checkout.bin / "absent"))
    assert ran.returncode == 1
    assert "3.11 to 3.14 is needed" in ran.stderr and "uv: https://docs.astral.sh/uv" in ran.stderr
    assert not (checkout.folder / ".venv").exists()


def test_a_python_without_venv_says_which_package_has_it(checkout: Checkout) -> None:
    ran = checkout.run(PYTHON=str(checkout.python), NO_PIP="1")
    assert ran.returncode == 1 and "apt-get install python3-venv" in ran.stderr


def test_a_failed_installation_fails_and_is_tried_again(checkout: Checkout) -> None:
    (checkout.folder / "pyproject.toml").write_text("broken\n")
    for attempt in (1, 2):
        ran = checkout.run(PYTHON=str(checkout.python))
        assert ran.returncode == 1 and "pip: no network" in ran.stderr and len(checkout.installs()) == attempt


def test_uv_is_used_where_it_is_installed(checkout: Checkout) -> None:
    checkout.add("uv", FAKE_UV)
    ran = checkout.run()
    assert ran.returncode == 0, ran.stderr
    venv, install = checkout.installs()
    assert venv == "uv venv --quiet --seed --python >=3.11,<3.15 .venv"
    assert install == "uv pip install --quiet --python .venv/bin/python --editable .[dev]"


def test_where_uv_fails_pip_has_a_try(checkout: Checkout) -> None:
    checkout.add("uv", FAKE_UV)
    ran = checkout.run(PYTHON=str(checkout.python), UV_FAILS="1")
    assert ran.returncode == 0, ran.stderr
    assert checkout.installs()[-1].startswith("pip ")


def test_make_knows_its_targets_and_helps_by_default() -> None:
    if not shutil.which("make"):
        pytest.skip("no make here")
    # The suite may itself run under make, whose own flags would be handed down.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }

    def make(*arguments: str) -> str:
        ran = subprocess.run(
            ["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
        )
        return ran.stdout

    for target in ("demo", "test", "test-all", "lint", "clean"):
        assert f"make {target}" in make() and make("-n", target)
    # One make runs the ordinary suite once, however many of its targets ask for it.
    planned = make("-n", "test", "lint", "test-all")
    assert planned.count('-m "not foreign"') == 1 and planned.count("-m foreign") == 1
