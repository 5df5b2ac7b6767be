"""Registers of every Metal kernel, by another compiler's count: a proxy that finds designs which must spill.

    pip install -e '.[registers]'   # NVRTC, from PyPI; needs no GPU
    python -m benchmarks.registers [--every] [--limit 128]

The Metal source that MLX generates is compiled as CUDA (``registers.cuh`` stands in for metal_stdlib) for sm_80, and
ptxas says how many 32-bit registers a thread takes if it may choose; of a kernel that takes more than the limit, how
many bytes it spills when held to it. A thread on Apple's GPUs has 128. Apple's compiler allocates for another machine
and will differ: the count finds designs that must spill, it does not prove that one does not.
``--every``: all instantiations; else those of bfloat16 and groups of 64.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from qwen3_mlx.kernels import decode_attention, experts, grouped_experts, linear, norm_rope, router, unsort_sum
from qwen3_mlx.kernels.packed_rows import words
from qwen3_mlx.kernels.reference import Packed, norms
from tests.metal.sources import recorded

TARGET = 128
SHIM = Path(__file__).with_suffix(".cuh")
_MISSING = "NVRTC is not installed: pip install -e '.[registers]' (or nvidia-cuda-nvrtc-cu12)"
_ATTRIBUTES = {
    "thread_index_in_simdgroup": "threadIdx.x % 32",
    "simdgroup_index_in_threadgroup": "{index} / 32",
    "thread_index_in_threadgroup": "{index}",
    "threadgroup_position_in_grid": "{{blockIdx.x, blockIdx.y, blockIdx.z}}",
    "threadgroups_per_grid": "{{gridDim.x, gridDim.y, gridDim.z}}",
    "threads_per_grid": "{{gridDim.x * blockDim.x, gridDim.y * blockDim.y, gridDim.z * blockDim.z}}",
    "thread_position_in_grid": (
        "{{blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,"
        " blockIdx.z * blockDim.z + threadIdx.z}}"
    ),
}
_INDEX = "((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x)"


class NoNvrtcError(Exception):
    """The compiler is not installed."""


class Count(NamedTuple):
    """Of one thread: 32-bit registers, if ptxas chooses; ``local``: bytes of memory that stand in for registers when
    there are no more than the limit (spills, and arrays that are indexed by numbers only known at run time)."""

    registers: int
    local: int


class Instance(NamedTuple):
    """One instantiation: the kernel, a description of its class, and its Metal source."""

    kernel: str
    about: str
    source: str


def cuda(source: str) -> str:
    """The Metal source of one kernel, as MLX generates it, as CUDA with an entry point ``entry``."""
    found = re.search(r"\[\[kernel\]\] void (\w+)\((.*?)\) \{\n", source, re.DOTALL)
    instance = re.search(r"\[\[kernel\]\] decltype\((.*?)\) \w+", source, re.DOTALL)
    assert found
    call = instance[1] if instance else found[1]
    buffers, arguments = [], []
    for parameter in found[2].split(",\n"):
        declared, attribute = re.fullmatch(r"\s*(.*?)\s*\[\[(.*?)\]\]\s*", parameter, re.DOTALL).groups()  # type: ignore[union-attr]
        name = declared.split()[-1].lstrip("*&")
        if attribute.startswith("buffer"):
            buffers.append(_in_one_space(declared).replace("&", "*"))
            arguments.append(f"*{name}" if "&" in declared else name)
        else:
            arguments.append(_ATTRIBUTES[attribute].format(index=_INDEX))
    body = re.sub(r"template \[\[host_name.*", "", source, flags=re.DOTALL)
    body = body.replace("[[kernel]]", "METAL_FUNC").replace("#pragma clang loop unroll(full)", "#pragma unroll")
    body = re.sub(r"#pragma clang loop unroll_count\((\d+)\)", r"#pragma unroll \1", body)
    body = re.sub(r"\s*\[\[[^\]]*\]\]", "", body)
    body = _in_one_space(body)
    entry = f'extern "C" __global__ void entry({", ".join(buffers)}) {{\n  {call}({", ".join(arguments)});\n}}\n'
    return f"{SHIM.read_text()}\n{body}\n{entry}}}\n"


def _in_one_space(text: str) -> str:
    """Without Metal's address spaces, but for variables of a threadgroup."""
    return re.sub(r"\bthreadgroup\b", "__shared__", re.sub(r"\b(?:device|constant|thread)\b", "", text))


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """NVRTC's library from the package.

    Raises:
        NoNvrtcError: it is not installed.
    """
    try:
        import nvidia.cuda_nvrtc as package  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise NoNvrtcError(_MISSING) from None
    folder = Path(next(iter(package.__path__)))
    library = next((p for name in ("lib/libnvrtc.so.*", "bin/nvrtc64*.dll") for p in sorted(folder.glob(name))), None)
    if library is None:
        raise NoNvrtcError(_MISSING)
    return ctypes.CDLL(str(library))


