"""The import law: which room may import which, who stays free of MLX, and what may not be loaded on the way.

Read from the source with ``ast``, so that an import inside a function counts too; what matters at run time is checked
once more by importing, in a fresh interpreter.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "qwen3_mlx"

BASE = {"types", "errors", "machine", "values"}
LOW = BASE | {"config", "costs"}
MODEL = LOW | {"kernels", "cache", "model"}
WEIGHTS = MODEL | {"names", "weights"}
ENGINE = WEIGHTS | {"sampling", "control", "text", "engine", "distributed"}
API = ENGINE | {"hub", "api"}

#: Room -> the rooms it may import, itself always among them. A leading file of several (``weights.py`` reads folders
#: with the help of three) shares its room with them.
LAW: dict[str, set[str]] = {
    "values": set(),
    "types": {"values"},
    "errors": {"types"},
    "machine": set(),
    "config": BASE,
    "chips": {"errors"},
    "costs": LOW,
    "predict": LOW | {"chips"},
    "released": LOW,
    "names": LOW,
    "hub": BASE,
    "kernels": LOW,
    "cache": LOW | {"kernels"},  # a cache hands out the views that the kernels read
    "model": LOW | {"cache", "kernels"},
    "weights": MODEL | {"names"},
    "sampling": LOW,
    "text": LOW,
    "control": BASE,
    "distributed": WEIGHTS,
    "engine": ENGINE,
    "api": API,
    "generate": API | {"cli"},  # the command's two spellings are one function
    "server": API | {"cli"},
    "doctor": WEIGHTS | {"chips", "hub", "released"},
    "cli": API | {"chips", "convert", "doctor", "package", "predict", "released", "server"},
    "convert": WEIGHTS | {"hub", "package"},
    "convert.__main__": {"convert", "cli"},  # an entry point: it ends a process as the other commands do
    "package": {"api", *BASE},  # qwen3_mlx/__init__.py
}

ROOM_OF_FILE = {
    "checkpoint": "weights",
    "arguments": "api",
    "layout": "weights",
    "packing": "weights",
    "masks": "sampling",
    "__init__": "package",
}

#: Rooms and modules that never import MLX, not even inside a function.
WITHOUT_MLX = (
    "values",
    "types",
    "errors",
    "machine",
    "chips",
    "costs",
    "predict",
    "released",
    "hub",
    "control",
    "text",
    "engine.scheduler",
    "engine.pace",
    "engine.memory",
    "engine.grouping",
    "server",
)

#: Files of the server that turn bodies into tasks and events into bytes: they know no HTTP library and no engine.
PURE_SERVER = (
    *("fields", "chat_fields", "thinking", "wire", "chat", "errors", "security", "slots", "settings", "sockets"),
    *("record", "log", "completions", "openapi", "receipts"),
)
#: What the rest of the server stands on.
SERVER_LIBRARIES = {"starlette", "uvicorn", "httptools", "uvloop", "prometheus_client", "orjson", "asyncio"}

#: Never loaded by importing a command or the library: each costs more than a first token may.
SLOW = {
    "numpy",
    "rich",
    "huggingface_hub",
    "mlx_lm",
    "transformers",
    "torch",
    "modelscope",
    "kagglehub",
    "matplotlib",
    "llguidance",
    *("starlette", "uvicorn", "httptools", "uvloop", "prometheus_client", "orjson"),
}

#: What ``import qwen3_mlx`` may not load. asyncio and the like are the standard library's own slow parts.
NOT_AT_ALL = SLOW | {"mlx", "jinja2", "tokenizers", "click", "asyncio", "email", "http", "json", "inspect", "logging"}


@dataclass(frozen=True)
class Import:
    """One import statement's target: ``module`` importing ``target`` (dotted, absolute) on ``line``."""

    module: str
    target: str
    line: int
    lazy: bool  # inside a function
    typing: bool  # under TYPE_CHECKING: never executed

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without the leading ``qwen3_mlx.``, the symlink's included."""
    found = {}
    folders = [PACKAGE]
    while folders:
        for path in sorted(folders.pop().iterdir()):
            if path.is_dir() and path.name not in ("__pycache__", "demo"):
                folders.append(path)
            elif path.suffix == ".py":
                parts = path.relative_to(PACKAGE).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


MODULES = modules()


@cache
def imports(module: str) -> tuple[Import, ...]:
    path = MODULES[module]
    package = ["qwen3_mlx", *path.relative_to(PACKAGE).parent.parts]
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), module, package, False, False))


def _imports(node: ast.AST, module: str, package: list[str], lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, lazy, typing)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else []
            target = ".".join([*base, child.module] if child.module else base)
            # ``from . import hub`` names a module, ``from .hub import resolve`` a thing inside one.
            for alias in child.names:
                inner = f"{target}.{alias.name}"
                is_module = inner.removeprefix("qwen3_mlx.") in MODULES
                yield Import(module, inner if is_module else target, child.lineno, lazy, typing)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _imports(child, module, package, lazy or inside, typing or checking)


def room(module: str) -> str:
    if module in LAW:
        return module
    first = module.split(".")[0]
    return ROOM_OF_FILE.get(first, first)


def inner_targets(module: str) -> Iterator[tuple[Import, str]]:
    """The imports of ``module`` that stay in the package, each with the module meant (``__init__`` is the package)."""
    for found in imports(module):
        if found.target == "qwen3_mlx":
            yield found, "__init__"
        elif found.target.startswith("qwen3_mlx."):
            yield found, found.target.removeprefix("qwen3_mlx.")


def test_there_is_something_to_check() -> None:
    assert {"types", "errors", "hub.names", "convert.save", "__init__"} <= MODULES.keys()
    assert any(found.lazy for found in imports("hub.huggingface"))


