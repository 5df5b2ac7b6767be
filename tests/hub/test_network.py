"""How long the outside may keep a user waiting: measured from the command line in, imports and exit included."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from qwen3_mlx.errors import Unavailable
from qwen3_mlx.hub import network

LIMIT = 10.0

_RESOLVE = """
import sys
from qwen3_mlx import hub
from qwen3_mlx.errors import QwenError
try:
    hub.resolve(sys.argv[1])
except QwenError as error:
    print(type(error).__name__, error)
"""


@contextmanager
def listening(backlog: int) -> Iterator[str]:
    """The address of a socket that accepts connections into its backlog and never says a word."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def resolve(name: str, endpoint: str, **environment: str) -> tuple[str, float]:
    """What a whole process says about ``name``, and the seconds it took from start to exit."""
    begin = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", _RESOLVE, name],
        env=os.environ | {"HF_ENDPOINT": endpoint} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.strip(), time.monotonic() - begin


def test_a_closed_port(bare: Path) -> None:
    said, seconds = resolve("Org/Model", "http://127.0.0.1:9")
    assert seconds < LIMIT
    assert said.startswith("Unavailable http://127.0.0.1:9 cannot be reached (ConnectionRefusedError")
    for part in (f"Org/Model is not in the cache ({bare / 'hf' / 'hub'})", "HF_ENDPOINT", "the folder", "--model demo"):
        assert part in said


def test_a_black_hole(bare: Path) -> None:
    with listening(backlog=8) as address:
        said, seconds = resolve("Org/Model", address)
    assert seconds < LIMIT
    assert said.startswith(f"Unavailable {address} cannot be reached (") and "--model demo" in said


def test_a_name_lookup_that_hangs(bare: Path) -> None:
    # No timeout of a client's covers this: the resolver is C code that sleeps.
    (bare / "sitecustomize.py").write_text("import socket, time\nsocket.getaddrinfo = lambda *a, **k: time.sleep(30)\n")
    said, seconds = resolve("Org/Model", "http://hub.example", PYTHONPATH=str(bare))
    assert seconds < LIMIT
    assert "Unavailable http://hub.example cannot be reached (no answer within 6 seconds)" in said


def test_the_cache_answers_where_the_network_does_not(bare: Path) -> None:
    from .conftest import checkpoint, write

    storage = bare / "hf" / "hub" / "models--Org--Model"
    folder = write(storage / "snapshots" / "c0ffee", checkpoint())
    write(storage, {"refs/main": b"c0ffee"})
    code = f"from qwen3_mlx import hub; assert str(hub.resolve('Org/Model')) == {str(folder)!r}"
    with listening(backlog=8) as address:
        begin = time.monotonic()
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"HF_ENDPOINT": address}, check=True)
    assert time.monotonic() - begin < network.FIRST_ANSWER


def test_within_hands_over_results_and_errors() -> None:
    assert network.within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        network.within(5, lambda: 1 // 0)
    with pytest.raises(network.NoAnswer):
        network.within(0.01, lambda: time.sleep(1))


def test_a_programmers_mistake_is_not_the_networks(tmp_path: Path) -> None:
    remote = network.Remote("http://hub", "http://hub/Org/Model", tmp_path, "log in", "go elsewhere", "make room")
    with pytest.raises(AttributeError):
        network.explain(AttributeError("x"), "Org/Model", remote)
    with pytest.raises(Unavailable, match="the download of Org/Model from http://hub failed"):
        network.explain(OSError("reset"), "Org/Model", remote, started=True)


def test_the_reason_is_the_innermost_on_one_line() -> None:
    try:
        try:
            raise ConnectionResetError("by\npeer")
        except OSError as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        assert network.reason(outer) == "ConnectionResetError: by peer"
    assert len(network.reason(ValueError("x" * 1000))) < 250
