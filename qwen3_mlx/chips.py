"""Apple's chips for Macs: memory bandwidth, GPU cores and memory sizes, as data.

Source: Apple's technical specifications of each Mac (support.apple.com) and its announcements (apple.com/newsroom),
M1 of 2020 to M5 Ultra and M6 of August 2026. Bandwidth is what Apple publishes, in decimal GB/s; of M5 Ultra that is
"1.2 TB/s". Memory sizes are those that Macs with the chip were sold with.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

from .errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Chip:
    """One variant of a chip. ``gpu_cores``: the numbers it is sold with; ``bandwidth``: GB/s (10^9 bytes); ``memory``:
    sizes in GB (2^30 bytes). Variants of one name differ in bandwidth."""

    name: str
    gpu_cores: tuple[int, ...]
    bandwidth: int
    memory: tuple[int, ...]


class Limit(NamedTuple):
    """GB/s; two numbers where it is not known which variant of a chip this is."""

    low: float
    high: float


CHIPS = (
    Chip("M1", (7, 8), 68, (8, 16)),
    Chip("M1 Pro", (14, 16), 200, (16, 32)),
    Chip("M1 Max", (24, 32), 400, (32, 64)),
    Chip("M1 Ultra", (48, 64), 800, (64, 128)),
    Chip("M2", (8, 10), 100, (8, 16, 24)),
    Chip("M2 Pro", (16, 19), 200, (16, 32)),
    Chip("M2 Max", (30, 38), 400, (32, 64, 96)),
    Chip("M2 Ultra", (60, 76), 800, (64, 128, 192)),
    Chip("M3", (8, 10), 100, (8, 16, 24)),
    Chip("M3 Pro", (14, 18), 150, (18, 36)),
    Chip("M3 Max", (30,), 300, (36, 96)),
    Chip("M3 Max", (40,), 400, (48, 64, 128)),
    Chip("M3 Ultra", (60, 80), 819, (96, 256, 512)),
    Chip("M4", (8, 10), 120, (16, 24, 32)),
    Chip("M4 Pro", (16, 20), 273, (24, 48, 64)),
    Chip("M4 Max", (32,), 410, (36,)),
    Chip("M4 Max", (40,), 546, (48, 64, 128)),
    Chip("M5", (8, 10), 153, (16, 24, 32)),
    Chip("M5 Pro", (16, 20), 307, (24, 48, 64)),
    Chip("M5 Max", (32,), 460, (36,)),
    Chip("M5 Max", (40,), 614, (48, 64, 128)),
    Chip("M5 Ultra", (64, 80), 1200, (96, 256, 512)),
    Chip("M6", (12,), 170, (16, 24, 32)),
)
NAMES = tuple(dict.fromkeys(chip.name for chip in CHIPS))

_SPELLING = re.compile(
    r"(?:apple ?)?m(\d+)(?: ?(pro|max|ultra))?(?: (\d+)(?: ?(?:c|cores?|gpu|gpu cores?|core gpu))?)?"
)


def find(text: str) -> tuple[Chip, ...]:
    """The variants of a chip by its name, as people write it (``M4-Max``, ``m4 max``, ``Apple M4 Max``), or the one
    with as many GPU cores as are named behind it (``M4-Max-32``).

    Raises :class:`InvalidRequest` for a chip, or a number of cores, that is not in the table.
    """
    spelled = _SPELLING.fullmatch(re.sub(r"[\s_-]+", " ", text.strip().lower()))
    name = f"M{spelled[1]} {(spelled[2] or '').title()}".strip() if spelled else text.strip()
    variants = tuple(chip for chip in CHIPS if chip.name == name)
    if not variants:
        raise InvalidRequest(f"no chip {text!r} is known{_near(name)}; the chips are {', '.join(NAMES)}", "chip")
    if spelled is None or spelled[3] is None:
        return variants
    cores = int(spelled[3])
    named = tuple(chip for chip in variants if cores in chip.gpu_cores)
    if not named:
        sold = " or ".join(str(count) for chip in variants for count in chip.gpu_cores)
        raise InvalidRequest(f"{name} has {sold} GPU cores, not {cores}", "chip")
    return named


def _near(name: str) -> str:
    """What may have been meant: the chips of that generation, or those spelled alike."""
    near = [chip for chip in NAMES if chip.split()[0] == name.split(" ")[0]]
    if not near and len(name) > 2:  # all names of two characters are alike
        near = difflib.get_close_matches(name.title(), NAMES, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def variants(device: str, gpu_cores: int | None) -> tuple[Chip, ...]:
    """What the chip can be that calls itself ``device`` (``Apple M4 Max``) and has so many GPU cores, if that is known:
    nothing, if it is not in the table."""
    known = tuple(chip for chip in CHIPS if f"Apple {chip.name}" == device)
    if gpu_cores is None or len(known) < 2:
        return known
    # The table goes from few cores to many; a number between belongs to the fewer.
    return tuple(chip for chip in known if chip.gpu_cores[0] <= gpu_cores)[-1:] or known[:1]


def limit(device: str, gpu_cores: int | None) -> Limit | None:
    """The memory-bandwidth limit of a chip by the name that it gives itself; ``None`` for one that is not in the
    table."""
    found = [chip.bandwidth for chip in variants(device, gpu_cores)]
    return Limit(min(found), max(found)) if found else None


def working_set(memory: int) -> int:
    """Bytes of ``memory`` (GB) that Metal recommends to take at most: two thirds of up to 32 GB, three quarters of
    more. That is what machines of users report (the tests have a list); recent versions of macOS allow more of 128
    GB."""
    return (memory << 30) * 2 // 3 if memory <= 32 else (memory << 30) * 3 // 4