@pytest.mark.parametrize("module", MODULES)
def test_rooms(module: str) -> None:
    here = room(module)
    assert here in LAW, f"{module} has no room: give it one in LAW or ROOM_OF_FILE"
    wrong = [
        str(found) for found, target in inner_targets(module) if room(target) != here and room(target) not in LAW[here]
    ]
    assert not wrong, f"{here} may import {sorted(LAW[here])} only"


def test_only_the_command_line_imports_the_converter_and_lazily() -> None:
    for module in MODULES:
        for found, target in inner_targets(module):
            if room(target) == "convert" and not module.startswith("convert"):
                assert room(module) == "cli" and found.lazy, str(found)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(WITHOUT_MLX)])
def test_no_mlx_in_the_pure_rooms(module: str) -> None:
    assert not [str(found) for found in imports(module) if found.target.split(".")[0] in ("mlx", "numpy")]


@pytest.mark.parametrize("name", PURE_SERVER)
def test_protocol_files_know_no_transport_and_no_engine(name: str) -> None:
    assert f"server.{name}" in MODULES
    libraries = {found.target.split(".")[0] for found in imports(f"server.{name}") if not found.typing}
    assert not libraries & (SERVER_LIBRARIES - {"orjson"})
    rooms = {room(target) for found, target in inner_targets(f"server.{name}") if not found.typing}
    assert rooms <= {"types", "errors", "control", "server"}
    used = {target for _, target in inner_targets(f"server.{name}") if room(target) == "server"}
    assert used <= {f"server.{pure}" for pure in PURE_SERVER}


def test_only_the_server_loads_what_it_stands_on() -> None:
    for module in MODULES:
        if room(module) != "server":
            libraries = {found.target.split(".")[0] for found in imports(module)}
            assert not libraries & (SERVER_LIBRARIES - {"asyncio"}), module


@pytest.mark.parametrize("module", MODULES)
def test_mlx_lm_and_transformers_are_for_the_converter(module: str) -> None:
    heavy = [found for found in imports(module) if found.target.split(".")[0] in ("mlx_lm", "transformers", "torch")]
    assert all(room(module) == "convert" and found.lazy for found in heavy), [str(found) for found in heavy]


def loaded_with(module: str) -> set[str]:
    """The package's modules that importing ``module`` executes."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        parts = name.split(".")
        waiting += ["__init__", *(".".join(parts[:end]) for end in range(1, len(parts)))]
        waiting += [target for found, target in inner_targets(name) if not (found.lazy or found.typing)]
    return seen


@pytest.mark.parametrize(
    "entry",
    ["api", "generate", "cli", "cli.generate", "cli.models", "cli.bench", "cli.doctor", "cli.serve", "hub", "weights"],
)
def test_nothing_slow_is_imported_before_it_is_used(entry: str) -> None:
    assert entry in MODULES
    slow = [
        str(found)
        for module in loaded_with(entry)
        for found in imports(module)
        if found.target.split(".")[0] in SLOW and not (found.lazy or found.typing)
    ]
    assert not slow


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_prints_nothing(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), f"{module} has no docstring"
    calls = [node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]
    assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def modules_after(code: str) -> set[str]:
    """The top-level modules loaded by ``code`` in a fresh interpreter, beyond those of an empty one."""
    script = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "print(' '.join({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    # -S would hide the installation; -I keeps the current folder and the environment out of it.
    ran = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_importing_the_package_loads_next_to_nothing() -> None:
    loaded = modules_after("import qwen3_mlx")
    assert "qwen3_mlx" in loaded
    assert not loaded & NOT_AT_ALL
    assert len(loaded) <= 5, loaded


def test_the_pure_rooms_load_no_mlx() -> None:
    pure = [name for name in MODULES if name.startswith(WITHOUT_MLX) and not name.endswith("__main__")]
    loaded = modules_after("\n".join(f"import qwen3_mlx.{name}" for name in pure))
    assert not loaded & {"mlx", "numpy", "mlx_lm", "transformers", "huggingface_hub"}


@pytest.mark.parametrize("entry", ["qwen3_mlx.api", "qwen3_mlx.generate", "qwen3_mlx.cli", "qwen3_mlx.cli.generate"])
def test_the_way_to_a_first_token_loads_nothing_slow(entry: str) -> None:
    assert not modules_after(f"import {entry}") & SLOW


def test_a_generation_loads_nothing_slow() -> None:
    code = (
        "from qwen3_mlx import Qwen3, SamplingParams\n"
        "q = Qwen3.load('demo')\n"
        "assert list(q.stream([{'role': 'user', 'content': 'hi'}], params=SamplingParams(max_tokens=2)))\n"
        "q.close()"
    )
    assert not modules_after(code) & SLOW


def test_a_grammar_loads_its_parser_and_nothing_else_slow() -> None:
    code = (
        "from qwen3_mlx import Grammar, Qwen3\n"
        "q = Qwen3.load('demo')\n"
        "assert q.generate('hi', thinking=False, schema=Grammar.choice('a', 'b')).content in 'ab'\n"
        "q.close()"
    )
    assert modules_after(code) & SLOW == {"llguidance"}


def test_the_command_answers_without_anything_slow() -> None:
    code = (
        "import io, sys\n"
        "from qwen3_mlx.cli import main\n"
        "sys.argv = ['qwen3-mlx', 'generate', 'hi', '--max-tokens', '2', '--model', 'demo']\n"
        "out, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO())\n"
        "try:\n"
        "    status = main()\n"
        "except SystemExit as leaving:\n"
        "    status = leaving.code\n"
        "sys.stdout = out\n"
        "assert not status, status"
    )
    assert not modules_after(code) & SLOW
