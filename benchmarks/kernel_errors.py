"""How far every kernel is from float64, in emulation: all instantiations of attention, all packings of the others.

    python -m benchmarks.kernel_errors [--jitters 3]

C is the least with ``|error| <= 0.51 ulp + C * 2^-24 * cond`` for every output, ``cond`` the sum of the magnitudes that
make it up; p99.9 the 99.9th percentile of the errors in ulp, of all outputs of a line together; ``kept``: the same of
the outputs whose cond is at most 16 times their size. ``jittered``: with an error of up to 4 ulp in each result of
Metal's fast functions, the worst of several. Minutes at first, for the compiler; the inputs are random normal numbers.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Iterator
from unittest import mock

import mlx.core as mx
import numpy as np

from tests.metal import emulator
from tests.metal.kernels import test_experts as moe
from tests.metal.kernels import test_norm_rope as rope
from tests.metal.kernels import test_router as router
from tests.metal.kernels.attention_cases import EVERY, case, lengths_of, random_errors, run
from tests.metal.kernels.errors import Errors, errors, together
from tests.metal.sources import compile_ahead

DTYPES = {mx.bfloat16: "bf16", mx.float16: "fp16"}
SIZES = (moe.QWEN3_30B, moe.Sizes(3, 640, 384, 3, 5))
Line = tuple[str, list[Errors]]


def attention(jitters: int) -> Iterator[Line]:
    """By heads that share keys, width and dtype: bits, groups, one block and several together."""
    seeds = range(1, jitters + 1)
    for (heads, dim), of in itertools.groupby(EVERY, lambda layout: (layout.q_per_kv, layout.head_dim)):
        launches = [(layout, split) for layout in of for split in (False, True)]
        compile_ahead(functools.partial(run, *case(la, lengths_of(la, split)), la) for la, split in launches)
        for dtype, name in DTYPES.items():
            found = [random_errors(*launch, seeds) for launch in launches if launch[0].dtype == dtype]
            yield f"decode_attention, {heads} x {dim} {name}", [together(part) for part in zip(*found, strict=True)]


def experts() -> Iterator[Line]:
    for (kernel, (launch, expected)), (dtype, name) in itertools.product(moe.BOTH.items(), DTYPES.items()):
        found = []
        for sizes, bits, group in itertools.product(SIZES, (4, 8), (32, 64, 128)):
            c = moe.case(sizes._replace(bits=bits, group=group, dtype=dtype))
            found.append(errors(launch(c), *expected(c)))
        yield f"moe_{kernel}, {name}", [together(found)]


def norm_rope(jitters: int) -> Iterator[Line]:
    for dtype, name in DTYPES.items():
        found: list[list[Errors]] = [[] for _ in range(jitters + 1)]
        for sizes in (sizes for sizes in rope.CASES.values() if sizes.dtype == dtype):
            c = rope.case(sizes)
            want = rope.expected(c)
            for seed in range(jitters + 1):
                with emulator.using(jitter_ulps=4 if seed else 0, jitter_seed=seed):
                    result = rope.run(c)
                found[seed].append(errors(result.queries, want.queries, want.q_cond))
                if result.keys is not None:
                    found[seed].append(errors(result.keys, want.keys, want.k_cond))
        yield f"norm_rope, norm_rope_pack, {name}", [together(part) for part in found]


def router_error() -> float:
    """The largest relative error of a weight."""
    worst = 0.0
    for experts_, top_k, dtype, normalise in itertools.product((8, 128, 1000), (2, 8), DTYPES, (True, False)):
        logits = router.logits_of(8, experts_, dtype)
        _, weights = router.run(logits, top_k, normalise)
        _, want = router.expected(logits, top_k, normalise)
        worst = max(worst, float(np.abs(weights / want - 1).max()))
    return worst


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--jitters", type=int, default=3, help="how many errors of the fast functions are tried")
    jitters = p.parse_args().jitters
    print(f"  {'':34} {'outputs':>8} {'C':>6} {'p99.9':>7} {'kept':>7} | {'C':>6} {'p99.9':>7} {'kept':>7}  jittered")
    instrumented = emulator.using(instrumented=True, check_source=False)
    with mock.patch.object(mx.fast, "metal_kernel", emulator.metal_kernel), instrumented:
        for name, (exact, *jittered) in itertools.chain(experts(), norm_rope(jitters), attention(jitters)):
            print(
                f"  {name:34} {exact.ulps.size:8} {exact.worst_c:6.2f} {exact.p999:7.4f} {exact.p999_kept:7.4f}", end=""
            )
            if jittered:
                worst = max(one.worst_c for one in jittered)
                whole, kept = max(one.p999 for one in jittered), max(one.p999_kept for one in jittered)
                print(f" | {worst:6.2f} {whole:7.4f} {kept:7.4f}", end="")
            print(flush=True)
        print(f"  router: largest relative error of a weight {router_error():.1e}")


if __name__ == "__main__":
    main()
