"""Qwen-Agent with MCP servers: the agent example of the Qwen3 release, with and without ``use_raw_api``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from .conftest import Client, Served

pytestmark = pytest.mark.foreign

FIRST = "This page is about apples and pears."
PAGE = f"<html><head><title>Fruit</title></head><body><p>{FIRST}</p><p>Both grow on trees.</p></body></html>"


@dataclass
class Site:
    """A page served on localhost, and who asked for what."""

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers["user-agent"]))
            found = self.path == "/blog/"
            self.send_response(200 if found else 404)  # no robots.txt: all is allowed
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode() if found else b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}/blog/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Answers:
    """What the agent did, question by question, and what it sent."""

    raw: bool
    time: list[dict[str, Any]]
    page: list[dict[str, Any]]
    time_beside_fetch: list[dict[str, Any]]
    bodies: list[dict[str, Any]]


@pytest.fixture(scope="module", params=[False, True], ids=["default", "use_raw_api"])
def answers(
    request: pytest.FixtureRequest, served: Served, qwen_agent: Client, mcp_servers: Path, site: Site
) -> Answers:
    time = {"command": str(mcp_servers / "mcp-server-time"), "args": ["--local-timezone=Asia/Shanghai"]}
    fetch = {"command": str(mcp_servers / "mcp-server-fetch"), "args": ["--allow-private-ips"]}
    seed = 1 + request.param  # of its own: what was sent is found by it
    questions = [
        {"content": "What time is it in Tokyo?", "mcpServers": {"time": time}},
        {
            "content": f"{site.url} Introduce the latest developments of Qwen",
            "mcpServers": {"time": time, "fetch": fetch},
        },
        {"content": "What time is it in Tokyo?", "mcpServers": {"time": time, "fetch": fetch}},
    ]
    generate_cfg = {"seed": seed} | ({"use_raw_api": True} if request.param else {})
    results = qwen_agent.run(url=served.url, questions=questions, generate_cfg=generate_cfg)
    return Answers(request.param, *results, served.bodies(seed))


def the_one_call(messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any], str, str]:
    """The tool's name, its arguments and its result, and the final answer. No other call was made."""
    called, result, final = [message for message in messages if not message.get("reasoning_content")]
    assert [message["role"] for message in (called, result, final)] == ["assistant", "function", "assistant"]
    assert result["name"] == called["function_call"]["name"] and not called["content"]
    # Each of the two turns of the assistant has its thoughts, apart from what it says.
    assert sum(bool(message.get("reasoning_content")) for message in messages) == 2
    return result["name"], json.loads(called["function_call"]["arguments"]), result["content"], final["content"]


@pytest.mark.parametrize("which", ["time", "time_beside_fetch"])
def test_the_time_in_tokyo(answers: Answers, which: str) -> None:
    name, arguments, result, final = the_one_call(getattr(answers, which))
    assert name == "time-get_current_time" and arguments == {"timezone": "Asia/Tokyo"}
    told = datetime.fromisoformat(json.loads(result)["datetime"])
    assert abs(told - datetime.now(ZoneInfo("Asia/Tokyo"))) < timedelta(minutes=10)
    assert final == f"It is {told:%H:%M} in Tokyo."


def test_a_page(answers: Answers, site: Site) -> None:
    name, arguments, result, final = the_one_call(answers.page)
    assert name == "fetch-fetch" and arguments == {"url": site.url}
    assert result.startswith(f"Contents of {site.url}:") and "Both grow on trees." in result
    assert final == f"The page says: {FIRST}"
    agents = [agent for path, agent in site.asked if path == "/blog/"]
    assert agents and all(agent.startswith("ModelContextProtocol/") for agent in agents)


def test_what_it_sends(answers: Answers) -> None:
    """The shapes of a body that only this client sends: a newer one that changes them is to be looked at."""
    assert len(answers.bodies) == 6
    assert all(body["stream"] is True for body in answers.bodies)
    for body in answers.bodies[1::2]:
        user, called, result = body["messages"][-3:]
        assert user["role"] == "user" and called["role"] == "assistant"
        if answers.raw:
            assert body["tools"] and "content" not in called and called["tool_calls"]
            assert result["role"] == "tool" and "tool_call_id" not in result
        else:
            assert "tools" not in body and "<tool_call>" in called["content"]
            assert result["role"] == "user" and result["content"].startswith("<tool_response>")
