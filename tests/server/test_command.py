"""``qwen3-mlx serve`` as a process: where it listens, how it tells that it is ready, when it ends, what it logs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen3_mlx import Qwen3
from qwen3_mlx.cli.options import Options
from qwen3_mlx.server.settings import Settings
from qwen3_mlx.server.sockets import Listen, bind
from qwen3_mlx.server.start import _load, fingerprint

from .serving import HELLO, eventually

BASE = [sys.executable, "-m", "qwen3_mlx.server", "--model", "demo"]


@contextlib.contextmanager
def started(*options: str, **popen: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its ready line."""
    process = subprocess.Popen(
        [*BASE, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **popen
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, line.strip()
    finally:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """The exit status and the log of a process that is told to stop."""
    process.send_signal(number)
    _, log = process.communicate(timeout=20)
    return process.returncode, log


def refused(*options: str, pass_fds: Sequence[int] = ()) -> str:
    command = [*BASE, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, pass_fds=pass_fds)
    assert done.returncode == 2 and not done.stdout, (done.returncode, done.stderr)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def ask(client: httpx.Client, text: str = "Hello") -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "enable_thinking": False}
    return client.post("/v1/chat/completions", json=body, timeout=30)


def test_a_port_of_its_own_and_the_log() -> None:
    with started("--port", "0", "--log-format", "json") as (process, line):
        ready = json.loads(line)
        assert ready["event"] == "ready" and ready["model"] == "demo"
        with httpx.Client(base_url=ready["url"]) as client:
            assert ask(client, "a very secret word").status_code == 200
            assert client.get("/v1/nothing-of-the-kind?token=secret").status_code == 404
        status, log = end(process)
    assert status == 0 and "secret" not in log
    lines = [json.loads(one) for one in log.splitlines()]
    assert [one["event"] for one in lines] == ["loading", "ready", "request", "request", "stopping", "stopped"]
    told = lines[2]
    assert told["status"] == 200 and told["path"] == "/v1/chat/completions" and told["finish"] == "length"
    assert told["completion_tokens"] == 2 and told["reasoning"] == 0 and told["ttft_s"] > 0
    assert {"queued_s", "prefill_tps", "tokens_per_s", "cached", "prompt_tokens", "request"} <= set(told)


def test_text_log_and_ctrl_c() -> None:
    with started("--port", "0") as (process, line):
        url = line.removeprefix("ready ")
        assert httpx.get(f"{url}/v1/models").status_code == 200
        status, log = end(process, signal.SIGINT)
    assert status == 130 and "path=/v1/models status=200" in log and "Traceback" not in log


def test_how_a_model_is_loaded_is_passed_on_and_tells_answers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(Qwen3, "load", lambda name, **how: asked.update(how))
    ways: dict[str, Any] = {"bits": 4, "kv_bits": 8, "kernels": "reference", "deterministic": True, "context": 99}
    _load(Options("demo", **ways), Settings(("demo",)), {"memory_limit": 1, "prefix_cache_bytes": 2})
    assert asked == {**ways, "max_batch": 8, "memory_limit": 1, "prefix_cache_bytes": 2}
    del ways["context"]  # changes no answer that there is
    known = {fingerprint("demo", Options("demo", **{name: value})) for name, value in ways.items()}
    assert len(known | {fingerprint("demo", Options("demo"))}) == len(ways) + 1


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = socket.socket(socket.AF_UNIX)
    old.bind(str(path))
    old.close()  # left behind by a server that was killed
    with started("--uds", str(path)) as (process, line):
        assert line == f"ready unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://anything") as client:
            assert ask(client).status_code == 200
        assert "another server" in refused("--uds", str(path))
        assert end(process)[0] == 0
    assert not path.exists()


def test_a_unix_socket_that_another_server_has_taken_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = bind(Listen(uds=str(path)))
    old.socket.close()  # stopping: it only lets its last answers finish
    time.sleep(0.02)  # longer than a tick of the clock of files
    new = bind(Listen(uds=str(path)))
    old.close()
    assert path.is_socket()
    new.close()
    assert not path.exists()
    new.close()


