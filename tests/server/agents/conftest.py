"""A server process on the demo, and environments of their own for the clients that talk to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ...environments import Environment, install_or_skip
from ..test_command import started

HERE = Path(__file__).parent


@dataclass
class Served:
    """Where the server listens, and the folder it keeps its requests in."""

    url: str
    dumps: Path

    def bodies(self, seed: int) -> list[dict[str, Any]]:
        """What clients have sent with this seed, in order."""
        records = [json.loads(path.read_text()) for path in sorted(self.dumps.iterdir())]
        records.sort(key=lambda record: record["time"])
        return [record["body"] for record in records if record["body"].get("seed") == seed]


@dataclass
class Client:
    """A client's environment and its script."""

    environment: Environment
    script: Path

    def run(self, **asked: Any) -> Any:
        """What the script prints, as JSON on its last line, when it is given ``asked`` as JSON."""
        told = self.environment.run(self.script.read_text(), json.dumps(asked), NO_PROXY="127.0.0.1")
        return json.loads(told.splitlines()[-1])


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    dumps = tmp_path_factory.mktemp("requests")
    with started("--port", "0", "--log-level", "warning", "--dump-requests", str(dumps)) as (_, line):
        yield Served(line.removeprefix("ready "), dumps)


#: What is installed where. The servers want a newer ``mcp`` than Qwen-Agent. "python-executor" is spelled as in its
#: metadata: an older pip takes no notice of "python_executor".
REQUIREMENTS = {
    "qwen-agent": ("qwen-agent[python-executor,mcp]==0.0.34", "numpy", "soundfile", "tqdm", "mcp<2"),
    "mcp-servers": ("mcp-server-time==2026.10.19", "mcp-server-fetch==2026.10.24"),
    "langchain": ("langchain-openai==1.7.4",),
}


@pytest.fixture(scope="package")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Environment]:
    """All of them, made at once: each waits for the index most of the time."""

    def fill(name: str) -> None:
        install_or_skip(made[name], *REQUIREMENTS[name])

    made = {name: Environment(tmp_path_factory.mktemp(name) / "venv") for name in REQUIREMENTS}
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, made))
    return made


@pytest.fixture(scope="package")
def qwen_agent(environments: dict[str, Environment]) -> Client:
    return Client(environments["qwen-agent"], HERE / "qwen_agent_client.py")


@pytest.fixture(scope="package")
def mcp_servers(environments: dict[str, Environment]) -> Path:
    """The folder of their commands."""
    return environments["mcp-servers"].python.parent


@pytest.fixture(scope="package")
def langchain(environments: dict[str, Environment]) -> Client:
    return Client(environments["langchain"], HERE / "langchain_client.py")
