"""`qwen3-mlx doctor`: what it says of a machine and its kernels, its exit statuses, and how it is stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.chips import Limit
from qwen3_mlx.cli import doctor_text
from qwen3_mlx.doctor import emulation, examine, machine, receipt
from qwen3_mlx.doctor.examine import Findings, Step
from qwen3_mlx.errors import Unavailable
from qwen3_mlx.kernels import verify
from qwen3_mlx.kernels.attention_trials import TABLE
from qwen3_mlx.kernels.dispatch import on_metal, on_stock
from qwen3_mlx.kernels.moe_trials import ROUTER
from qwen3_mlx.kernels.verdicts import Store, Verdict
from qwen3_mlx.kernels.verify import Verifier, subject
from tests.doctor.findings import GOOD, HELD, MAC, REFUSED, SWEEP, TIMING, findings
from tests.metal.test_emulator import _compiler  # noqa: F401 (autouse)
from tests.metal.wrong import swapping

from .conftest import CommandLine

COUNT = len(examine.uses(["demo-moe"], everything=False))
without_metal = pytest.mark.skipif(mx.metal.is_available(), reason="needs a machine without Metal")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Verdicts of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("QWEN3_MLX_KERNELS", raising=False)
    return Store()


# -- the machine -------------------------------------------------------------------------------------------------------


@without_metal
def test_the_essentials(command_line: CommandLine, tmp_path: Path) -> None:
    ran = command_line("doctor")
    assert ran.status == 0 and not ran.err
    lines = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert list(lines) == ["chip", "memory", "system", "packages", "Metal", "kernels", "deterministic", "verdicts"]
    assert "Python 3." in lines["system"] and f"mlx {mx.__version__}" in lines["packages"]  # type: ignore[attr-defined]
    assert lines["Metal"] == "no" and lines["kernels"].startswith("reference: MLX finds no Apple GPU")
    assert lines["deterministic"] == "avoids nothing: MLX's CPU backend adds up row by row"
    assert lines["verdicts"] == f"none yet, in {tmp_path / 'cache' / 'qwen3-mlx' / 'kernels'}"


def test_a_mac(capsys: pytest.CaptureFixture[str]) -> None:
    doctor_text.machine(receipt.receipt(MAC, "metal", [], Findings(), emulated=False, planned=0))
    out = capsys.readouterr().out
    assert "Apple M4 Max, 40 GPU cores, memory bandwidth 546 GB/s\n" in out
    assert "68.7 GB, of which Metal recommends to take 51.5 GB\n" in out


def test_a_refused_kernel_is_told_with_the_compilers_words(command_line: CommandLine, store: Store) -> None:
    parameters = (mx.bfloat16, 8, 2, True, False)
    store.write(subject(ROUTER, parameters), Verdict("refused", "program_source:3:1: error: no\n    uint lane"))
    store.write(subject(TABLE, (64, True)), Verdict("good", "0.1"))
    ran = command_line("doctor")
    assert ran.status == 1
    assert "1 good, 1 refused, in " in ran.out
    assert "\nrouter bfloat16 8 2 True False: refused, MLX's own operations take its place\n" in ran.out
    assert "\n    program_source:3:1: error: no\n        uint lane\n" in ran.out
    assert "    to try again: qwen3-mlx doctor --kernels\n" in ran.out


@without_metal
def test_a_kernel_that_a_mac_does_not_compile(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, MLX's own operations, and the compiler's words in the doctor's next report."""

    def refuse(**_: Any) -> None:
        words = "program_source:3:1: error: no\n    uint lane\n    ^"
        raise RuntimeError(f"[metal::Device] Unable to build metal library from source\n{words}")

    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(verify, "_is_mlx", lambda _: True)
    monkeypatch.setattr(mx.fast, "metal_kernel", refuse)
    base, logits = on_stock("emulate"), mx.random.normal((2, 8)).astype(mx.bfloat16)
    kernels = on_metal(base, Verifier(Store()).trusts)
    with pytest.warns(RuntimeWarning, match=r"error: no \(qwen3-mlx doctor shows the whole message\)") as heard:
        got = [kernels.route(logits, 2, True) for _ in range(2)]
    assert len(heard) == 1
    for out in got:
        assert all(map(mx.array_equal, out, base.route(logits, 2, True)))
    ran = command_line("doctor")
    assert ran.status == 1 and "1 refused" in ran.out
    assert "    program_source:3:1: error: no\n        uint lane\n        ^\n    to try again: " in ran.out


