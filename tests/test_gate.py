"""The counts that CI holds are what their budgets say, and another count is refused."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import gate


def test_counts_are_within_their_budgets() -> None:
    wrong = gate.complaints(json.loads(gate.BUDGETS.read_text()), gate.counts())
    assert not wrong, "\n".join([*wrong, "accept: python -m benchmarks.gate --update"])


BUDGETS = {"launches a token: 8B, bf16 cache": 100, "Python calls a token: 1 stream": 50.0}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"launches a token: 8B, bf16 cache": 101}, "101 counted, above its budget of 100"),
        ({"launches a token: 8B, bf16 cache": 100}, None),
        ({"launches a token: 8B, bf16 cache": 94}, "94 counted, well below its budget of 100"),
        ({"Python calls a token: 1 stream": 50 * (1 + gate.SLACK)}, None),
        ({"Python calls a token: 1 stream": 50 * (1.01 + gate.SLACK)}, "counted, above its budget of 50"),
        ({"new": 1}, "new: has no budget"),
    ],
)
def test_what_is_refused(found: dict[str, float], said: str | None) -> None:
    wrong = gate.complaints(BUDGETS, {**BUDGETS, **found})
    assert len(wrong) == (said is not None) and (said is None or said in wrong[0])


def test_a_budget_that_nothing_is_counted_for_is_refused() -> None:
    assert gate.complaints(BUDGETS, {}) == [f"{name}: has a budget and is not counted" for name in sorted(BUDGETS)]


def test_a_worse_count_fails_the_command(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """One launch more than its budget; ``--update`` accepts it."""
    monkeypatch.setattr(gate, "BUDGETS", tmp_path / "budgets.json")
    monkeypatch.setattr(gate, "KINDS", (lambda: iter([("launches a token: 8B, bf16 cache", 101)]),))
    gate.BUDGETS.write_text(json.dumps({"launches a token: 8B, bf16 cache": 100}))
    monkeypatch.setattr(sys, "argv", ["gate"])
    with pytest.raises(SystemExit) as refused:
        gate.main()
    said = capsys.readouterr().out
    assert refused.value.code == 1 and "101 counted, above its budget of 100" in said and "--update" in said
    monkeypatch.setattr(sys, "argv", ["gate", "--update"])
    gate.main()
    assert json.loads(gate.BUDGETS.read_text()) == {"launches a token: 8B, bf16 cache": 101}
