"""Something found, of every kind."""

from __future__ import annotations

from qwen3_mlx.chips import Limit
from qwen3_mlx.doctor.check import Checked, Held
from qwen3_mlx.doctor.examine import Findings
from qwen3_mlx.doctor.machine import Machine
from qwen3_mlx.doctor.sweep import Sweep
from qwen3_mlx.doctor.timing import Times, Timing

MAC = Machine(
    chip="Apple M4 Max",
    gpu_cores=40,
    metal=True,
    memory=64 << 30,
    working_set=48 << 30,
    system="macOS 15.5",
    python="3.12.3 (arm64)",
    packages={"qwen3-mlx": "0.1.0", "mlx": "0.32.4"},
    bandwidth=Limit(546, 546),
)
ATTENTION = ("bfloat16", "8", "128", "8", "64", "True", "True")
NAMES = ("dtype", "q_per_kv", "head_dim", "bits", "group_size", "split", "few")
GOOD = Checked("decode_attention", ATTENTION, NAMES, ("qwen3:30b-a3b", "qwen3:32b"), "ab" * 32, "good", "0.96", 0.96)
REFUSED = Checked("router", ("bfloat16", "8"), ("dtype", "experts"), ("demo-moe",), "cd" * 32, "refused",
                  "Unable to build metal library from source\nprogram_source:3:1: error: no", None)  # fmt: skip
TIMING = Timing(
    what="1 x 4096 tokens of 4 key/value heads",
    launches=64,
    rounds=7,
    ms={"kernel": Times(0.02, 0.01, 0.03), "stock": Times(0.08, 0.07, 0.09)},
    ratio=0.25,
    moved=4_456_448,
    gbs=222.8,
    share=Limit(0.408, 0.408),
)
SWEEP = Sweep(
    "decode_attention", ATTENTION, 4096, 256, {128: Times(0.02, 0.02, 0.02), 256: Times(0.03, 0.03, 0.03)}, ()
)
HELD = Held("router", ("bfloat16", "8"), "refused", "program_source:3:1: error: no\n  here", True)


def findings(*checked: Checked) -> Findings:
    timed = {(GOOD.kernel, GOOD.parameters): TIMING} if GOOD in checked else {}
    return Findings(list(checked), timed, [SWEEP], ["something was not timed: no memory"])
