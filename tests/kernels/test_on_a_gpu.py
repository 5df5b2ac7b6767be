"""The Metal kernels on a real GPU, at the sizes of the released checkpoints. Skipped where MLX finds none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import qwen3_mlx
from qwen3_mlx import Qwen3, SamplingParams
from qwen3_mlx.convert import convert
from qwen3_mlx.doctor.catalogue import released
from qwen3_mlx.kernels.verify import Trial
from tests.engine.test_batch import asked, said

pytestmark = [
    pytest.mark.metal,
    pytest.mark.skipif(not mx.metal.is_available(), reason="needs an Apple GPU"),
]
BF16, F16 = mx.bfloat16, mx.float16


def cases() -> Iterator[tuple[Trial, tuple[Any, ...]]]:
    """What the released models use, and the same in float16 for checkpoints that are stored in it."""
    for use in released():
        yield use.trial, use.parameters
        if use.parameters[0] == BF16:
            yield use.trial, (F16, *use.parameters[1:])


@pytest.mark.parametrize(("trial", "parameters"), list(cases()), ids=lambda x: getattr(x, "kernel", None))
def test_a_kernel_agrees_with_the_reference(trial: Trial, parameters: tuple[Any, ...]) -> None:
    error = trial.error(*parameters)
    mx.synchronize()
    assert error.item() <= 1


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("kv_bits", [None, 8, 4])
def test_the_demo_answers_with_kernels(name: str, kv_bits: int | None, tmp_path: Path) -> None:
    folder = tmp_path / name
    convert(Path(qwen3_mlx.__file__).parent / "demo" / name, folder, bits=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kernel that gives way says so
        with Qwen3.load(folder, kernels="metal", kv_bits=kv_bits) as q:
            done = q.generate("How many e are in nevertheless?", params=SamplingParams(temperature=0, max_tokens=160))
    assert done.content == "The letter e appears 4 times in nevertheless."


@pytest.mark.parametrize(("name", "bits", "kv_bits"), [("demo", None, None), ("demo", 4, 8), ("demo-moe", 4, None)])
def test_deterministic_requests_say_the_same_in_any_company(name: str, bits: int | None, kv_bits: int | None) -> None:
    """Alone; then together, the cache cold and warm."""
    options: dict[str, Any] = {"bits": bits, "kv_bits": kv_bits, "kernels": "metal", "deterministic": True}
    with Qwen3.load(name, **options, max_batch=1, prefix_cache_bytes=0) as q:
        alone = [said(list(asked(index)(q))) for index in range(24)]
    with Qwen3.load(name, **options, max_batch=7) as q:
        for _ in ("cold", "warm"):
            streams = [asked(index)(q) for index in range(24)]
            assert [said(list(stream)) for stream in streams] == alone
