"""What can be seen of a server: metrics, receipts, why a prompt was not in the cache."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qwen3_mlx import Qwen3, SamplingParams, TextDelta
from qwen3_mlx.engine.streams import EventStream
from qwen3_mlx.server import log
from qwen3_mlx.types import Request
from tests.engine.test_warmup import idle

from .scripted import finished, scripted_model
from .serving import Running, error_of, serving


def numbers(server: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


@contextlib.contextmanager
def logged(form: log.Format) -> Iterator[None]:
    """The server's log goes to stderr, and then where it went before."""
    loggers = [logging.getLogger(name) for name in ("qwen3_mlx", "uvicorn")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    log.set_up(form, "info")
    try:
        yield
    finally:
        for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)


def test_metrics() -> None:
    script = [TextDelta("a"), finished(completion_tokens=5, reasoning_tokens=2)]
    with serving(scripted_model(script)[0]) as server:
        assert server.chat().status_code == 200
        assert server.chat(n=2).status_code == 200
        server.chat(temperature=-1)
        server.client.get("/somewhere/else")
        found = numbers(server)
    chat = ("path", "/v1/chat/completions")
    assert found["qwen3_requests_total", (chat, ("status", "200"))] == 2
    assert found["qwen3_requests_total", (chat, ("status", "400"))] == 1
    assert found["qwen3_requests_total", (("path", "other"), ("status", "404"))] == 1
    assert found["qwen3_tokens_total", (("kind", "completion"),)] == 15
    assert found["qwen3_tokens_total", (("kind", "reasoning"),)] == 6
    assert found["qwen3_choices_total", (("finish", "stop"),)] == 3
    assert found["qwen3_running", ()] == found["qwen3_waiting", ()] == 0
    for name in ("time_to_first_token_seconds", "decode_tokens_per_second", "queue_seconds"):
        assert found[f"qwen3_{name}_count", ()] == 3


def test_a_receipt_gives_the_same_answer_again(demo: Qwen3, tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    with serving(demo, dump=str(folder)) as server:
        said = server.chat(temperature=1.2, max_tokens=30, enable_thinking=False).json()
        server.chat_stream(n=2, max_tokens=3)
        server.chat(temperature=-1)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    one, two = sorted(folder.iterdir(), key=lambda path: len(json.loads(path.read_text())["choices"]))
    assert stat.S_IMODE(one.stat().st_mode) == 0o600
    receipt: dict[str, Any] = json.loads(one.read_text())
    assert receipt["body"]["temperature"] == 1.2 and receipt["versions"]["mlx"] and receipt["model"] == "demo"
    (choice,) = receipt["choices"]
    params = {**choice["params"], "stop": tuple(choice["params"]["stop"])}
    assert params["seed"] is not None
    again = EventStream(demo.engine, Request(tuple(choice["prompt"]), SamplingParams(**params), thinking=False))
    text = "".join(event.text for event in again if isinstance(event, TextDelta))
    assert text == choice["text"] == said["choices"][0]["message"]["content"]
    seeds = [one["params"]["seed"] for one in json.loads(two.read_text())["choices"]]
    assert seeds[1] == seeds[0] + 1


def test_why_a_prompt_is_not_in_the_cache() -> None:
    with Qwen3.load("demo") as demo, serving(demo) as server:

        def report(system: str) -> dict[str, Any]:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "Who are you?"}]
            response = server.client.post("/v1/debug/cache", json={"messages": messages, "max_tokens": 1})
            assert response.status_code == 200, response.text
            found: dict[str, Any] = response.json()
            return found

        server.chat([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}])
        idle(demo)
        assert report("Be brief.")["reason"] == "the system text changed"
        assert report("Be brief.")["asked"] and not report("Be brief.")["stored"]
        assert report("Be kind.")["cached_tokens"] == report("Be kind.")["prompt_tokens"] - 1
        error_of(server.client.post("/v1/debug/cache", json={}), 400)


def test_what_is_stored_is_quoted_where_it_may_be() -> None:
    with Qwen3.load("demo") as demo, serving(demo, debug_text=True) as server:
        server.chat([{"role": "user", "content": "What is 1 + 1?"}])
        idle(demo)
        response = server.client.post("/v1/debug/cache", json={"messages": [{"role": "user", "content": "Who?"}]})
        assert "1 + 1" in response.json()["stored"]


def test_the_cache_is_not_explained_where_it_is_off() -> None:
    with serving(scripted_model([finished()])[0], debug=False) as server:
        error_of(server.client.post("/v1/debug/cache", json={}), 404)
        assert "/v1/debug/cache" not in server.client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_of_the_log_stays_one_line_whatever_is_asked_for(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with logged(form), serving(scripted_model([finished()])[0]) as server:
        server.client.get("/x%20status=200%0Aforged%C2%85forged%E2%80%A8forged%C2%9B2J%22?status=200")
        server.client.get("/" + "y" * 50_000)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) < 500
    lines = [line for line in lines if "/x" in line]
    assert len(lines) == 1 and lines[0].isascii() and lines[0].isprintable()
    if form == "json":
        assert json.loads(lines[0])["status"] == 404 and json.loads(lines[0])["path"].startswith("/x status=200\n")
    else:
        fields = dict(field.partition("=")[::2] for field in shlex.split(lines[0])[2:])
        assert fields["status"] == "404" and fields["path"].startswith("/x status=200")


class Full(io.BytesIO):
    """A file on a disk without room."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_receipt_that_cannot_be_written_costs_a_line_and_not_the_answer(
    form: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdopen

    def full(descriptor: int, *mode: Any, **more: Any) -> Any:
        if mode != ("wb",):
            return real(descriptor, *mode, **more)
        os.close(descriptor)
        return Full()

    with logged(form), serving(scripted_model([finished()])[0], dump=str(tmp_path)) as server:
        monkeypatch.setattr(os, "fdopen", full)
        assert server.chat().status_code == 200
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if "a receipt was not written" in line]
    assert "No space left" in told and not any("Traceback" in line or "Logging error" in line for line in lines)
    assert not list(tmp_path.iterdir())
