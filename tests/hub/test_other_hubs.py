"""ModelScope and Kaggle through their own libraries, in an environment made for them, against stand-ins."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..environments import ROOT, Environment, copy_checkout, install_or_skip
from .conftest import checkpoint
from .standin import Hub, Kaggle, ModelScope, serving
from .test_huggingface import NEEDED
from .test_network import LIMIT, listening

pytestmark = pytest.mark.foreign

SHARDS = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
INDEX = "model.safetensors.index.json"

# Kaggle's address is a constant of its library's: it is changed there, before anything asks for it.
_RESOLVE = """
import contextlib, json, os, sys
from qwen3_mlx import hub
from qwen3_mlx.errors import QwenError
if "KAGGLE_STANDIN" in os.environ:
    with contextlib.redirect_stdout(sys.stderr):
        import kagglesdk.kaggle_env as env
    env._env_to_endpoint[env.KaggleEnv.PROD] = os.environ["KAGGLE_STANDIN"]
try:
    print(json.dumps({"folder": str(hub.resolve(sys.argv[1]))}))
except QwenError as error:
    print(json.dumps({"error": type(error).__name__, "says": str(error)}))
"""


@dataclass
class Client:
    """A hub's library in its environment, led to a stand-in."""

    environment: Environment
    home: Path
    hub: Hub
    name: str
    handle: str
    endpoint: str  # the variable that leads the library to the stand-in

    def resolve(self, name: str = "", url: str = "", **variables: str) -> dict[str, str]:
        """What ``hub.resolve`` gives or says, in a process of its own. Its stdout holds that and nothing else."""
        variables |= {
            self.endpoint: url or self.hub.url,
            "HOME": str(self.home),
            "KAGGLEHUB_CACHE": str(self.home / "kaggle"),
            "MODELSCOPE_CACHE": str(self.home / "modelscope"),
            "NO_PROXY": "127.0.0.1",
        }
        answer: dict[str, str] = json.loads(self.environment.run(_RESOLVE, name or self.name, **variables))
        return answer

    def fetched(self) -> set[str]:
        """The names of the files whose bytes were asked for."""
        pattern = r"[?&]FilePath=([^&]+)|/storage/(?:[^/]+/){4}([^/]+)"
        found = (re.search(pattern, path) for method, path, _ in self.hub.requests if method == "GET")
        return {match[1] or match[2] for match in found if match}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("other-hubs")
    environment = Environment(folder / "venv")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    install_or_skip(environment, *extras["modelscope"], *extras["kaggle"])
    # The package itself without its dependencies: the hub's room needs none of them here.
    (environment.site / "checkout.pth").write_text(f"{copy_checkout(folder / 'checkout')}\n")
    return environment


@pytest.fixture(params=["modelscope", "kaggle"])
def client(request: pytest.FixtureRequest, environment: Environment, tmp_path: Path) -> Iterator[Client]:
    if request.param == "modelscope":
        handle, handler, endpoint = "Org/Model", ModelScope, "MODELSCOPE_ENDPOINT"
    else:
        handle, handler, endpoint = "org/model/transformers/4b", Kaggle, "KAGGLE_STANDIN"
    with serving(Hub({handle: checkpoint(shards=2)}), handler) as hub:
        yield Client(environment, tmp_path, hub, f"{request.param}:{handle}", handle, endpoint)


def test_downloads_what_is_needed_and_then_needs_no_network(client: Client) -> None:
    folder = Path(client.resolve()["folder"])
    assert client.fetched() == NEEDED | SHARDS | {INDEX}
    for name in client.fetched():
        assert (folder / name).read_bytes() == client.hub.repos[client.handle][name]
    assert client.resolve(url="http://127.0.0.1:9") == {"folder": str(folder)}


def test_a_checkpoint_of_one_file(client: Client) -> None:
    client.hub.repos[client.handle] = checkpoint()
    folder = Path(client.resolve()["folder"])
    assert client.fetched() == NEEDED | {"model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == client.hub.repos[client.handle]["model.safetensors"]


def test_no_such_model(client: Client) -> None:
    answer = client.resolve(client.name + "-absent")
    assert answer["error"] == "ModelNotFound"
    assert "check the spelling" in answer["says"] and "_TOKEN" in answer["says"]


def test_no_checkpoint(client: Client) -> None:
    for name in SHARDS | {INDEX}:
        del client.hub.repos[client.handle][name]
    answer = client.resolve()
    assert answer["error"] == "ModelNotFound" and "model.safetensors" in answer["says"]


def test_a_private_model(client: Client) -> None:
    client.hub.refusal = (403, "")
    answer = client.resolve()
    assert answer["error"] == "ModelNotFound" and "gated or private" in answer["says"] and "_TOKEN" in answer["says"]


def test_a_closed_port(client: Client) -> None:
    begin = time.monotonic()
    answer = client.resolve(url="http://127.0.0.1:9")
    assert time.monotonic() - begin < LIMIT
    assert answer["error"] == "Unavailable"
    for part in ("cannot be reached", client.handle, "is not in the cache", "--model demo"):
        assert part in answer["says"]


def test_a_black_hole(client: Client) -> None:
    with listening(backlog=8) as address:
        begin = time.monotonic()
        answer = client.resolve(url=address)
    assert time.monotonic() - begin < LIMIT
    assert answer["error"] == "Unavailable" and "no answer within 6 seconds" in answer["says"]


def test_a_run_that_died_leaves_its_whole_files_to_the_next(client: Client) -> None:
    contents = client.hub.repos[client.handle]
    last = "model-00002-of-00002.safetensors"
    contents[last] = contents["model-00001-of-00002.safetensors"] + contents[last]  # long enough to be cut
    client.hub.cuts[last] = 1000
    answer = client.resolve(MODELSCOPE_DOWNLOAD_MAX_RETRIES="1")
    assert answer["error"] == "Unavailable" and "run the same command again" in answer["says"]
    client.hub.cuts.clear()
    client.hub.requests.clear()
    folder = Path(client.resolve()["folder"])
    assert client.fetched() == {last}
    assert (folder / last).read_bytes() == contents[last]


def test_the_token_is_sent(client: Client) -> None:
    client.resolve(MODELSCOPE_API_TOKEN="ms-secret", KAGGLE_API_TOKEN="kg-secret")
    assert any("secret" in value for _, _, headers in client.hub.requests for value in headers.values())


def test_a_version_is_taken_at_its_word(environment: Environment, tmp_path: Path) -> None:
    handle = "org/model/transformers/4b"
    with serving(Hub({handle: checkpoint()}), Kaggle) as hub:
        client = Client(environment, tmp_path, hub, f"kaggle:{handle}/2", handle, "KAGGLE_STANDIN")
        assert Path(client.resolve()["folder"]).name == "2"
        # Without one, what is in the cache will do; a newer one is fetched when it is asked for by its number.
        assert Path(client.resolve(f"kaggle:{handle}")["folder"]).name == "2"
        assert Path(client.resolve(f"kaggle:{handle}/3")["folder"]).name == "3"
        assert Path(client.resolve(f"kaggle:{handle}")["folder"]).name == "3"
