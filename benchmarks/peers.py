"""Whom we are measured against: what each is called, and what it takes to have it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from qwen3_mlx.errors import InvalidRequest, Unavailable


@dataclass(frozen=True, slots=True)
class Peer:
    """``package``: what pip installs; ``module``: what is imported; ``gguf``: it reads only such checkpoints."""

    name: str
    package: str
    module: str
    gguf: bool = False

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


PEERS = {
    peer.name: peer
    for peer in (
        Peer("mlx-lm", "mlx-lm", "mlx_lm"),
        Peer("llama.cpp", "llama-cpp-python", "llama_cpp", gguf=True),
        Peer("transformers", "transformers", "transformers"),
    )
}


def require(name: str, gguf: Path | None = None) -> Peer:
    """The peer of that name, which can be measured here. Raises Unavailable if it is not installed, InvalidRequest if
    it needs a file that was not given or is not there."""
    peer = PEERS[name]
    if not peer.installed:
        needs = " (and give the same checkpoint as a GGUF file, --gguf FILE)" if peer.gguf else ""
        raise Unavailable(
            f"{name} is not installed: run  pip install {peer.package}{needs}, or leave out --peer {name}"
        )
    if peer.gguf and gguf is None:
        raise InvalidRequest(f"{name} reads GGUF files only: give the same checkpoint as one, --gguf FILE", "gguf")
    if peer.gguf and gguf is not None and not gguf.is_file():
        raise InvalidRequest(f"--gguf {gguf}: there is no such file", "gguf")
    return peer
