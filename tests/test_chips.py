"""The table of chips: what it holds, how their names are read, and what a machine's own name for its chip leads to."""

from __future__ import annotations

import pytest

from qwen3_mlx import chips
from qwen3_mlx.chips import CHIPS, Limit, find, limit, variants
from qwen3_mlx.errors import InvalidRequest


@pytest.mark.parametrize(
    "text", ["M4 Max", "M4-Max", "m4max", "Apple M4 Max", "apple-m4-max", "  M4_MAX ", "APPLE M4 MAX"]
)
def test_a_name_as_people_write_it(text: str) -> None:
    assert [(chip.name, chip.bandwidth) for chip in find(text)] == [("M4 Max", 410), ("M4 Max", 546)]


@pytest.mark.parametrize(
    ("text", "bandwidth"),
    [
        ("M4-Max-32", 410),
        ("M4 Max 40-core", 546),
        ("m3max 30 cores", 300),
        ("M3 Max 40 GPU cores", 400),
        ("M5 Max 40 core GPU", 614),
        ("M1-8", 68),
        ("m2 pro", 200),
        ("M5 Ultra", 1200),
        ("m6", 170),
    ],
)
def test_a_variant(text: str, bandwidth: int) -> None:
    (chip,) = find(text)
    assert chip.bandwidth == bandwidth


def test_every_name_leads_to_its_variants_and_every_number_of_cores_to_one() -> None:
    for chip in CHIPS:
        assert chip in find(chip.name) and chip in find(f"Apple {chip.name}")
        for cores in chip.gpu_cores:
            assert find(f"{chip.name}-{cores}") == (chip,)
            assert variants(f"Apple {chip.name}", cores) == (chip,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("M4 Ultra", "(did you mean M4 or M4 Pro or M4 Max?)"),
        ("M4 Mex", "(did you mean M4 or M4 Pro or M4 Max?)"),
        ("N4 Max", "(did you mean M4 Max or"),
        ("M9", "no chip 'M9' is known; the chips are M1, M1 Pro"),
        ("", "no chip '' is known; the chips are"),
        ("RTX 4090", "no chip 'RTX 4090' is known; the chips are"),
        ("M4 Max 36", "M4 Max has 32 or 40 GPU cores, not 36"),
        ("M6 12 apples", "no chip 'M6 12 apples' is known"),
    ],
)
def test_a_chip_that_is_not_there(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_is_in_order() -> None:
    """Of a name's variants the one with more cores, which comes last, has more bandwidth; memory goes upwards."""
    for chip in CHIPS:
        assert list(chip.gpu_cores) == sorted(chip.gpu_cores) and list(chip.memory) == sorted(chip.memory)
        same = [each for each in CHIPS if each.name == chip.name]
        assert len({each.bandwidth for each in same}) == len(same)
        assert same == sorted(same, key=lambda each: (each.gpu_cores[0], each.bandwidth))


@pytest.mark.parametrize(
    ("device", "cores", "expected"),
    [
        ("Apple M1", 8, (68, 68)),
        ("Apple M2 Ultra", None, (800, 800)),
        ("Apple M4 Pro", 20, (273, 273)),
        ("Apple M4 Pro", 99, (273, 273)),
        ("Apple M4 Max", 40, (546, 546)),
        ("Apple M4 Max", 32, (410, 410)),
        ("Apple M4 Max", None, (410, 546)),
        ("Apple M4 Max", 8, (410, 410)),
        ("Apple M3 Max", 30, (300, 300)),
        ("Apple M5 Max", 38, (460, 460)),
        ("Apple M9 Max", 40, None),
        ("Apple Paravirtual device", None, None),
        ("M4 Max", 40, None),
    ],
)
def test_the_limit_of_a_machine(device: str, cores: int | None, expected: tuple[float, float] | None) -> None:
    assert limit(device, cores) == (None if expected is None else Limit(*expected))


@pytest.mark.parametrize(
    ("memory", "reported"), [(16, 10922.67), (32, 21845.34), (36, 27648.0), (64, 49152.0), (96, 73728.0)]
)
def test_what_metal_recommends(memory: int, reported: float) -> None:
    """``recommendedMaxWorkingSetSize`` in MB (2^20 bytes) as users of llama.cpp have posted it of such machines."""
    assert chips.working_set(memory) / 2**20 == pytest.approx(reported, abs=0.01)
