"""The doctor on a real GPU: what it says, and that what it times is what it should be. Skipped where MLX finds none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from qwen3_mlx.doctor import cases, sweep, timing
from qwen3_mlx.doctor.catalogue import Use
from qwen3_mlx.doctor.examine import uses
from qwen3_mlx.doctor.receipt import from_json

from .test_cases import same

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU"),
]
ROOM = 64 << 20
USES = uses(["qwen3:30b-a3b"], everything=False)


def label(use: Use) -> str:
    return f"{use.trial.kernel}-{'-'.join(map(str, use.parameters))}"


@pytest.mark.parametrize("use", USES, ids=label)
def test_both_sides_compute_the_same(use: Use) -> None:
    case = cases.case(use, ROOM)
    assert case is not None
    if timing.STOCK in case.sides:
        same(use, case.sides[timing.OURS](1), case.sides[timing.STOCK](1))


@pytest.mark.parametrize("use", USES, ids=label)
def test_times_are_those_of_a_gpu(use: Use) -> None:
    case = cases.case(use, ROOM)
    assert case is not None
    found = timing.measure(case, None, rounds=3)
    print(label(use), found)
    for times in found.ms.values():
        assert 1e-5 < times.least <= times.median <= times.most < 1e3  # milliseconds
    assert 0 < found.gbs < 5000  # no GPU's memory is as fast


@pytest.mark.parametrize("use", sweep.swept(USES), ids=label)
def test_every_size_of_block_agrees(use: Use) -> None:
    found = sweep.sweep(use, 4096, ROOM, rounds=1)
    print(label(use), {block: times.median for block, times in found.ms.items()}, "in use", found.block)
    assert not found.disagreeing and len(found.ms) == len(sweep.blocks(use.parameters[1]))


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    args = ["doctor", "--kernels", "--model", "demo-moe", "--json", "--output", str(path)]
    ran = subprocess.run([sys.executable, "-m", "qwen3_mlx.cli", *args], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    made = from_json(ran.stdout)
    assert made == from_json(path.read_text())
    assert not made.emulated and made.machine.metal and made.machine.working_set
    assert all(each.checked.good and each.timing for each in made.kernels) and not made.problems
    kept = {(each.kernel, each.parameters): each.verdict for each in made.verdicts if each.current}
    assert all(kept[each.checked.kernel, each.checked.parameters] == "good" for each in made.kernels)
