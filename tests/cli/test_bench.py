"""`qwen3-mlx bench`: predictions for a chip, a short measurement of an embedded checkpoint, and its receipt."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx import costs, predict, weights
from qwen3_mlx.chips import Limit
from qwen3_mlx.cli import bench_run, bench_text
from qwen3_mlx.cli.bench_run import Run
from qwen3_mlx.config import QuantSpec
from qwen3_mlx.doctor import machine
from qwen3_mlx.errors import InvalidRequest, MemoryLimit
from qwen3_mlx.hub.names import embedded
from qwen3_mlx.released import RELEASED
from tests.doctor.findings import MAC

from .conftest import CommandLine
from .terminal import CTRL_C, Terminal

ROOT = Path(__file__).resolve().parents[2]
without_metal = pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")


# -- predictions -------------------------------------------------------------------------------------------------------


def test_all_models_on_both_variants_of_a_chip(command_line: CommandLine) -> None:
    ran = command_line("bench", "--predict", "M4-Max")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("a model, not a measurement: ")
    first, *variants, last = ran.out.split("\n\n")
    assert "weights of 4 bits (groups of 64), cache in bf16, 1,024 tokens of context" in first
    assert "this small" not in last
    assert "75 % of the bandwidth and 4 us a launch, to 90 % and 1 us" in last
    assert [each.splitlines()[0] for each in variants] == [
        "Apple M4 Max, 32 GPU cores: 410 GB/s, 36 GB",
        "Apple M4 Max, 40 GPU cores: 546 GB/s, 48, 64 or 128 GB",
    ]
    head, *rows, left = variants[1].splitlines()[1:]
    assert head.split()[:4] == ["MODEL", "READ", "A", "STEP"]
    assert [row.split()[0] for row in rows] == [name for name in RELEASED if name != "qwen3:235b-a22b"]
    assert left == "does not fit in 128 GB: qwen3:235b-a22b"
    assert rows[-1].split() == ["qwen3:30b-a3b", "1.82", "GB", "677", "300", "140", "to", "228", "48", "GB"]


def test_one_model(command_line: CommandLine) -> None:
    args = ("--model", "qwen3:8b", "--bits", "8", "--kv-bits", "8", "--context", "16384")
    ran = command_line("bench", "--predict", "m1", *args)
    assert "weights of 8 bits (groups of 64), cache in 8 bits, 16,384 tokens of context" in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("qwen3:8b"))
    config = RELEASED["qwen3:8b"]
    read = costs.step_bytes(config, costs.bytes_by_role(config, spec=QuantSpec(8)), 16384, kv_bits=8)
    assert row.split()[1:3] == [f"{read / 1e9:.2f}", "GB"] and f"{68e9 / read:.1f}" in row.split()
    assert row.endswith(" 16 GB")
    assert "longest conversation: 16 GB " in ran.out


def test_a_model_that_fits_nowhere(command_line: CommandLine) -> None:
    ran = command_line("bench", "--predict", "M1", "--model", "qwen3:32b", "--bits", "16")
    assert ran.status == 0 and "weights in bf16" in ran.out and "MODEL" not in ran.out
    assert "longest conversation: none: the model does not fit" in ran.out


def test_rows_together_have_a_bound_and_no_band(command_line: CommandLine) -> None:
    ran = command_line("bench", "--predict", "M4 Max 40", "--batch", "8")
    assert "8 rows together" in ran.out and "nothing for several rows" in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("qwen3:30b-a3b"))
    assert row.split()[-3] == "-"


def test_a_prediction_as_json(command_line: CommandLine) -> None:
    ran = command_line("bench", "--predict", "M4-Max", "--model", "QWEN3:30B-A3B", "--json")
    data = json.loads(ran.out)
    assert data["kind"] == "a model, not a measurement" and (data["context"], data["batch"]) == (1024, 1)
    assert [chip["bandwidth"] for chip in data["chips"]] == [410, 546]
    (model,) = data["chips"][1]["models"]
    assert model["weights"] == {"bits": 4, "group_size": 64, "mode": "affine"} and model["launches"] == 677
    assert model["bound"] == pytest.approx(546e9 / model["read"])
    assert model["band"][0] < model["band"][1] < model["bound"]
    assert model["longest"] == {"48": 40960, "64": 40960, "128": 40960}


def test_the_packing_of_a_folder_is_its_own(command_line: CommandLine, tmp_path: Path) -> None:
    config = json.loads((embedded("demo") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization": {"bits": 8, "group_size": 32}}))
    ran = command_line("bench", "--predict", "M2", "--model", str(tmp_path))
    assert ran.status == 0 and "weights of 8 bits (groups of 32)" in ran.out
    ran = command_line("bench", "--predict", "M2", "--model", str(tmp_path), "--bits", "4")
    assert ran.status == 2 and "is quantized already, to 8 bits" in ran.err
    ran = command_line("bench", "--predict", "M2", "--model", "demo")
    assert ran.status == 0 and "weights in bf16" in ran.out and "\n\na model this small may stay" in ran.out
    ran = command_line("bench", "--predict", "M2", "--model", "demo", "--bits", "6")
    assert "weights of 6 bits" in ran.out


def test_a_prediction_needs_no_mlx() -> None:
    code = (
        "import sys; from qwen3_mlx.cli.errors import run; from qwen3_mlx.cli.group import group\n"
        "assert run(group, 'qwen3-mlx', ['bench', '--predict', 'M4', '--json']) == 0\n"
        "assert not {'mlx', 'numpy', 'rich'} & {name.split('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--predict", "M4 Ultra"), "did you mean M4 or M4 Pro or M4 Max?"),
        (("--predict", "M4 Max 36"), "M4 Max has 32 or 40 GPU cores, not 36"),
        (("--predict", "M4", "--model", "org/name"), "--predict downloads nothing"),
        (("--predict", "M4", "--model", "qwen3:5b"), "did you mean"),
        (("--predict", "M4", "--output", "x.json"), "--output keeps a measurement"),
        (("--predict", "M4", "--context", "1", "--context", "2"), "--predict takes one --context"),
        (("--predict", "M4", "--model", "qwen3:8b", "--context", "40961"), "qwen3:8b is made for 40,960 tokens of"),
        (("--predict", "M4", "--batch", "64"), "must be from 1 to 63"),
        (("--predict", "M4", "--bits", "7"), "must be one of 2, 3, 4, 5, 6, 8, 16"),
        (("--model", "demo", "--batch", "2"), "--batch belongs to --predict"),
        (("--model", "demo", "--bits", "16"), "leave it out to measure a model as it is"),
        (("--model", "demo", "--context", "0"), "must be at least 1 token"),
        (("--model", "demo", "--context", "8100"), "give --context 8064 or less"),
        (("--model", "qwen3:5b"), "did you mean"),
        (("--model", "demo", "--output", "/no/such/folder/r.json"), "choose another --output"),
        (("--json",), "say what: --predict CHIP, --model NAME, or the name of a benchmark"),
    ],
)
def test_mistakes(command_line: CommandLine, args: tuple[str, ...], words: str) -> None:
    ran = command_line("bench", *args)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and words in ran.err


def test_alone_it_shows_its_help(command_line: CommandLine) -> None:
    ran = command_line("bench")
    assert ran.status == 2 and "--predict M4-Max" in ran.err and "error:" not in ran.err


# -- measurements ------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that takes a moment."""
    monkeypatch.setattr(bench_run, "ANSWER", 12)
    monkeypatch.setattr(bench_run, "RUNS", 2)
    monkeypatch.setattr(bench_run, "CONTEXTS", (8, 40, 10**6))


