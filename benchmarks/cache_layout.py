"""Contiguous rows or pages for the key/value cache: both at the sizes of Qwen3-30B-A3B, in MLX.

    python -m benchmarks.cache_layout [--layers 48] [--context 4096] [--shared 32768]

Counts what holds anywhere: launches, bytes moved, peak memory, whether a buffer is updated in place while the step
before is still running, and the host time of building a step. The decision drawn from it is in
docs/cache-layout.md; run it on a Mac to see whether the same buffers are copied there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .dispatches import launches
from .sides import interleave, report

HEADS, KV_HEADS, WIDTH = 32, 4, 128
PAGE = 64  # tokens


class Rows:
    """``[batch, kv_heads, capacity, width]`` for each of keys and values; a row of the batch has its own length."""

    def __init__(self, batch: int, capacity: int) -> None:
        shape = (batch, KV_HEADS, capacity, WIDTH)
        self.buffers = [mx.zeros(shape, mx.bfloat16), mx.zeros(shape, mx.bfloat16)]
        self.batch = batch
        self.which = mx.arange(batch)[:, None], mx.arange(KV_HEADS)[None]

    def append(self, new: mx.array, lengths: list[int]) -> None:
        """``new [batch, kv_heads, 1, width]`` behind what each row holds."""
        row, head = self.which
        at = mx.array(lengths)[:, None]
        for i, buffer in enumerate(self.buffers):
            buffer[row, head, at] = new[:, :, 0]
            self.buffers[i] = buffer

    def dense(self, lengths: list[int]) -> list[mx.array]:
        """Keys and values up to the longest row, as stock attention takes them."""
        return [buffer[:, :, : max(lengths) + 1] for buffer in self.buffers]

    def share(self, count: int, length: int) -> None:
        """``count`` further rows that begin like row 0."""
        self.buffers = [mx.concatenate([b, *[b[:1]] * count]) for b in self.buffers]


class Pages:
    """One pool ``[pages, page, kv_heads, width]`` for each of keys and values; a row is a list of pages."""

    def __init__(self, batch: int, capacity: int) -> None:
        each = -(-capacity // PAGE)
        shape = (batch * each, PAGE, KV_HEADS, WIDTH)
        self.buffers = [mx.zeros(shape, mx.bfloat16), mx.zeros(shape, mx.bfloat16)]
        self.batch = batch
        self.tables = [list(range(row * each, (row + 1) * each)) for row in range(batch)]

    def append(self, new: mx.array, lengths: list[int]) -> None:
        """As :meth:`Rows.append`."""
        page = mx.array([table[n // PAGE] for table, n in zip(self.tables, lengths, strict=True)])
        slot = mx.array([n % PAGE for n in lengths])
        for i, buffer in enumerate(self.buffers):
            buffer[page, slot] = new[:, :, 0]
            self.buffers[i] = buffer

    def dense(self, lengths: list[int]) -> list[mx.array]:
        """As :meth:`Rows.dense`; stock attention knows no pages, so they are gathered."""
        pages = max(lengths) // PAGE + 1
        table = mx.array([t[:pages] for t in self.tables])
        shape = (self.batch, pages * PAGE, KV_HEADS, WIDTH)
        return [mx.swapaxes(mx.reshape(b[table], shape), 1, 2)[:, :, : max(lengths) + 1] for b in self.buffers]

    def share(self, count: int, length: int) -> None:
        """As :meth:`Rows.share`: whole pages are shared, a page that is not full is copied."""
        full, rest = divmod(length, PAGE)
        for _ in range(count):
            self.tables.append(self.tables[0][: full + (rest > 0)])
        if rest:
            self.buffers = [mx.concatenate([b, *[b[full : full + 1]] * count]) for b in self.buffers]


class Tail(Rows):
    """Rows with an open tail: a step writes to ``[batch, kv_heads, PAGE, width]``, which is moved behind the rows when
    it is full, with no step in flight. Stock attention needs both in one piece; a kernel of ours can read two."""

    def __init__(self, batch: int, capacity: int) -> None:
        super().__init__(batch, capacity)
        shape = (batch, KV_HEADS, PAGE, WIDTH)
        self.open = [mx.zeros(shape, mx.bfloat16), mx.zeros(shape, mx.bfloat16)]
        self.used, self.sealed = 0, [0] * batch

    def append(self, new: mx.array, lengths: list[int]) -> None:
        if self.used == PAGE:
            self.seal()
        if self.used == 0:
            self.sealed = lengths
        for i, tail in enumerate(self.open):
            tail[:, :, self.used : self.used + 1] = new
            self.open[i] = tail
        self.used += 1

    def seal(self) -> None:
        """Move the tail behind each row, in place: what read the rows has finished."""
        mx.eval(self.open)
        row, head = self.which
        at = mx.array(self.sealed)[:, None] + mx.arange(PAGE)
        for i, buffer in enumerate(self.buffers):
            buffer[row[..., None], head[..., None], at[:, None]] = self.open[i]
            self.buffers[i] = buffer
        mx.eval(self.buffers)
        self.used = 0

    def dense(self, lengths: list[int]) -> list[mx.array]:
        """The sealed part only: joining the tail to it would copy what the layout is there to leave alone."""
        return [buffer[:, :, : max(1, max(self.sealed))] for buffer in self.buffers]


LAYOUTS: dict[str, Any] = {"rows": Rows, "pages": Pages, "tail": Tail}


def step(layers: list[Any], x: mx.array, lengths: list[int]) -> mx.array:
    """The cache's share of a decode step: append and attend in every layer (an open tail is written, not attended)."""
    for layer in layers:
        layer.append(x[:, :KV_HEADS], lengths)
        keys, values = layer.dense(lengths)
        x = mx.fast.scaled_dot_product_attention(x, keys, values, scale=WIDTH**-0.5).astype(mx.bfloat16)
    return x