def test_an_inherited_socket_and_a_ready_descriptor(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    read, write = os.pipe()
    options = ("--listen-fd", str(listening.fileno()), "--ready-fd", str(write))
    with started(*options, pass_fds=(listening.fileno(), write)) as (process, _):
        os.close(write)
        with os.fdopen(read) as ready:
            told = json.loads(ready.read())
        assert told["url"].endswith(str(listening.getsockname()[1]))
        assert httpx.get(f"{told['url']}/health").json()["status"] == "ok"
        assert end(process)[0] == 0
    listening.close()


def test_it_ends_with_the_parent_that_has_started_it() -> None:
    child = f"{BASE!r} + ['--port', '0', '--parent-pid', str(os.getpid())]"
    code = f"import os, subprocess, time; p = subprocess.Popen({child}); print(p.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert parent.stdout.readline().startswith("ready")
    parent.kill()
    parent.wait()
    eventually(lambda: _gone(server), 5)


def test_it_ends_with_another_process() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with started("--port", "0", "--parent-pid", str(other.pid)) as (process, _):
        assert process.poll() is None
        other.kill()
        other.wait()
        process.communicate(timeout=5)
        assert process.returncode == 0


def _gone(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_a_running_stream_is_told_of_the_end() -> None:
    with started("--port", "0", "--grace", "0.2") as (process, line):
        url = line.removeprefix("ready ")
        bias = {str(token): -100 for token in range(3000) if token % 7}
        body = {"messages": HELLO, "stream": True, "logit_bias": dict(list(bias.items())[:1000]), "max_tokens": 7000}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            text = "\n".join(lines)
        assert "[DONE]" in text
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_what_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    assert "--api-key" in refused("--host", "0.0.0.0")
    assert "is taken" in refused("--port", str(taken.getsockname()[1]))
    assert "no address" in refused("--host", "no.such.host.invalid", "--no-auth")
    (tmp_path / "file").write_text("x")
    assert "no socket" in refused("--uds", str(tmp_path / "file"))
    assert "no socket" in refused("--listen-fd", "0")
    assert "--dump-requests" in refused("--port", "0", "--dump-requests", str(tmp_path / "file"), "--model", "no-such")
    for family, address in ((socket.AF_INET, ("0.0.0.0", 0)), (socket.AF_INET, None), (socket.AF_UNIX, None)):
        with socket.socket(family) as handed:
            if address is not None:
                handed.bind(address)
            told = refused("--listen-fd", str(handed.fileno()), pass_fds=(handed.fileno(),))
            assert ("--api-key" if address is not None else "no address") in told
    one, _other = socket.socketpair()
    assert "no address" in refused("--listen-fd", str(one.fileno()), pass_fds=(one.fileno(),))
    for descriptor in ("77", "99999999999"):
        assert "not open" in refused("--ready-fd", descriptor)
    assert "--parent-pid" in refused("--parent-pid", "99999999999")
    assert "choose one" in refused("--no-auth", "--api-key", "x")
    assert "API key" in refused("--api-key", " ")
    assert "--port" in refused("--port", "70000")
    taken.close()


def test_keys_from_a_file_let_other_addresses_in(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n\ntwo\n")
    with started("--host", "0.0.0.0", "--port", "0", "--api-key-file", str(keys)) as (process, line):
        url = f"http://127.0.0.1:{line.rsplit(':', 1)[1]}"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"authorization": "Bearer two"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
        assert httpx.post(f"{url}/v1/debug/cache", headers=headers, json={"messages": HELLO}).status_code == 404
        assert end(process)[0] == 0


def test_a_key_from_the_environment() -> None:
    environment = {**os.environ, "QWEN3_MLX_API_KEY": "one two"}
    with started("--port", "0", env=environment) as (_, line):
        url = line.removeprefix("ready ")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"x-api-key": "two"}).status_code == 200


def test_the_help_has_examples() -> None:
    done = subprocess.run([sys.executable, "-m", "qwen3_mlx.cli", "serve", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Examples:" in done.stdout and "--parent-pid" in done.stdout