@without_metal
def test_a_measurement(command_line: CommandLine, short: None, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    ran = command_line("bench", "--model", "demo", "--output", str(path))
    assert ran.status == 0 and ran.err == f"the receipt is in {path}\n"
    assert ran.out.startswith("demo, weights not packed, cache not packed, reference kernels\n")
    assert "12 tokens of answer, greedy: median (least to most) of 2 runs" in ran.out
    head, *rows = ran.out.split("\n\n")[1].splitlines()
    assert head.split() == ["PROMPT", "PREFILL", "DECODE", "READ", "A", "STEP"]
    assert [row.split()[0] for row in rows] == ["8", "40"]
    assert ran.out.endswith("no bound is known for this machine: it has no Apple GPU\n")

    made = bench_run.from_json(path.read_text())
    assert made.machine.packages["mlx"] == mx.__version__ and made.mode == "reference"  # type: ignore[attr-defined]
    for each, context in zip(made.samples, (8, 40), strict=True):
        assert (each.context, each.tokens, len(each.prefill), len(each.decode)) == (context, 12, 2, 2)
        assert min(each.prefill + each.decode) > 0 and each.bound is each.share is each.predicted is None
        assert each.read == made.model.held.total + (context + 6) * 4 * made.model.layers * 2 * 2 * 64


@without_metal
def test_json_alone_and_a_prompt_of_ones_own(command_line: CommandLine, short: None) -> None:
    args = ("--context", "5", "--context", "5", "--context", "9", "--kv-bits", "8", "--bits", "4")
    ran = command_line("bench", "--model", "demo-moe", *args, "--json")
    made = bench_run.from_json(ran.out)
    assert ran.status == 0 and [each.context for each in made.samples] == [5, 9]
    assert (made.model.name, made.model.bits, made.model.kv_bits, made.model.experts) == ("demo-moe", 4, 8, 8)


@without_metal
def test_a_receipt_tells_nothing_of_its_maker(command_line: CommandLine, short: None, tmp_path: Path) -> None:
    folder = tmp_path / f"home-of-{getpass.getuser()}"
    shutil.copytree(embedded("demo"), folder)
    ran = command_line("bench", "--model", str(folder), "--context", "4", "--json")
    assert ran.status == 0 and bench_run.from_json(ran.out).model.name == "a folder"
    for secret in (str(tmp_path), f"of-{getpass.getuser()}", os.uname().nodename, str(Path.home())):
        assert secret not in ran.out


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """An M4 Max that runs the kernels of this machine, whatever it is."""
    monkeypatch.setattr(machine, "machine", lambda: MAC)
    monkeypatch.setattr(machine, "mode", lambda: ("metal", "a GPU"))


def test_a_mac_has_a_bound_and_a_share_of_it(command_line: CommandLine, short: None, mac: None) -> None:
    ran = command_line("bench", "--model", "demo", "--context", "8")
    assert "on Apple M4 Max, 40 GPU cores, macOS 15.5, mlx 0.32.4\n" in ran.out
    assert "a model this small may stay in the chip's caches" in ran.out
    assert "BOUND  OF BOUND" in ran.out and "546 GB/s by the bytes read; predicted: a model, not a meas" in ran.out
    assert "run it again with --output receipt.json and attach that to an issue" in ran.err
    (each,) = bench_run.from_json(command_line("bench", "--model", "demo", "--context", "8", "--json").out).samples
    assert each.bound == Limit(*[pytest.approx(546e9 / each.read)] * 2)
    assert each.share is not None and each.share.low == pytest.approx(statistics.median(each.decode) / each.bound.low)
    assert each.predicted is not None and each.predicted.high < each.bound.high


def test_a_chip_of_two_variants_has_two_bounds(
    command_line: CommandLine, short: None, mac: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = replace(MAC, gpu_cores=None, bandwidth=Limit(410, 546))
    monkeypatch.setattr(machine, "machine", lambda: unsure)
    ran = command_line("bench", "--model", "demo", "--context", "8")
    assert "bound: 410 or 546 GB/s by the bytes read" in ran.out
    monkeypatch.setattr(machine, "machine", lambda: replace(MAC, chip="Apple M9", bandwidth=None))
    ran = command_line("bench", "--model", "demo", "--context", "8")
    assert "no bound is known for this machine: its memory bandwidth is not known" in ran.out


def test_it_can_be_stopped(
    command_line: CommandLine, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_run.runs

    def runs(opened: Any, context: int) -> Iterator[Run]:
        if context == 40:
            raise KeyboardInterrupt
        return real(opened, context)

    monkeypatch.setattr(bench_run, "runs", runs)
    path = tmp_path / "receipt.json"
    ran = command_line("bench", "--model", "demo", "--output", str(path))
    assert (ran.status, ran.out) == (130, "") and not list(tmp_path.iterdir())
    assert ran.err == "interrupted: 2 runs were measured; no receipt was written\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
def test_ctrl_c_in_a_terminal() -> None:
    with Terminal("-m", "qwen3_mlx.cli", "bench", "--model", "demo") as terminal:
        terminal.wait_for("256 tokens")  # on the bar
        terminal.press(CTRL_C)
        assert terminal.wait_exit() == 130
        assert "interrupted: " in terminal.text and "Traceback" not in terminal.text


def test_a_model_that_does_not_fit(command_line: CommandLine, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "device_limit", lambda: 1 << 20)
    ran = command_line("bench", "--model", "demo")
    assert (ran.status, ran.out) == (2, "") and ran.err.startswith("error: ") and "memory" in ran.err


def test_a_usual_prompt_that_does_not_fit_is_left_out(
    command_line: CommandLine, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_run.runs

    def runs(opened: Any, context: int) -> Iterator[Run]:
        if context == 40:
            raise MemoryLimit("needs more memory than there is")
        return real(opened, context)

    monkeypatch.setattr(bench_run, "runs", runs)
    ran = command_line("bench", "--model", "demo", "--json")
    assert [each.context for each in bench_run.from_json(ran.out).samples] == [8]
    assert "40 tokens are left out: needs more memory than there is" in ran.err
    ran = command_line("bench", "--model", "demo", "--context", "8", "--context", "40")
    assert (ran.status, ran.out, ran.err) == (2, "", "error: needs more memory than there is\n")


def test_prompts_leave_room_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, (least, *_) = bench_run.ANSWER, bench_run.CONTEXTS
    assert bench_run.contexts((), 1 << 20) == bench_run.CONTEXTS
    assert bench_run.contexts((), least + answer) == (least,)
    assert bench_run.contexts((7, 7, 3), 200) == (7, 3)
    for asked, longest in (((), least + answer - 1), ((7, 300), 300)):
        with pytest.raises(InvalidRequest, match=f"give --context {longest - answer} or less"):
            bench_run.contexts(asked, longest)


def test_another_receipt_is_not_read() -> None:
    with pytest.raises(ValueError, match="no receipt of qwen3-mlx/bench, version 1"):
        bench_run.from_json('{"schema": "qwen3-mlx/doctor", "version": 1}')


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (99.96, "100.0"), (44.62, "44.6"), (3.04, "3.0")])
def test_a_rate(value: float, shown: str) -> None:
    assert bench_text.rate(value) == shown


def test_the_label_is_on_all_that_is_predicted(command_line: CommandLine, short: None, mac: None) -> None:
    assert command_line("bench", "--predict", "M3").out.startswith(predict.LABEL)
    assert predict.LABEL in command_line("bench", "--model", "demo", "--context", "8").out


# -- benchmarks of the repository --------------------------------------------------------------------------------------


def side_by_side(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """As the installed script runs in ``folder``, which is not on the way of imports by itself."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "qwen3_mlx.cli", "bench", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "qwen3-mlx"\n')
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "__main__.py").write_text(
        "def main(argv=None):\n    print(argv)\n    return 3 if '--fail' in argv else None\n"
    )
    return tmp_path


def test_a_benchmark_gets_all_its_words(checkout: Path) -> None:
    ran = side_by_side(checkout, "decode", "--model", "qwen3:4b", "--help")
    assert (ran.returncode, ran.stdout) == (0, "['decode', '--model', 'qwen3:4b', '--help']\n"), ran.stderr
    assert side_by_side(checkout, "decode", "--fail").returncode == 3


def test_outside_of_a_checkout_it_says_where_benchmarks_are(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text('[project]\nname = "another"\n')
    for folder in (checkout, checkout / "benchmarks"):
        ran = side_by_side(folder, "decode", "--runs", "3")
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "clone it, and run `qwen3-mlx bench decode` in its folder" in ran.stderr and ran.stderr.count("\n") == 1