def held(layers: list[Any]) -> list[mx.array]:
    return [buffer for layer in layers for buffer in layer.buffers]


def fill(kind: str, count: int, batch: int, capacity: int) -> list[Any]:
    layers = [LAYOUTS[kind](batch, capacity) for _ in range(count)]
    mx.eval(held(layers))
    return layers


def copied(kind: str, context: int, batch: int, ahead: bool, count: int = 4, steps: int = 12) -> float:
    """Peak memory above the buffers, in layers' worth of buffers, of some decode steps in ``count`` layers: near 0 when
    the buffers are updated in place. ``ahead``: each step is handed to the device while the one before it runs, as
    every decoding loop does. What a running step reads cannot be updated in place; MLX lets ten tasks (on a GPU:
    command buffers) run, so only a step longer than that is safe."""
    layers = fill(kind, count, batch, context)
    one = sum(b.nbytes for b in layers[0].buffers)
    x = mx.zeros((batch, HEADS, 1, WIDTH), mx.bfloat16)
    mx.eval(x)
    mx.clear_cache()
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    lengths = [context - steps - 2 - 7 * row for row in range(batch)]
    before = x
    for n in range(steps):
        out = x
        for layer in layers:
            layer.append(out[:, :KV_HEADS], [length + n for length in lengths])
            seen = mx.max(layer.buffers[0]) + mx.max(layer.buffers[1])
            out = out + 0 * seen  # a reader that needs no copy of its own
        mx.async_eval(out)
        if not ahead:
            mx.eval(out, held(layers))
        mx.eval(before)
        before = out
    mx.eval(before, held(layers))
    return (mx.get_peak_memory() - active) / one


def nodes(kind: str, context: int, batch: int) -> int:
    """Launches of one layer's append, and of the gather of pages that stock attention needs."""
    layer = LAYOUTS[kind](batch, context)
    lengths = [context - 2 - 5 * row for row in range(batch)]
    inputs = [*layer.buffers, *getattr(layer, "open", [])]
    q = mx.zeros((batch, HEADS, 1, WIDTH), mx.bfloat16)

    def cache_work(*given: mx.array) -> tuple[mx.array, ...]:
        layer.buffers, new = list(given[:2]), given[-1]
        if kind == "tail":
            layer.open = list(given[2:4])
        layer.append(new[:, :KV_HEADS], lengths)
        return (*layer.dense(lengths), *layer.buffers, *getattr(layer, "open", []))

    return launches(cache_work, *inputs, q).total()


def sharing(kind: str, shared: int, count: int = 3) -> tuple[float, float]:
    """(bytes added per layer, seconds) when ``count`` more rows take over a prefix of ``shared`` tokens."""
    layer = fill(kind, 1, 1, shared)[0]
    before, begin = mx.get_active_memory(), time.perf_counter()
    layer.share(count, shared - 11)
    mx.eval(layer.buffers)
    return mx.get_active_memory() - before, time.perf_counter() - begin


def building(layers: list[Any], batch: int, context: int) -> Callable[[], float]:
    x = mx.zeros((batch, HEADS, 1, WIDTH), mx.bfloat16)
    lengths = [context - 2 - 5 * row for row in range(batch)]

    def run() -> float:
        before = [list(layer.buffers) for layer in layers]
        begin = time.thread_time()
        step(layers, x, lengths)
        spent = time.thread_time() - begin
        for layer, buffers in zip(layers, before, strict=True):
            layer.buffers = [mx.array(b) for b in buffers]
        return spent * 1e3

    return run


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--layers", type=int, default=48)
    p.add_argument("--context", type=int, default=4096)
    p.add_argument("--shared", type=int, default=32768)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--runs", type=int, default=7)
    args = p.parse_args()
    print(f"{KV_HEADS} KV heads x {WIDTH}, bf16, {args.batch} rows of {args.context} tokens; pages of {PAGE} tokens")
    print(f"  {'':42} " + " ".join(f"{kind:>12}" for kind in LAYOUTS))
    both = lambda f: [f(kind) for kind in LAYOUTS]  # noqa: E731
    show = lambda name, values: print(f"  {name:42} " + " ".join(f"{v:12.4g}" for v in values))  # noqa: E731
    show("launches of an append (+ gather of pages)", both(lambda k: nodes(k, args.context, args.batch)))
    show("layers copied at a time, step by step", both(lambda k: copied(k, args.context, args.batch, False)))
    for count in (1, 2, 4, 8, 16):
        title = f"the same, one step ahead, {count} layers"
        show(title, both(lambda k, n=count: copied(k, args.context // 4, args.batch, True, n)))
    shared = both(lambda k: sharing(k, args.shared))
    show(f"MB a layer for 3 rows sharing {args.shared}", [b / 2**20 for b, _ in shared])
    show(f"GB in {args.layers} layers", [b * args.layers / 2**30 for b, _ in shared])
    show("ms a layer for it", [s * 1e3 for _, s in shared])
    sides = {k: building(fill(k, args.layers, args.batch, args.context), args.batch, args.context) for k in LAYOUTS}
    seen = interleave(sides, args.runs)
    report(f"building a step's graph, {args.layers} layers", "ms", seen, "pages", "rows", more_is_better=False)


if __name__ == "__main__":
    main()