def test_a_verdict_of_another_version_is_no_reason_to_complain(command_line: CommandLine, store: Store) -> None:
    about = subject(TABLE, (64, True))
    store.write({**about, "mlx": "0.1"}, Verdict("refused", "error: old"))
    ran = command_line("doctor")
    assert ran.status == 0 and "1 of other versions, in " in ran.out and "error" not in ran.out


def test_a_package_that_does_not_import(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("mlx", "tokenizers-of-old"))
    ran = command_line("doctor")
    assert ran.status == 1 and "tokenizers-of-old DOES NOT IMPORT" in ran.out


def test_json_alone(command_line: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    ran = command_line("doctor", "--json", "--output", str(path))
    made = receipt.from_json(ran.out)
    assert ran.status == 0 and made.planned == 0 and not made.kernels
    assert receipt.from_json(path.read_text()) == made
    assert str(path) in ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--model", "demo"), "add --kernels"),
        (("--kernels", "--model", "qwen3:5b"), "did you mean"),
        (("--kernels", "--model", "org/name"), "doctor downloads nothing"),
        (("--output", "/no/such/folder/receipt.json"), "choose another --output"),
        (("--output", "/"), "is a folder"),
    ],
)
def test_mistakes(command_line: CommandLine, args: tuple[str, ...], words: str) -> None:
    ran = command_line("doctor", *args)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1 and words in ran.err


# -- kernels in emulation ----------------------------------------------------------------------------------------------


@without_metal
def test_kernels_are_checked_in_emulation(command_line: CommandLine, tmp_path: Path) -> None:
    ran, count = command_line("doctor", "--kernels", "--model", "demo-moe"), COUNT
    assert ran.status == 0
    assert f"MLX finds no Apple GPU here: checking {count} instantiations" in ran.err and "timing nothing" in ran.err
    table = ran.out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["KERNEL", "PARAMETERS", "VERDICT", "ERROR"]
    assert len(table) == 1 + count + 1 and all(" good " in line for line in table[1:-1])
    assert table[-1].startswith(f"{count} of {count} instantiations agree with the reference, in emulation")
    assert not (tmp_path / "cache").exists()


@without_metal
@pytest.mark.parametrize(
    ("written", "broken", "words"),
    [
        ("shares[k] / total", "shares[k]", "differs from the reference by"),
        ("uint lane", "this is no Metal; uint lane", "error:"),
    ],
)
def test_a_broken_kernel_is_found(
    command_line: CommandLine, written: str, broken: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation.find(), "metal_kernel", swapping("router", written, broken))
    ran = command_line("doctor", "--kernels", "--model", "demo-moe", "--json")
    assert ran.status == 1
    made = receipt.from_json(ran.out)
    (wrong,) = [each.checked for each in made.kernels if not each.checked.good]
    assert made.emulated and wrong.kernel == "router" and words in wrong.detail
    ran = command_line("doctor", "--kernels", "--model", "demo-moe")
    assert ran.status == 1 and "router bfloat16 8 2 True False: " in ran.out and words in ran.out
    assert f"{COUNT - 1} of {COUNT} instantiations agree" in ran.out


