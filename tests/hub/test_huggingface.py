"""Hugging Face through its own client, against the stand-in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from qwen3_mlx import hub as names_hub
from qwen3_mlx.errors import ModelNotFound, OutputError, Unavailable
from qwen3_mlx.hub import huggingface, resume

from .conftest import checkpoint, safetensors, write
from .standin import Hub, etag

NEEDED = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
}


def quiet(line: str) -> None:
    pass


def test_downloads_what_is_needed_and_nothing_else(hub: Hub) -> None:
    said: list[str] = []
    folder = names_hub.resolve("Org/Model", say=said.append)
    assert hub.fetched() == sorted(NEEDED | {"model.safetensors"})
    for name in hub.fetched():
        assert (folder / name).read_bytes() == hub.repos["Org/Model"][name]
    assert said == [f"downloading Org/Model (100 kB) into {huggingface.cache_folder()}"]


def test_of_several_weight_files_those_of_the_index(hub: Hub) -> None:
    hub.repos["Org/Model"] = checkpoint(shards=3)
    folder = names_hub.resolve("Org/Model", say=quiet)
    shards = {f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)}
    assert set(hub.fetched()) == NEEDED | shards | {"model.safetensors.index.json"}
    assert {path.name for path in folder.glob("*.safetensors")} == shards


def test_shards_without_an_index_are_all_fetched(hub: Hub) -> None:
    contents = checkpoint(shards=2)
    del contents["model.safetensors.index.json"], contents["extra.safetensors"]
    hub.repos["Org/Model"] = contents
    folder = names_hub.resolve("Org/Model", say=quiet)
    assert len(list(folder.glob("*.safetensors"))) == 2
    assert huggingface.cached("Org/Model") == folder


def test_a_cached_checkpoint_needs_no_request_and_no_client(hub: Hub) -> None:
    folder = names_hub.resolve("Org/Model", say=quiet)
    hub.requests.clear()
    assert names_hub.resolve("Org/Model", say=quiet) == folder
    assert hub.requests == []
    code = (
        "import sys; from qwen3_mlx import hub; print(hub.resolve('Org/Model'));"
        "assert not {'huggingface_hub', 'httpx', 'requests'} & set(sys.modules)"
    )
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(folder)


def test_what_is_here_is_found_without_asking(hub: Hub, tmp_path: Path) -> None:
    assert names_hub.local("Org/Model") is None and names_hub.local("modelscope:Org/Model") is None
    assert names_hub.local("demo") == names_hub.resolve("demo") and names_hub.local(str(tmp_path)) == tmp_path
    assert hub.requests == []
    assert names_hub.resolve("Org/Model", say=quiet) == names_hub.local("Org/Model")
    with pytest.raises(ModelNotFound, match="did you mean"):
        names_hub.local("qwen3:5b")


@pytest.mark.parametrize("lost", ["model-00002-of-00003.safetensors", "config.json", "tokenizer.json"])
def test_a_partial_cache_is_not_cached_and_is_completed(hub: Hub, lost: str) -> None:
    hub.repos["Org/Model"] = checkpoint(shards=3)
    folder = names_hub.resolve("Org/Model", say=quiet)
    (folder / lost).resolve().unlink()  # the blob: the snapshot keeps a dangling link, as a cleaned-up cache does
    assert huggingface.cached("Org/Model") is None
    hub.requests.clear()
    assert names_hub.resolve("Org/Model", say=quiet) == folder
    assert hub.fetched() == [lost]


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client keeps whole chunks only; its own are larger than this file.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cuts["model.safetensors"] = 1
    folder = names_hub.resolve("Org/Model", say=quiet)
    content = hub.repos["Org/Model"]["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == content
    ranges = [
        headers.get("range")
        for method, path, headers in hub.requests
        if method == "GET" and path.endswith("/model.safetensors")
    ]
    assert len(content) // 2 // 10_000 == 5 and ranges == [None, "bytes=50000-"]


def test_a_run_that_died_leaves_its_whole_files_to_the_next(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["Org/Model"] = checkpoint(shards=3)
    hub.cuts["model-00003-of-00003.safetensors"] = 1000
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    with pytest.raises(Unavailable, match=r"failed .* run the same command again"):
        names_hub.resolve("Org/Model", say=quiet)
    assert huggingface.cached("Org/Model") is None
    hub.cuts.clear()
    hub.requests.clear()
    folder = names_hub.resolve("Org/Model", say=quiet)
    assert hub.fetched() == ["model-00003-of-00003.safetensors"]
    assert huggingface.cached("Org/Model") == folder


def test_a_run_that_was_killed_leaves_half_a_file_to_the_next(hub: Hub) -> None:
    content = hub.repos["Org/Model"]["model.safetensors"]
    hub.stalls = {"model.safetensors"}
    code = "from qwen3_mlx import hub; hub.resolve('Org/Model')"
    # Chunks smaller than this small file, as the client's are smaller than a real one.
    code = "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 10_000; " + code
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    blobs = huggingface.cache_folder() / "models--Org--Model" / "blobs"
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size for part in blobs.glob("*.part")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    running.kill()
    running.wait()
    hub.stalls.clear()
    hub.requests.clear()
    folder = names_hub.resolve("Org/Model", say=quiet)
    assert (folder / "model.safetensors").read_bytes() == content
    (fetch,) = [headers for method, path, headers in hub.requests if method == "GET" and "/resolve/" in path]
    assert int(fetch["range"].removeprefix("bytes=").removesuffix("-")) >= 10_000
    assert not list(blobs.glob("*.part")) and not list(blobs.glob("*.incomplete"))


def test_a_damaged_half_is_not_built_on(hub: Hub) -> None:
    content = hub.repos["Org/Model"]["model.safetensors"]
    part = huggingface.cache_folder() / "models--Org--Model" / "blobs" / f"{etag(content)}.part"
    write(part.parent, {part.name: b"x" * 1000})
    with pytest.raises(Unavailable, match=r"model.safetensors: what an earlier run left of it was damaged"):
        names_hub.resolve("Org/Model", say=quiet)
    folder = names_hub.resolve("Org/Model", say=quiet)
    assert (folder / "model.safetensors").read_bytes() == content


def test_a_half_longer_than_the_file_is_dropped(hub: Hub) -> None:
    content = hub.repos["Org/Model"]["model.safetensors"]
    blobs = huggingface.cache_folder() / "models--Org--Model" / "blobs"
    write(blobs, {f"{etag(content)}.part": content + b"more"})
    folder = names_hub.resolve("Org/Model", say=quiet)
    assert (folder / "model.safetensors").read_bytes() == content


def test_files_in_xet_storage_are_the_clients(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.xet = True
    fetched: list[str] = []
    monkeypatch.setattr("huggingface_hub.file_download.http_get", lambda url, *_, **__: fetched.append(url))
    resume.prefetch("Org/Model", ["model.safetensors"], hub.url, huggingface.cache_folder() / "blobs")
    assert fetched == []


def test_a_storage_server_is_not_told_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.storage = hub.url.replace("127.0.0.1", "localhost")
    names_hub.resolve("Org/Model", say=quiet)
    told = {
        headers.get("authorization")
        for method, path, headers in hub.requests
        if "/storage/" in path and method == "GET"
    }
    assert told == {None}
    asked = {headers.get("authorization") for _, path, headers in hub.requests if "/api/models/" in path}
    assert asked == {"Bearer hf_secret"}


def test_the_token_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(ModelNotFound, match=r"has no model Org/Model .*HF_TOKEN"):
        names_hub.resolve("Org/Model", say=quiet)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert (names_hub.resolve("Org/Model", say=quiet) / "model.safetensors").is_file()


def test_no_such_model(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=rf"{hub.url} has no model Org/Modle .*check the spelling"):
        names_hub.resolve("Org/Modle", say=quiet)


def test_org_name_that_may_be_a_mistyped_path(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "here" / "ckpts" / "tiny-qwen", checkpoint())
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelNotFound, match=r"nor is there a folder ckpts/tiny_qwen here; near it: ckpts/tiny-qwen"):
        names_hub.resolve("ckpts/tiny_qwen", say=quiet)


@pytest.mark.parametrize(("status", "code"), [(403, "GatedRepo"), (401, "GatedRepo"), (403, "")])
def test_a_gated_model(hub: Hub, status: int, code: str) -> None:
    hub.refusal = (status, code)
    with pytest.raises(ModelNotFound, match=r"Org/Model is gated or private: .* terms at http.*/Org/Model, .*HF_TOKEN"):
        names_hub.resolve("Org/Model", say=quiet)


def test_a_hub_in_trouble(hub: Hub) -> None:
    hub.refusal = (503, "")
    with pytest.raises(Unavailable, match=r"answered 503.*HF_ENDPOINT.*--model demo"):
        names_hub.resolve("Org/Model", say=quiet)


@pytest.mark.parametrize(
    ("removed", "lacking"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("model.safetensors", "safetensors weights"),
    ],
)
def test_a_repository_that_is_no_checkpoint(hub: Hub, removed: str, lacking: str) -> None:
    del hub.repos["Org/Model"][removed]
    with pytest.raises(ModelNotFound, match=f"Org/Model at .* has no {lacking}"):
        names_hub.resolve("Org/Model", say=quiet)
    assert "model.safetensors" not in hub.fetched()


def test_an_index_that_names_what_is_not_there(hub: Hub) -> None:
    hub.repos["Org/Model"] = checkpoint(shards=3)
    del hub.repos["Org/Model"]["model-00002-of-00003.safetensors"]
    with pytest.raises(ModelNotFound, match=r"Org/Model at .* has no model-00002-of-00003.safetensors: it is not a"):
        names_hub.resolve("Org/Model", say=quiet)


def test_offline_with_nothing_cached_sends_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match=r"HF_HUB_OFFLINE is set and Org/Model is not whole in the cache \(/.*demo"):
        names_hub.resolve("Org/Model", say=quiet)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repo", "config", "advice"),
    [
        (
            "Qwen/Qwen3-8B",
            {},
            r"Qwen/Qwen3-8B-MLX-4bit \(--model qwen3:8b\) holds the same model in 4 bits, about 4.6 GB",
        ),
        ("Org/Model", {}, r"in 4 bits it would be about 4.6 GB: look for an MLX 4-bit form of it"),
        ("Qwen/Qwen3-8B", {"quantization": {"bits": 4}}, None),
        ("Qwen/Qwen3-8B", {"quantization_config": {"bits": 4}}, None),
    ],
)
def test_large_unquantized_weights_are_announced(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, repo: str, config: dict[str, object], advice: str | None
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**15))
    hub.repos[repo] = checkpoint(**config)
    hub.announced["model.safetensors"] = 16_381_470_720
    said: list[str] = []
    names_hub.resolve(repo, say=said.append)
    assert said[-1].startswith(f"downloading {repo} (16.4 GB)")
    if advice is None:
        assert len(said) == 1
    else:
        assert len(said) == 2 and said[0].startswith(f"{repo} is 16.4 GB of unquantized weights; ")
        assert re.search(advice, said[0])


def test_a_disk_without_room_is_refused_before_the_weights(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=50_000))
    with pytest.raises(OutputError, match=r"Org/Model needs 100 kB more, but the disk of .* has 50 kB free.*HF_HOME"):
        names_hub.resolve("Org/Model", say=quiet)
    assert "model.safetensors" not in hub.fetched()


def test_notes_and_bars_go_to_stderr(hub: Hub) -> None:
    code = "from qwen3_mlx import hub; hub.resolve('Org/Model')"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TQDM_POSITION": "-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == ""
    assert "downloading Org/Model" in ran.stderr and "100%" in ran.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HOME": "~/elsewhere"},
        {"HF_HOME": "/a", "HUGGINGFACE_HUB_CACHE": "/b"},
        {"HF_HOME": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HUB_CACHE": "$HOME/c"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/a"},
    ],
)
def test_the_cache_is_where_the_client_keeps_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.delenv("HF_HOME")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert str(huggingface.cache_folder()) == theirs


def test_the_alias_leads_to_the_official_checkpoint(hub: Hub) -> None:
    hub.repos["Qwen/Qwen3-0.6B-MLX-4bit"] = checkpoint(quantization={"bits": 4, "group_size": 64})
    folder = names_hub.resolve("qwen3:0.6b", say=quiet)
    assert "models--Qwen--Qwen3-0.6B-MLX-4bit" in folder.parts
    listed = {entry.name: entry for entry in names_hub.list_models()}
    assert listed["qwen3:0.6b"].local and not listed["qwen3:4b"].local
    assert listed["qwen3:0.6b"].bytes == sum((folder / name).stat().st_size for name in hub.fetched())


def test_an_unwritable_cache(hub: Hub, bare: Path) -> None:
    (bare / "hf").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot be written .* set HF_HOME to a folder"):
        names_hub.resolve("Org/Model", say=quiet)


def test_weights_of_one_file_need_no_index(tmp_path: Path) -> None:
    folder = write(tmp_path, {"config.json": b"{}", "tokenizer.json": b"{}", "weights.safetensors": safetensors()})
    assert names_hub.resolve(str(folder)) == folder
