"""Keys, hosts, origins: who is let in, and what a browser cannot be tricked into."""

from __future__ import annotations

from typing import Any

import pytest

from qwen3_mlx.server.errors import ApiError
from qwen3_mlx.server.security import check_host, check_origin, host_name, key_of

from .scripted import finished, scripted_model
from .serving import HELLO, error_of, serving

ANSWER = [finished()]


@pytest.mark.parametrize(
    ("host", "name"),
    [("localhost:80", "localhost"), ("[::1]:8080", "::1"), ("EXAMPLE.com.", "example.com"), ("1.2.3.4", "1.2.3.4")],
)
def test_host_names(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:1", "10.0.0.5", "a.localhost:3", "mac.local"])
def test_hosts_that_are_let_in(host: str) -> None:
    check_host(host, ("mac.local",))


@pytest.mark.parametrize("host", ["evil.com", "evil.com:8080", "", "localhost.evil.com", "127.0.0.1.evil.com", "[x]"])
def test_hosts_that_are_not(host: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_host(host, ("mac.local",))
    assert refused.value.http_status == 403


@pytest.mark.parametrize("origin", ["https://evil.com", "null", "file://", "http://localhost:9999", "http://127.0.0.1"])
def test_origins_that_are_not(origin: str) -> None:
    with pytest.raises(ApiError):
        check_origin(origin, "127.0.0.1:8080", ("https://app.example",))


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8080", "https://app.example", "HTTPS://APP.example"])
def test_origins_that_are_let_in(origin: str | None) -> None:
    check_origin(origin, "127.0.0.1:8080", ("https://app.example",))


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "key"),
    [
        ("Bearer abc", None, "abc"),
        ("bearer  abc ", "other", "abc"),
        (None, "abc", "abc"),
        ("Basic abc", None, None),
        ("Basic abc", "x", "x"),
        ("Bearer ", None, None),
        ("", None, None),
    ],
)
def test_where_a_key_stands(authorization: str | None, x_api_key: str | None, key: str | None) -> None:
    assert key_of(authorization, x_api_key) == key


def test_keys_are_asked_for_everywhere_but_for_health() -> None:
    with serving(scripted_model(ANSWER)[0], api_keys=("first", "second")) as server:
        get = server.client.get
        assert get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing"):
            response = get(path)
            assert error_of(response, 401)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        error_of(server.chat(), 401)
        error_of(get("/v1/models", headers={"authorization": "Bearer firs"}), 401)
        error_of(get("/v1/models", headers={"authorization": "Bearer é".encode()}), 401)
        for headers in ({"authorization": "Bearer first"}, {"x-api-key": "second"}):
            assert get("/v1/models", headers=headers).status_code == 200


def test_a_rebound_name_is_refused() -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        post = {"json": {"messages": HELLO}}
        refused = server.client.post("/v1/chat/completions", headers={"host": "evil.com"}, **post)
        assert error_of(refused, 403)["code"] == "host_not_allowed"
        assert error_of(server.client.get("/health", headers={"host": "evil.com"}), 403)


def test_a_request_without_a_host() -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        connection = server.raw(b"GET /health HTTP/1.1\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
        connection = server.raw(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", [b"Host", b"Origin"])
def test_what_is_checked_may_be_said_once_only(name: bytes) -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        twice = b"%s: http://localhost\r\n%s: http://evil.com\r\n" % (name, name)
        connection = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + twice + b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_other_origins_are_refused_and_cors_is_off() -> None:
    with serving(scripted_model(ANSWER)[0]) as server:
        headers = {"origin": "https://evil.com"}
        response = server.client.post("/v1/chat/completions", headers=headers, json={"messages": HELLO})
        assert error_of(response, 403)["code"] == "origin_not_allowed"
        preflight = server.client.options("/v1/chat/completions", headers=headers)
        assert preflight.status_code == 403
        assert not any(name.startswith("access-control") for name in {*response.headers, *preflight.headers})


@pytest.mark.parametrize("origins", [("https://app.example",), ("*",)])
def test_cors_where_it_is_asked_for(origins: Any) -> None:
    with serving(scripted_model(ANSWER)[0], origins=origins, api_keys=("k",)) as server:
        headers = {"origin": "https://app.example", "access-control-request-headers": "authorization,x-custom"}
        preflight = server.client.options("/v1/chat/completions", headers=headers)
        assert preflight.status_code == 204 and not preflight.content
        assert preflight.headers["access-control-allow-origin"] in ("*", "https://app.example")
        assert "x-custom" in preflight.headers["access-control-allow-headers"]
        response = server.client.get("/v1/models", headers={"origin": "https://app.example"})
        assert response.status_code == 401 and "access-control-allow-origin" in response.headers


def test_a_request_never_makes_the_server_read_or_load() -> None:
    model, engine = scripted_model(ANSWER)
    with serving(model) as server:
        for name in ("/etc/passwd", "../demo", "demo-moe", "Qwen/Qwen3-0.6B", "qwen3:4b", "DEMO"):
            assert error_of(server.chat(model=name), 404)["code"] == "model_not_found"
        error_of(server.client.get("/v1/models/..%2F..%2Fetc%2Fpasswd"), 404)
        error_of(server.client.get("/v1/models/" + "x" * 5000), 404)
    assert not engine.requests


def test_aliases() -> None:
    with serving(scripted_model(ANSWER)[0], names=("demo", "gpt-4o")) as server:
        assert [one["id"] for one in server.client.get("/v1/models").json()["data"]] == ["demo", "gpt-4o"]
        assert server.chat(model="gpt-4o").json()["model"] == "gpt-4o"
