"""Files of results: what is kept, what is refused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import results
from benchmarks.results import OURS, ResultError, Row, added, figure, load, save, tables

from .made import BOUND, MACHINE, SPEED, VERSIONS, result, row, run


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "decode.json"
    save(result(), path)
    assert load(path) == result()
    assert os.listdir(path.parent) == ["decode.json"]
    held = json.loads(path.read_text())["runs"][0]["tables"][0]["rows"][0]
    assert held["sides"][OURS] == {"median": 100, "min": 90, "max": 120, "samples": [90, 100, 120]}
    assert held["ratios"] == {"mlx-lm": 100 / 45}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6) | st.text(max_size=5),
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
            st.lists(st.floats(0, 1e300), min_size=1, max_size=4),
        )
    )
)
def test_whatever_was_measured(tmp_path_factory: pytest.TempPathFactory, found: list) -> None:
    rows = tuple(row(at, tuple(ours), tuple(peer)) for at, ours, peer in found)
    finite = all(math.isfinite(each.ratio("mlx-lm")) or each.median("mlx-lm") == 0 for each in rows)
    finite = finite and all(math.isfinite(each.median(side)) for each in rows for side in each.samples)
    path = tmp_path_factory.mktemp("any") / "decode.json"
    if finite:
        save(result(run(speed=rows)), path)
        assert load(path) == result(run(speed=rows))


def test_no_ratio_by_nothing(tmp_path: Path) -> None:
    save(result(run(speed=(row(0, (1.0,), (0.0,)),))), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["runs"][0]["tables"][0]["rows"][0]["ratios"] == {
        "mlx-lm": None
    }


def test_rows_are_put_together_by_what_they_are() -> None:
    one, two, three = row(0, (1.0,), (2.0,)), Row("8B", {"M4 Max": (3.0,)}), row(256, (4.0,), (5.0,))
    found = tables([(SPEED, one), (BOUND, two), (SPEED, three)])
    assert [(table.quantity, table.rows) for table in found] == [(SPEED, (one, three)), (BOUND, (two,))]


def test_runs_of_one_machine_share_a_file() -> None:
    path, first = Path("decode.json"), result()
    other = result(run("python -m benchmarks decode --peer-float32"))
    both = added(first, other, path)
    assert [one.command for one in both.runs] == [first.runs[0].command, other.runs[0].command]
    again = result(run(speed=(row(0, (7.0,), (8.0,)),)))
    assert added(both, again, path).runs == (other.runs[0], again.runs[0]), (
        "the same command is there once, the new one"
    )
    assert added(None, first, path) == first


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (result(machine=replace(MACHINE, processor="another")), "processor was another, now a processor"),
        (result(machine=replace(MACHINE, memory=1)), "memory was 1, now 8000000000"),
        (result(versions={**VERSIONS, "mlx": "0.32.3"}), "mlx was 0.32.3, now 0.32.4"),
        (result(versions={**VERSIONS, "llama-cpp-python": "1"}), "llama-cpp-python was 1, now none"),
        (result(name="prefill"), "it is of prefill"),
    ],
)
def test_a_file_never_mixes_machines_or_versions(other: results.Result, what: str) -> None:
    with pytest.raises(ResultError, match=f"some.json: holds what was measured elsewhere .*{what}.*--fresh"):
        added(other, result(), Path("some.json"))


def spoiled(change: Callable[[dict[str, Any]], object]) -> str:
    held = results.to_json(result())
    change(held)
    return json.dumps(held)


def first_row(held: dict[str, Any]) -> dict[str, Any]:
    return held["runs"][0]["tables"][0]["rows"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[1]", "schema None"),
        (spoiled(lambda held: held.update(schema=99)), "schema 99"),
        (spoiled(lambda held: held.pop("machine")), "not a result .*machine"),
        (spoiled(lambda held: held["machine"].update(colour="red")), "not a result"),
        (spoiled(lambda held: held["versions"].update(mlx=1)), "not a result"),
        (spoiled(lambda held: held["runs"][0]["tables"][0].update(kind="guessed")), "guessed"),
        (spoiled(lambda held: first_row(held).update(at=None)), "not a result"),
        (spoiled(lambda held: first_row(held)["sides"][OURS].update(samples=[])), "not a result"),
        (spoiled(lambda held: first_row(held)["sides"][OURS].update(samples=["fast"])), "not a result"),
        (spoiled(lambda held: first_row(held)["sides"][OURS].update(samples=[math.nan])), "not a result"),
        (spoiled(lambda held: first_row(held)["sides"][OURS].update(median=101.0)), "by hand"),
        (spoiled(lambda held: first_row(held).update(ratios={"mlx-lm": 9.9})), "by hand"),
        (spoiled(lambda held: held.update(more=1)), "by hand"),
    ],
)
def test_files_that_are_no_results(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "decode.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=f"decode.json: .*{says}"):
        load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such file"):
        load(tmp_path / "none.json")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        save(result(), tmp_path / "file" / "decode.json")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "decode.json"
    save(result(), path)
    with pytest.raises(ValueError):
        save(result(run(speed=(row(0, (math.inf,), (1.0,)),))), path)
    assert load(path) == result() and os.listdir(tmp_path) == ["decode.json"]


def test_figures() -> None:
    shown = {0: "0", 0.01234: "0.0123", 0.5: "0.500", 9.999: "10.00", 12.34: "12.3", 123.4: "123", 65432.1: "65,432"}
    assert {value: figure(value) for value in shown} == shown
    assert figure(-2.5) == "-2.50" and figure(math.nan) == "nan"
