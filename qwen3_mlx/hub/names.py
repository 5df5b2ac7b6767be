"""What a model may be called, as data, and where each name leads. Reads no network and imports no library."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from ..errors import ModelNotFound
from ..values import frozen

#: The checkpoints inside the package: name -> its folder under ``qwen3_mlx/demo``.
EMBEDDED = {"demo": "dense", "demo-moe": "moe"}

FORMS = (
    "demo, demo-moe, the folder of a checkpoint, an alias such as qwen3:4b, ORG/NAME on Hugging Face,"
    " modelscope:ORG/NAME or kaggle:OWNER/MODEL/FRAMEWORK/VARIATION"
)

#: Above this many bytes, unquantized weights are announced with the 4-bit checkpoint that would do.
LARGE = 5_000_000_000

# Patterns as text: most names need none, and compiling them takes longer than all else here.
_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_URL = r"(?i)https?://[^/]+/(?:models/)?([\w.-]+/[\w.-]+)"


@frozen
class Alias:
    """A short name for an official MLX 4-bit checkpoint. ``bytes`` is about what it downloads."""

    name: str
    repo: str
    bytes: int


@frozen
class Source:
    """Where a name leads: ``target`` is a folder's path, a repository (``ORG/NAME``) or a Kaggle handle."""

    kind: Literal["folder", "huggingface", "modelscope", "kaggle"]
    target: str


# Parameters in billions. 4 bits with a bf16 scale and bias for each 64 weights are 4.5 bits; unquantized ones are 16.
_SIZES = {
    "0.6B": 0.596,
    "1.7B": 1.721,
    "4B": 4.022,
    "8B": 8.191,
    "14B": 14.768,
    "32B": 32.762,
    "30B-A3B": 30.532,
    "235B-A22B": 235.094,
}

ALIASES = {
    alias.name: alias
    for alias in (
        Alias(f"qwen3:{size.lower()}", f"Qwen/Qwen3-{size}-MLX-4bit", int(billions * 1e9 * 4.5 / 8))
        for size, billions in _SIZES.items()
    )
}


def size(count: float) -> str:
    """A number of bytes for people, in decimal units as hubs give them: ``351 MB``, ``18.4 GB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def four_bit(repo: str) -> Alias | None:
    """The alias whose checkpoint is the 4-bit form of an official unquantized one, or None."""
    match = re.fullmatch(r"(?i)qwen/qwen3-(.+)", repo)
    return ALIASES.get(f"qwen3:{match[1].lower()}") if match else None


def before_download(repo: str, total: int, *, quantized: bool, into: Path, prefix: str = "") -> list[str]:
    """The lines a user sees before ``total`` bytes of weights are fetched; ``prefix`` is the name's (modelscope:)."""
    lines = [f"downloading {repo} ({size(total)}) into {into}" if total else f"downloading {repo} into {into}"]
    if total > LARGE and not quantized:
        alias = four_bit(repo)
        name = (f"{prefix}{alias.repo}" if prefix else alias.name) if alias else ""
        advice = (
            f"{alias.repo} (--model {name}) holds the same model in 4 bits, about {size(alias.bytes)}"
            if alias
            else f"in 4 bits it would be about {size(total * 4.5 / 16)}: look for an MLX 4-bit form of it"
        )
        lines.insert(0, f"{repo} is {size(total)} of unquantized weights; {advice}")
    return lines


def embedded(name: str) -> Path:
    """The folder of an embedded checkpoint, wherever this package was installed."""
    return Path(__file__).resolve().parents[1] / "demo" / EMBEDDED[name]


def parse(name: str) -> Source:
    """Where ``name`` leads, by its form alone.

    An existing folder wins over every other reading except the embedded names (write ``./demo`` for a folder of that
    name). Raises ``ModelNotFound`` for a path that does not exist and for a name of no known form.
    """
    if not name.strip():
        raise ModelNotFound(f"the model's name is empty; a name is one of: {FORMS}")
    if name in EMBEDDED:
        place = embedded(name)
        if not (place / "config.json").is_file():
            raise ModelNotFound(f"the checkpoint {name} is missing from this installation ({place}): install again")
        return Source("folder", str(place))
    # os.path, because it takes any text for an answer: too long a name, a user that does not exist.
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path) or os.path.isfile(path):
        return folder(path)
    if url := re.match(_URL, name):
        raise ModelNotFound(f"{name} is an address: give the model's name, such as {url[1]}")
    scheme, colon, rest = name.partition(":")
    if colon and "/" not in scheme:
        return _with_scheme(name, scheme.lower(), rest)
    if _looks_like_path(name):
        return folder(path, name)
    if re.fullmatch(_REPO, name):
        return Source("huggingface", name)
    raise ModelNotFound(f"no model is called {name!r}{_did_you_mean(name)}; a name is one of: {FORMS}")


def folder(path: Path, name: str = "") -> Source:
    """The checkpoint folder at ``path``, which the user called ``name``. Raises ``ModelNotFound``."""
    if os.path.isdir(path):
        return Source("folder", str(path.absolute()))
    name = name or str(path)
    if os.path.isfile(path):
        raise ModelNotFound(f"{name} is a file: give the folder that holds the checkpoint (config.json and all)")
    raise ModelNotFound(f"there is no folder {name}{near_folders(path)}")


def near_folders(path: Path) -> str:
    """``; near it: ...``: the folders beside a missing ``path`` that may have been meant, or the parent that exists."""
    import difflib

    parent = path.parent
    try:
        folders = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    except OSError:
        return f" ({parent} does not exist either)"
    # Case counts little in a typing mistake, so it is compared away.
    by_lower = {entry.lower(): entry for entry in folders}
    close = [by_lower[near] for near in difflib.get_close_matches(path.name.lower(), by_lower, n=3, cutoff=0.6)]
    close += [entry for entry in folders if (parent / entry / "config.json").is_file() and entry not in close]
    return f"; near it: {', '.join(str(parent / entry) for entry in close[:3])}" if close else ""


def _with_scheme(name: str, scheme: str, rest: str) -> Source:
    if scheme == "qwen3":
        if alias := ALIASES.get(name.lower()):
            return Source("huggingface", alias.repo)
        raise ModelNotFound(f"no alias {name}{_did_you_mean(name)}; the aliases are: {', '.join(ALIASES)}")
    if scheme == "modelscope":
        if re.fullmatch(_REPO, rest):
            return Source("modelscope", rest)
        raise ModelNotFound(f"{name}: a ModelScope name is modelscope:ORG/NAME, as modelscope:Qwen/Qwen3-0.6B")
    if scheme == "kaggle":
        if len(parts := rest.split("/")) in (4, 5) and all(re.fullmatch(r"[\w.-]+", part) for part in parts):
            return Source("kaggle", rest)
        raise ModelNotFound(f"{name}: a Kaggle name is kaggle:OWNER/MODEL/FRAMEWORK/VARIATION, with /VERSION if wanted")
    raise ModelNotFound(f"{name}: no names start with {scheme}:; a name is one of: {FORMS}")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.endswith(("/", os.sep)) or "\\" in name or name.count("/") > 1


def _did_you_mean(name: str) -> str:
    import difflib

    known = [*EMBEDDED, *ALIASES]
    if close := difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.7):
        return f" (did you mean {' or '.join(close)}?)"
    if re.fullmatch(r"(?i)qwen3[\w.-]*", name):
        return f" (did you mean Qwen/{name}?)"
    return ""
