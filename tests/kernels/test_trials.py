"""A trial names all that its kernel is made of and launched by. Nothing is computed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from qwen3_mlx.kernels import experts, packed_rows
from qwen3_mlx.kernels.attention_trials import ATTENTION, NORM_ROPE, PACK, TABLE
from qwen3_mlx.kernels.linear_trials import LINEAR_PACKED, LINEAR_PLAIN, RMS_NORM
from qwen3_mlx.kernels.metal_source import FOLDER, source
from qwen3_mlx.kernels.moe_trials import DOWN, GATE_UP, GROUPED_DOWN, GROUPED_GATE_UP, ROUTER, UNSORT_SUM
from qwen3_mlx.kernels.verify import Trial

BF16 = mx.bfloat16
# The layout of packed rows is known to the launchers of attention; it launches nothing itself.
LAYOUT = {packed_rows.__file__}
# So are the values that a lane takes at a time, which the grouped kernels share with those for few tokens.
VALUES = {experts.__file__}
TRIALS: list[tuple[Trial, tuple[Any, ...], set[str]]] = [
    (ROUTER, (BF16, 8, 2, True, False), set()),
    (GATE_UP, (BF16, 128, 128, 2, 4, 64, False), set()),
    (DOWN, (BF16, 128, 128, 2, 4, 64, False), set()),
    (GROUPED_GATE_UP, (BF16, 128, 128, 2, 4, 64), VALUES),
    (GROUPED_DOWN, (BF16, 128, 128, 2, 4, 64), VALUES),
    (UNSORT_SUM, (BF16, 128, 2), set()),
    (TABLE, (32, False), LAYOUT),
    (NORM_ROPE, (BF16, 2, 1, 64), LAYOUT),
    (PACK, (BF16, 2, 1, 64, 8, 64), LAYOUT),
    (ATTENTION, (BF16, 4, 64, 8, 64, True, False), LAYOUT),
    (ATTENTION, (BF16, 4, 64, 16, 64, True, False), LAYOUT),
    (LINEAR_PACKED, (BF16, 128, 4, 64), set()),
    (LINEAR_PLAIN, (BF16, 128), set()),
    (RMS_NORM, (BF16, 128), set()),
]


class Launches:
    """Stands in for ``metal_kernel``: the texts of the kernels that were built, and the files that launched them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.files: set[str] = set()

    def __call__(self, *, source: str, header: str, **_: Any) -> Callable[..., list[mx.array]]:
        def launch(*, output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            self.texts.append(header + source)
            self.files.add(sys._getframe(1).f_code.co_filename)
            return [mx.zeros(shape, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return launch


@pytest.mark.parametrize(("trial", "parameters", "beside"), TRIALS, ids=lambda x: getattr(x, "kernel", ""))
def test_a_trial_names_the_files_that_it_launches(
    trial: Trial, parameters: tuple[Any, ...], beside: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches()
    monkeypatch.setattr(mx.fast, "metal_kernel", launches)
    trial.error(*parameters)
    assert "".join(dict.fromkeys(launches.texts)) == "".join(map(source, trial.sources))
    assert launches.files | beside == set(trial.launchers)
    assert trial.kernel in trial.sources


def test_every_kernel_has_a_trial() -> None:
    tried = {name for trial, _, _ in TRIALS for name in trial.sources}
    assert tried == {path.stem for path in FOLDER.glob("*.metal")}