def count(source: str, limit: int = TARGET) -> Count:
    """The registers of a kernel given as CUDA; its entry point is ``entry``.

    Raises:
        NoNvrtcError: no compiler.
        ValueError: the source does not compile.
    """
    free = _compiled(source)
    return free if free.registers <= limit else Count(free.registers, _compiled(source, limit).local)


def _compiled(source: str, limit: int | None = None) -> Count:
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    options = [b"--gpu-architecture=sm_80", b"--std=c++17", b"--ptxas-options=--verbose", b"--disable-warnings"]
    if limit is not None:  # without it ptxas is more modest than with its own maximum of 255
        options.append(f"--maxrregcount={limit}".encode())
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode(errors="replace")
    registers, local = re.search(r"Used (\d+) registers", text), re.search(r"(\d+) bytes stack frame", text)
    if failed or not registers or not local:
        raise ValueError(f"the kernel does not compile as CUDA:\n{text}")
    return Count(int(registers[1]), int(local[1]))


DTYPES = (mx.bfloat16, mx.float16)


def _attention(every: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    kinds = itertools.product((1, 2, 4, 5, 8, 16), (64, 128), (8, 4), (64, 32), DTYPES, (1, 2, 3), (False, True))
    for heads, dim, bits, group, dtype, held, split in kinds:
        if not every and (group, dtype) != (64, mx.bfloat16):
            continue
        width, length = 2 * words(dim, bits, group), 1000 if split else 1
        segment = decode_attention.Segment(mx.zeros((1, 1, 1, width), mx.uint32), mx.zeros((1,), mx.int32))
        arguments = (mx.zeros((1, heads, dim), dtype), [segment] * held, 1.0, [length], bits, group)
        about = f"{heads} heads of {dim}, {held} segment{'s' * (held > 1)}"
        yield "decode_attention", about, functools.partial(decode_attention.attend, *arguments)


def _experts(every: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    for hidden, top_k, bits, group, dtype in itertools.product(
        (2048, 768, 640), (8, 20), (4, 8), (64, 32, 128), DTYPES
    ):
        if not every and (group, dtype) != (64, mx.bfloat16):
            continue

        def stack(out: int, dims: int, bits: int = bits, group: int = group, dtype: mx.Dtype = dtype) -> Packed:
            ends = mx.zeros((1, out, dims // group), dtype)
            return Packed(mx.zeros((1, out, dims * bits // 32), mx.uint32), ends, ends, bits, group)

        chosen, shares = mx.zeros((1, top_k), mx.uint32), mx.zeros((1, top_k))
        x, inner = mx.zeros((1, hidden), dtype), mx.zeros((1, top_k, hidden), dtype)
        if top_k == 8:
            up = functools.partial(experts.gate_up_swiglu, x, chosen, stack(256, hidden))
            yield "moe_gate_up", f"{experts.values(hidden, 16)} values a lane", up
        down = functools.partial(experts.down_sum, inner, chosen, shares, stack(128, hidden))
        yield "moe_down", f"{experts.values(hidden, 8)} values a lane, {top_k} experts", down


def _grouped(every: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    groups = grouped_experts.Groups(mx.zeros((72,), mx.uint32), mx.zeros((9,), mx.uint32))
    yield "moe_groups", "all", functools.partial(grouped_experts.group, mx.zeros((9, 8), mx.uint32), 8)
    for hidden, bits, group, dtype in itertools.product((2048, 768), (4, 8), (64, 32, 128), DTYPES):
        if not every and (group, dtype) != (64, mx.bfloat16):
            continue
        values = functools.partial(experts.values, hidden)

        def stack(out: int, dims: int, bits: int = bits, group: int = group, dtype: mx.Dtype = dtype) -> Packed:
            ends = mx.zeros((8, out, dims // group), dtype)
            return Packed(mx.zeros((8, out, dims * bits // 32), mx.uint32), ends, ends, bits, group)

        x, inner = mx.zeros((9, hidden), dtype), mx.zeros((9, 8, hidden), dtype)
        up = functools.partial(grouped_experts.gate_up_swiglu, x, groups, 8, stack(256, hidden))
        yield "moe_gate_up_grouped", f"{values(16)} values a lane", up
        down = functools.partial(grouped_experts.down_sum, inner, groups, mx.zeros((9, 8)), stack(128, hidden))
        yield "moe_down_grouped", f"{values(8)} values a lane", down
    for dtype in DTYPES if every else DTYPES[:1]:
        y, order = mx.zeros((72, 2048), dtype), mx.zeros((72,), mx.uint32)
        yield "moe_unsort_sum", "all", functools.partial(unsort_sum.unsort_sum, y, order, mx.zeros((9, 8)))


def _others(every: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    for count_, top_k, normalise, dtype in itertools.product(
        (128, 512, 1024), (8, 40), (True, False), (*DTYPES, mx.float32)
    ):
        if every or dtype == mx.bfloat16:
            logits = mx.zeros((1, count_), dtype)
            yield "router", f"{count_} experts", functools.partial(router.route, logits, top_k, normalise)
    for dim, dtype in itertools.product((64, 128), DTYPES):
        if not every and dtype != mx.bfloat16:
            continue
        turns, offsets = mx.zeros((dim // 2,), mx.uint64), mx.zeros((9,), mx.int32)
        yield "norm_rope_table", "all", functools.partial(norm_rope.rotation, turns, offsets, 1)
        weight = mx.zeros((dim,), dtype)
        common = mx.zeros((1, 1, 4 * dim), dtype), norms(weight, weight, 1e-6, 2, 1), mx.zeros((1, 1, dim))
        yield "norm_rope", f"heads of {dim}", functools.partial(norm_rope.norm_rope, *common)
        for bits, group in itertools.product((8, 4), (64, 32)):
            pack = functools.partial(norm_rope.norm_rope_pack, *common, bits, group)
            yield "norm_rope_pack", f"heads of {dim}", pack


def _deterministic(every: bool) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """What runs only with ``deterministic=True``."""
    for dims, dtype in itertools.product((2048, 768, 640), DTYPES if every else DTYPES[:1]):
        x, plain = mx.zeros((9, dims), dtype), mx.zeros((8, dims), dtype)
        yield "linear_plain", f"of {dims}", functools.partial(linear.linear, x, plain)
        yield "rms_norm", f"of {dims}", functools.partial(linear.rms_norm, x, plain[0], 1e-6)
        for bits, group in itertools.product((4, 8), (64, 32, 128) if every else (64,)):
            ends = mx.zeros((8, dims // group), dtype)
            packed = Packed(mx.zeros((8, dims * bits // 32), mx.uint32), ends, ends, bits, group)
            yield "linear_packed", f"of {dims}", functools.partial(linear.linear, x, packed)
    for heads, dim, length in itertools.product((1, 2, 4, 5, 8, 16), (64, 128), (1, 1000)):
        queries, keys = mx.zeros((1, heads, dim), DTYPES[0]), mx.zeros((1, 1, 8, dim), DTYPES[0])
        held = mx.zeros((1,), mx.int32), 1.0, [length]
        attend = functools.partial(decode_attention.attend_dense, queries, keys, keys, *held)
        yield "decode_attention", f"{heads} heads of {dim}, not packed", attend


def instances(every: bool) -> list[Instance]:
    """The instantiations of all kernels, each once."""
    found: dict[str, Instance] = {}
    groups = (_others, _experts, _grouped, _attention, _deterministic)
    for kernel, about, run in itertools.chain.from_iterable(group(every) for group in groups):
        for source in recorded(run):
            name = source.kernel.removeprefix("qwen3_")
            found.setdefault(source.text, Instance(name, about if name == kernel else "all", source.text))
    return list(found.values())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--every", action="store_true", help="all instantiations")
    p.add_argument("--limit", type=int, default=TARGET, help="registers of a thread")
    given = p.parse_args()
    try:
        nvrtc()
    except NoNvrtcError as missing:
        sys.exit(str(missing))
    held = instances(given.every)
    with ThreadPoolExecutor() as pool:
        counts = list(pool.map(lambda instance: count(cuda(instance.source), given.limit), held))
    classes: dict[tuple[str, str], list[Count]] = {}
    for instance, found in zip(held, counts, strict=True):
        classes.setdefault((instance.kernel, instance.about), []).append(found)
    print(f"  {'':46} {'instantiations':>14} {'registers':>10} {'local bytes':>12}")
    for (kernel, about), of in classes.items():
        least, most = min(one.registers for one in of), max(one.registers for one in of)
        over = sum(one.registers > given.limit for one in of)
        note = f"  {over} over {given.limit}, and then held to it" if over else ""
        print(f"  {f'{kernel}: {about}':46} {len(of):14} {least:5}-{most:4} {max(one.local for one in of):12}{note}")


if __name__ == "__main__":
    main()
