"""The side-by-side benchmarks themselves, on so little that each takes a moment; what they time is not looked at."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import host_graph, import_time, results, text
from benchmarks.agent_prompt import agent_prompt, next_turn
from benchmarks.folders import adapted, prompt
from benchmarks.results import OURS
from benchmarks.runtimes import MlxLm, Ours, Short
from benchmarks.serving import served
from benchmarks.turns import Turn, comparable
from qwen3_mlx import Finished, hub, weights
from qwen3_mlx.errors import Unavailable
from qwen3_mlx.text.tokenizer import Tokenizer

DEMO = hub.resolve("demo")


def ran(name: str, tmp_path: Path, *options: str) -> results.Result:
    file = tmp_path / "saved.json"
    assert importlib.import_module(f"benchmarks.{name}").main(["--runs", "2", *options, "--json", str(file)]) == 0
    return results.load(file)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("load", [], ["demo"]),
        ("prefill", ["--lengths", "4,16"], [4, 16]),
        ("prefill", ["--lengths", "4", "--model", "demo-moe", "--peer-float32"], [4]),
        ("decode", ["--contexts", "0,30", "--tokens", "4"], [0, 30]),
        ("batch", ["--streams", "1,3", "--tokens", "3"], [1, 3]),
        ("convert", [], ["demo", "demo"]),
        ("text", ["--model", "demo", "--kilobytes", "3"], ["template", "tokenizer", "both", "both, next turn"]),
        ("prefix_lookup", ["--tokens", "64,100"], [64, 100]),
    ],
)
def test_rows_of_both_sides(name: str, options: list[str], rows: list[int | str], tmp_path: Path) -> None:
    found = ran(name, tmp_path, *options)
    (run,) = found.runs
    assert [row.at for table in run.tables for row in table.rows] == rows
    peer = "mlx-lm float32" if "--peer-float32" in options else "transformers" if name == "text" else "mlx-lm"
    for table in run.tables:
        assert table.sides == [OURS, peer] and table.quantity.kind == "measured"
        for row in table.rows:
            assert all(len(values) == 2 and min(values) > 0 for values in row.samples.values())


def test_import_time_tells_what_is_beyond_an_empty_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, all_needed = [30.0, 2000.0, 20.0, 31.0, 1500.0, 25.0], [200.0, 2100.0, 20.0, 190.0, 1600.0, 25.0]
    taken = iter([*[9.0] * 3, *package, *[9.0] * 3, *all_needed])  # the first three warm up
    monkeypatch.setattr(import_time, "milliseconds", lambda program: next(taken))
    (run,) = ran("import_time", tmp_path).runs
    (whole, _), (beyond, needed) = (table.rows for table in run.tables)
    assert whole.samples == {OURS: (30, 31), "mlx-lm": (2000, 1500), "empty interpreter": (20, 25)}
    assert beyond.samples == {OURS: (10, 6), "mlx-lm": (1980, 1475)}
    assert needed.samples == {OURS: (180, 165), "mlx-lm": (2080, 1575)}


def test_time_of_a_process() -> None:
    assert import_time.milliseconds("pass") > 1
    with pytest.raises(subprocess.CalledProcessError):
        import_time.milliseconds("raise SystemExit(3)")


def test_host_graph_says_what_it_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in host_graph.MODELS.values():
        monkeypatch.setitem(model, "num_hidden_layers", 1)
    (run,) = ran("host_graph", tmp_path).runs
    kinds = {table.quantity.kind: table for table in run.tables}
    assert kinds["predicted"].sides == ["M4 Max"] and len(kinds["measured"].rows) == 9
    moe = next(row for row in kinds["predicted"].rows if row.at == "30B-A3B")
    assert 3 < moe.median("M4 Max") < 4  # 1.8 GB at 546 GB/s, whatever is measured here


def test_a_model_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "device_limit", lambda: 8_000_000)
    for name in ("prefill", "decode", "batch"):
        file = tmp_path / f"{name}.json"
        assert importlib.import_module(f"benchmarks.{name}").main(["--json", str(file)]) == 2
        error = capsys.readouterr().err
        assert "MB of memory" in error and "4 MB may be used" in error and "2 sides are loaded at once" in error
        assert not file.exists()


def test_an_answer_that_ends_early_has_no_speed() -> None:
    ours, peer = Ours(DEMO), MlxLm(DEMO)
    ids = ours.q.encode("How many r are in pear?")
    for side in (ours, peer):
        with pytest.raises(Short, match=rf"{side.name} answered \d+ tokens instead of 900"):
            side.fill(ids)
            side.decode(ids, 900)
        side.close()


@pytest.mark.parametrize("context", [0, 1, 300])
def test_both_sides_say_the_same_behind_a_context(context: int, tmp_path: Path) -> None:
    """So that they are given the same work: greedy, in float32, behind the same random keys and values."""
    folder = adapted(DEMO, tmp_path, endless=True)
    ours, peer = Ours(folder, cached=True), MlxLm(folder, float32=True)
    ids, said = prompt(ours.q.tokenizer, context + 1, 0), []
    for side in (ours, peer):
        side.fill(ids)
        assert side.decode(ids, 5) > 0, "which leaves the cache as it was filled"
    for event in ours._stream(ids, 40):
        said += getattr(event, "token_ids", ())
    assert isinstance(event, Finished) and event.usage.cached_tokens == context
    stream = peer._generate(peer.model, peer.tokenizer, ids[-1:], max_tokens=40, prompt_cache=peer._cache)
    assert [response.token for response in stream] == said and len(said) == 40
    ours.close()
    peer.close()


def test_agents_prompts_are_as_long_as_asked_and_unlike() -> None:
    messages, tools = agent_prompt(60_000, 1)
    assert (messages, tools) == agent_prompt(60_000, 1) != agent_prompt(60_000, 2)
    size = sum(len(json.dumps(each)) for each in (*messages, *tools))
    assert 54_000 < size < 66_000
    words = "".join(str(message["content"]) for message in messages)
    roles = [message["role"] for message in messages]
    assert "<" in words and "\t" in words and set(roles) == {"system", "user", "assistant", "tool"}
    longer = next_turn(messages)
    assert longer[:-2] == messages and [message["role"] for message in longer[-2:]] == ["assistant", "tool"]


def test_a_text_is_new_to_both_sides_in_every_round() -> None:
    seen: list[text.Prompt] = []
    prompts = [text.made(lambda prompt: str(prompt.messages), 3000, seed, True) for seed in range(2)]
    measure = text.timed(seen.append, prompts)
    assert measure() >= 0 and measure() >= 0
    assert seen == [prompts[0].before, prompts[0], prompts[1].before, prompts[1]] and prompts[0] != prompts[1]


def test_turns_that_can_be_compared() -> None:
    tokenizer = Tokenizer.from_folder(DEMO)
    full = Turn(0.1, "a b c d e f g h", "thought")
    short, thoughtless = full._replace(content="a"), full._replace(thought="")
    runs: list[list[tuple[Turn, Turn]]] = [[(one, full), (full, full)] for one in (full, short, thoughtless)]
    assert len(comparable(runs, 0, 5, tokenizer)) == 3, "before the first turn there is nothing"
    assert len(comparable(runs, 1, 5, tokenizer)) == 1


@pytest.mark.parametrize(
    ("module", "says"), [("qwen3_mlx.server", "no such place"), ("no_such_module", "No module named no_such_module")]
)
def test_a_server_that_does_not_start_says_why(module: str, says: str) -> None:
    with pytest.raises(Unavailable, match=f"{module} does not start with .*{says}"), served(module, "/no such place"):
        raise AssertionError("it has started")


def test_server_and_clients(tmp_path: Path) -> None:
    found: Any = ran("server", tmp_path, "--clients", "2", "--tokens", "5", "--runs", "1")
    tables = {table.quantity.what: table for table in found.runs[0].tables}
    assert tables["all clients together"].sides == [OURS, "mlx-lm", "engine without HTTP"]
    assert [row.at for table in tables.values() for row in table.rows] == [2] * len(tables)