@without_metal
def test_without_an_emulator_there_is_one_line(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> None:
        raise Unavailable("no emulator: run this from a checkout")

    monkeypatch.setattr(emulation, "find", find)
    ran = command_line("doctor", "--kernels", "--json")
    assert (ran.status, ran.out, ran.err) == (2, "", "error: no emulator: run this from a checkout\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_it_can_be_stopped(
    as_json: bool, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Findings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        examine,
        "steps",
        lambda *_, **__: iter([Step("checking", lambda found: found.checked.append(GOOD)), Step("checking", stop)]),
    )
    path = tmp_path / "receipt.json"
    planned = len(examine.uses(["demo"], everything=False))
    args = ("doctor", "--kernels", "--model", "demo", "--output", str(path), *(["--json"] if as_json else []))
    ran = command_line(*args)
    assert ran.status == 130 and not path.exists()
    said = ran.err if as_json else ran.out
    assert "1 of 1 instantiations agree" in said and (not as_json or not ran.out)
    assert ran.err.endswith(
        f"interrupted: 1 of {planned} instantiations were checked and 0 timed; no receipt was written\n"
    )


# -- kernels on a Mac --------------------------------------------------------------------------------------------------


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Mac whose examination finds what there is in ``findings``."""
    asked: dict[str, Any] = {"checked": [GOOD]}
    monkeypatch.setattr(machine, "machine", lambda: MAC)
    monkeypatch.setattr(machine, "has_metal", lambda: True)
    monkeypatch.setattr(machine, "mode", lambda: ("metal", "a GPU"))
    monkeypatch.setattr(doctor_text, "mode", lambda: ("metal", "a GPU"))

    def steps(used: Any, verifier: Any, limit: Any, *, timed: bool) -> Any:
        asked.update(used=used, limit=limit, timed=timed)

        def run(found: Findings) -> None:
            found.__dict__.update(findings(*asked["checked"]).__dict__)

        return iter([Step("all of it", run)])

    monkeypatch.setattr(examine, "steps", steps)
    return asked


def test_a_table_of_times(command_line: CommandLine, mac: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    ran = command_line("doctor", "--kernels", "--output", str(path))
    assert ran.status == 0 and mac["timed"] and mac["limit"] == MAC.bandwidth and len(mac["used"]) > 100
    head, row, *rest = ran.out.split("\n\n")[1].splitlines()
    assert head.split() == [
        "KERNEL",
        "PARAMETERS",
        "VERDICT",
        "ERROR",
        "MS",
        "STOCK",
        "MS",
        "RATIO",
        "GB/S",
        "OF",
        "LIMIT",
    ]
    assert row.split()[-8:] == ["good", "0.96", "0.0200", "0.0800", "0.25", "223", "41", "%"]
    assert rest[0].endswith("by block: 128: 0.0200 ms, 256: 0.0300 ms; in use 256, fastest 128")
    assert rest[1:] == [
        "something was not timed: no memory",
        "1 of 1 instantiations agree with the reference, on Apple M4 Max; the largest error is 0.96 of the tolerance",
    ]
    made = receipt.from_json(path.read_text())
    assert made.sweeps == (SWEEP,) and not made.emulated and "on the GPU" in ran.err


def test_a_refused_kernel_on_a_mac(command_line: CommandLine, mac: dict[str, Any]) -> None:
    mac["checked"] = [GOOD, REFUSED]
    ran = command_line("doctor", "--kernels")
    assert ran.status == 1
    assert "router bfloat16 8: refused, MLX's own operations take its place\n    Unable to build" in ran.out
    assert "    program_source:3:1: error: no\n" in ran.out
    assert "1 of 2 instantiations agree" in ran.out


def test_what_was_looked_at_again_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    old = replace(HELD, kernel="moe_down")
    made = receipt.receipt(MAC, "metal", [HELD, old], findings(GOOD, REFUSED), emulated=False, planned=2)
    doctor_text.machine(made)
    doctor_text.found(made, sys.stdout)
    out = capsys.readouterr().out
    assert out.count("router bfloat16 8: refused") == out.count("moe_down bfloat16 8: refused") == 1


@pytest.mark.parametrize(("share", "shown"), [((0.408, 0.54), "41-54 %"), ((0.4, 0.4), "40 %"), (None, "-")])
def test_a_share_that_is_not_known_exactly(share: Any, shown: str) -> None:
    timing = replace(TIMING, share=share and Limit(*share))
    assert doctor_text._times(receipt.Kernel(GOOD, timing))[-1] == shown
    small = replace(timing, moved=2000)  # what a launch's latency decides has no share
    assert doctor_text._times(receipt.Kernel(GOOD, small))[-2:] == ("-", "-")
    assert doctor_text._times(receipt.Kernel(GOOD, None)) == ("-",) * 5


def test_what_is_wrong() -> None:
    def made(**change: Any) -> receipt.Receipt:
        whole = receipt.receipt(MAC, "metal", [], findings(GOOD), emulated=False, planned=1)
        return replace(whole, **change)

    assert not doctor_text.wrong(made())
    assert doctor_text.wrong(made(verdicts=(HELD,)))
    assert not doctor_text.wrong(made(verdicts=(replace(HELD, current=False),)))
    assert doctor_text.wrong(made(sweeps=(replace(SWEEP, disagreeing=(128,)),)))
    assert doctor_text.wrong(made(kernels=(receipt.Kernel(REFUSED, None),)))
