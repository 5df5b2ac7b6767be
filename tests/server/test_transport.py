"""Clients that misbehave, and slots that come back: disconnects, bodies without end, floods, who does not read."""

from __future__ import annotations

import json
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qwen3_mlx import Qwen3, TextDelta, ThinkingDelta
from qwen3_mlx.engine.loop import TokenLoop

from .scripted import finished, scripted_model
from .serving import HELLO, Running, chunks, error_of, eventually, serving

ANSWER = [TextDelta("Hi"), finished()]


def endless(_: Any) -> Iterator[Any]:
    """Text without an end, until it is cancelled."""
    while True:
        yield TextDelta("word ")
        yield lambda: time.sleep(0.002)


def request(body: Any, *, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    out = b""
    try:
        while data := connection.recv(65536):
            out += data
    except ConnectionError:
        pass
    return out


STREAM = request({"messages": HELLO, "stream": True})


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(stream: bool) -> None:
    model, engine = scripted_model(endless)
    with serving(model) as server:
        connection = server.raw(request({"messages": HELLO, "stream": stream}))
        if stream:
            assert connection.recv(100)
        eventually(lambda: engine.running == 1)
        assert server.service.slots.taken == 1
        left = time.perf_counter()
        connection.close()
        eventually(lambda: engine.tickets[0].cancelled.is_set())
        server.idle()
        assert time.perf_counter() - left < 1


def test_a_client_that_leaves_frees_its_slot_within_a_step(demo: Qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in turns of the real engine's loop that run between the two, the one under way included."""
    turns: list[tuple[float, float]] = []
    turn = TokenLoop._turn

    def timed(loop: TokenLoop) -> None:
        began = time.perf_counter()
        turn(loop)
        turns.append((began, time.perf_counter()))

    monkeypatch.setattr(TokenLoop, "_turn", timed)
    with serving(demo) as server:
        slots, freed = server.service.slots, list[float]()
        release = slots.release
        monkeypatch.setattr(type(slots), "release", lambda _, n=1: (freed.append(time.perf_counter()), release(n)))
        eos = {str(token): -100 for token in demo.tokenizer.eos_ids}
        endless_one = request({"messages": HELLO, "stream": True, "logit_bias": eos})
        others, needed = [server.raw(endless_one) for _ in range(3)], []
        for _ in range(9):
            connection = server.raw(endless_one)
            assert connection.recv(100)
            freed.clear()
            left = time.perf_counter()
            connection.close()
            eventually(lambda: len(freed) == 1)
            needed.append(sum(end > left and begin < freed[0] for begin, end in turns))
        for connection in others:
            connection.close()
        server.idle()
    assert statistics.median(needed) <= 2 and max(needed) < 20, needed


def test_half_a_request_then_nothing() -> None:
    with serving(scripted_model(ANSWER)[0], patience=0.3) as server:
        for start in (b"", b"POST /v1", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ", STREAM[:-5]):
            answer = received(server.raw(start))
            assert not answer or answer.startswith(b"HTTP/1.1 408")
        assert server.chat().status_code == 200


def test_a_body_that_never_ends() -> None:
    with serving(scripted_model(ANSWER)[0], body_bytes=100_000) as server:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection = server.raw(head)
        try:
            for _ in range(10_000):
                connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        except ConnectionError:
            pass
        else:
            pytest.fail("the body was read to no end")
        assert server.chat().status_code == 200


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/health", b"/nothing"])
@pytest.mark.parametrize("piece", [b"0\r\nX-Trailer: ", b"1;extension=", b"1\r\nx\r\n"])
def test_what_comes_behind_the_headers_has_an_end(path: bytes, piece: bytes) -> None:
    """Trailers, extensions of chunks, a body that nobody reads."""
    with serving(scripted_model(ANSWER)[0], body_bytes=100_000) as server:
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % path
        connection = server.raw(head + piece)
        more = piece * 1000 if piece.endswith(b"\n") else b"y" * 10_000
        try:
            for _ in range(10_000):
                connection.sendall(more)
        except ConnectionError:
            pass
        else:
            pytest.fail("it was read to no end")
        assert server.chat().status_code == 200


@pytest.mark.parametrize("length", [b"100001", b"99999999999999999999"])
def test_a_body_that_says_it_is_too_large(length: bytes) -> None:
    with serving(scripted_model(ANSWER)[0], body_bytes=100_000, patience=0.5) as server:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n" % length
        answer = received(server.raw(head))
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_a_refused_client_may_send_its_body_to_the_end_but_not_for_ever() -> None:
    with serving(scripted_model(ANSWER)[0], body_bytes=100_000, patience=0.5, api_keys=("k",)) as server:
        for headers, status in ((b"X-Api-Key: k\r\n", b"413"), (b"", b"401")):
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: 700000\r\n\r\n"
            connection = server.raw(head % headers)
            for _ in range(70):
                connection.sendall(b"x" * 10_000)
            assert connection.recv(1000).startswith(b"HTTP/1.1 " + status)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b'"status":"ok"' in received(connection)
            connection = server.raw(head % headers + b"x")
            began = time.perf_counter()
            assert received(connection).startswith(b"HTTP/1.1 " + status)
            assert time.perf_counter() - began < 5


def test_ten_megabytes_of_message(server: Running) -> None:
    error_of(server.chat([{"role": "user", "content": "x" * 10_000_000}]), 413)
    began = time.perf_counter()
    assert error_of(server.chat([{"role": "user", "content": "x" * 8_000_000}]), 400)["param"] == "messages"
    assert time.perf_counter() - began < 5
    error_of(server.chat([{"role": "user", "content": "x"}] * 100_000), 400)
    assert server.chat(max_tokens=1).status_code == 200


def test_a_flood_of_headers() -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        for flood in (b"X: " + b"y" * 200_000, b"\r\n".join(b"X-%d: y" % i for i in range(5000)), b"X" * 200_000):
            answer = received(server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + flood + b"\r\n\r\n"))
            assert not answer or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
        assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /%zz%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda garbage: str(garbage[:40]),
)
def test_garbage(server: Running, garbage: bytes) -> None:
    connection = server.raw(garbage)
    connection.settimeout(1)
    try:
        answer = received(connection)
    except TimeoutError:
        answer = b""
    assert not answer or (answer.startswith(b"HTTP/1.1 ") and b" 5" not in answer[:13])
    connection.close()
    assert server.client.get("/health").status_code == 200


def test_a_reader_that_does_not_read_is_dropped() -> None:
    def loud(_: Any) -> Iterator[Any]:
        while True:
            yield TextDelta("word " * 2000)

    model, engine = scripted_model(loud)
    with serving(model, patience=0.5) as server:
        connection = server.raw()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(STREAM)
        eventually(lambda: engine.running == 1)
        server.idle(10)
        assert engine.tickets[0].cancelled.is_set()
        connection.close()


def test_the_queue_has_an_end() -> None:
    model, engine = scripted_model(endless)
    with serving(model, running=1, queue=2) as server:
        open_ones = [server.raw(STREAM) for _ in range(3)]
        eventually(lambda: server.service.slots.taken == 3)
        health = server.client.get("/health").json()
        assert health == {"status": "ok", "running": 1, "waiting": 2}
        refused = server.chat()
        assert error_of(refused, 429)["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
        open_ones.pop().close()
        eventually(lambda: server.service.slots.taken == 2)
        engine.script = lambda _: ANSWER
        assert server.chat().status_code == 200
        for connection in open_ones:
            connection.close()
        server.idle()


def test_too_many_connections() -> None:
    with serving(scripted_model(ANSWER)[0], connections=5) as server:
        held = [server.raw() for _ in range(5)]
        time.sleep(0.1)
        assert server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").recv(1000).startswith(b"HTTP/1.1 503")
        for connection in held:
            connection.close()
        eventually(lambda: server.client.get("/health").status_code == 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_has_its_time(stream: bool) -> None:
    model, engine = scripted_model(endless)
    with serving(model, deadline=0.6) as server:
        response = server.chat(stream=stream)
        if stream and response.status_code == 200:  # else it has not even begun
            assert chunks(response)[-1]["error"]["code"] == "deadline"
        else:
            assert error_of(response, 504)["code"] == "deadline"
        server.idle()
        assert engine.tickets[0].cancelled.is_set()


def test_a_stream_says_that_it_lives() -> None:
    gate = threading.Event()
    model, _ = scripted_model([lambda: gate.wait(10), *ANSWER])
    with serving(model, keep_alive=0.1) as server:
        connection = server.raw(STREAM)
        answer = b""
        while b": keep-alive" not in answer:
            answer += connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        gate.set()
        while b"[DONE]" not in answer:
            answer += connection.recv(1000)
        connection.close()


def test_requests_one_after_another_on_one_connection() -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        connection = server.raw(STREAM * 3)
        answer = b""
        while answer.count(b"[DONE]") < 3:
            answer += connection.recv(65536)
        connection.close()
        flood = server.raw(STREAM * 200)
        received(flood)
        server.idle()
        assert server.chat().status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_the_end_of_the_server_lets_answers_finish(stream: bool) -> None:
    gate = threading.Event()
    model, _ = scripted_model([TextDelta("Hi"), lambda: gate.wait(10), finished()])
    found: list[Any] = []
    with serving(model, grace=5.0) as server:
        thread = threading.Thread(target=lambda: found.append(server.chat(stream=stream)))
        thread.start()
        eventually(lambda: server.service.slots.taken == 1)
        server.loop.call_soon_threadsafe(server.server.stop)
        eventually(lambda: server.service.closing)
        with pytest.raises(OSError):
            server.raw(STREAM)
        gate.set()
        thread.join(10)
    (response,) = found
    assert "Hi" in response.text and response.status_code == 200


def test_the_end_of_the_server_tells_streams_that_take_too_long() -> None:
    model, engine = scripted_model(endless)
    found: list[Any] = []
    with serving(model, grace=0.2) as server:
        thread = threading.Thread(target=lambda: found.append(server.chat(stream=True)))
        thread.start()
        eventually(lambda: any(run.events[0] for run in list(server.service.runs)))
        server.loop.call_soon_threadsafe(server.server.stop)
        thread.join(10)
    assert chunks(found[0])[-1]["error"]["code"] == "shutting_down"
    assert engine.tickets[0].cancelled.is_set()


@pytest.mark.parametrize("together", [True, False])
def test_a_client_that_leaves_with_a_request_sent_ahead_frees_its_slot(together: bool) -> None:
    def silent(_: Any) -> Iterator[Any]:
        while True:
            yield lambda: time.sleep(0.002)  # nothing is written: only reading tells that the client has gone
            yield ThinkingDelta("")

    model, engine = scripted_model(silent)
    with serving(model) as server:
        first, second = request({"messages": HELLO}), request({"messages": HELLO, "n": 2})
        connection = server.raw(first + second if together else first)
        eventually(lambda: engine.running == 1)
        if not together:
            connection.sendall(second)
            time.sleep(0.1)
        connection.close()
        eventually(lambda: engine.tickets[0].cancelled.is_set(), 3)
        server.idle()
        assert len(engine.requests) == 1


def test_nonsense_behind_a_request_sent_ahead_is_not_written_into_a_stream() -> None:
    model, engine = scripted_model(endless)
    with serving(model) as server:
        connection = server.raw(STREAM)
        answer = connection.recv(1000)
        connection.sendall(STREAM + b"\x00nonsense\r\n\r\n")
        answer += received(connection)
        assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1
        eventually(lambda: engine.tickets[0].cancelled.is_set(), 3)


def test_what_is_sent_ahead_is_bounded() -> None:
    model, engine = scripted_model(endless)
    with serving(model) as server:
        connection = server.raw(STREAM)
        assert connection.recv(1000)
        connection.sendall(request({"messages": HELLO, "user": "x" * 200_000}))
        received(connection)
        eventually(lambda: engine.tickets[0].cancelled.is_set(), 3)
        server.idle()


@pytest.mark.parametrize("signals", [1, 2])
def test_the_end_of_the_server_does_not_wait_for_a_body(signals: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(scripted_model(ANSWER)[0], grace=0.2 if signals == 1 else 300.0) as server:
        connection = server.raw(STREAM[:-5])
        eventually(lambda: bool(server.server.server_state.tasks))
        for _ in range(signals):
            server.loop.call_soon_threadsafe(server.server.stop)
        assert received(connection) == b""
    assert not [one for one in caplog.records if one.exc_info], caplog.text


@pytest.mark.parametrize("cut", [0, 1, 60, 130, 200, 235])
def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one(cut: int) -> None:
    """Java's HTTP client asks for HTTP/2 with its first request, body and all."""
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQ\r\n"
    asked = request({"messages": HELLO, "max_tokens": 3}, headers=upgrade)
    model, engine = scripted_model(ANSWER)
    with serving(model) as server:
        connection = server.raw(asked[:cut])
        time.sleep(0.02)
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n%sConnection: close\r\n\r\n"
        connection.sendall(asked[cut:] + asked + health % b"Upgrade: websocket\r\n")
        answer = received(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == 3 and answer.count(b"HTTP/1.1") == 3
    assert [one.params.max_tokens for one in engine.requests] == [3, 3]
