"""Keys and values of token sequences that have been through the model, for the next request that begins alike.

A radix tree: every edge holds a run of tokens with their keys and values of all layers, so what sequences share is
stored once. Finding the longest stored prefix compares bytes, run by run: linear in the prompt. What was not used for
the longest time is dropped first, from the leaves up, when the budget is exceeded.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from ..kernels import Entry
from .kv import KVCache, copied

_WIDTH = array("I").itemsize


def packed(tokens: Sequence[int]) -> bytes:
    """Token ids as bytes, which compare fast."""
    return array("I", tokens).tobytes()


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """``run``: the packed tokens from the parent to here; ``held``: their entries, a layer each."""

    run: bytes
    held: list[Entry]
    parent: Node | None
    used: int
    children: dict[bytes, Node] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return len(self.run) // _WIDTH

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for entry in self.held for part in entry)


class PrefixCache:
    """At most ``budget`` bytes of keys and values. Used on the engine's thread, but for :meth:`match`."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.nbytes = 0
        self._root = Node(b"", [], None, 0)
        self._clock = itertools.count(1)

    def match(self, tokens: Sequence[int]) -> tuple[int, list[int]]:
        """How many of ``tokens`` are stored, and what is stored after them on the branch used last."""
        nodes, length = self._walk(packed(tokens))
        last = nodes[-1] if nodes else self._root
        before = sum(node.tokens for node in nodes[:-1])
        following = last.run[(length - before) * _WIDTH :] if nodes else b""
        while children := list(last.children.values()):
            last = max(children, key=lambda node: node.used)
            following += last.run
        return length, array("I", following).tolist()

    def fetch(self, tokens: Sequence[int], cache: KVCache) -> int:
        """Fill an empty ``cache`` of one row with the longest stored prefix of ``tokens``; returns its length."""
        nodes, length = self._walk(packed(tokens))
        if not length:
            return 0
        now, left = next(self._clock), length
        pieces: list[list[Entry]] = [[] for _ in cache.layers]
        for node in nodes:
            node.used = now
            taken = min(left, node.tokens)
            left -= taken
            for own, entry in zip(pieces, node.held, strict=True):
                own.append(tuple(part[:, :, :taken] for part in entry))
        cache.load(pieces)
        return length

    def store(self, tokens: Sequence[int], cache: KVCache, row: int = 0) -> None:
        """Keep a row of ``cache``, which holds ``tokens``. Copies what is not stored yet, and nothing if that alone
        exceeds the budget."""
        run = packed(tokens)
        nodes, length = self._walk(run)
        now = next(self._clock)
        for node in nodes:
            node.used = now
        if length == len(tokens) or cache.row_nbytes(len(tokens) - length) > self.budget:
            return
        if nodes and (spare := length - sum(node.tokens for node in nodes[:-1])) < nodes[-1].tokens:
            nodes[-1] = self._split(nodes[-1], spare)
        parent = nodes[-1] if nodes else self._root
        self._attach(Node(run[length * _WIDTH :], cache.copy(row, length, len(tokens)), parent, now))
        self.shrink(self.nbytes - self.budget)

    def shrink(self, count: int) -> int:
        """Drop what was not used for the longest time, ``count`` bytes or a little more; returns how many."""
        freed = 0
        while freed < count and (leaf := min(self._leaves(), key=lambda node: node.used, default=None)):
            freed += leaf.nbytes
            self._detach(leaf)
        return freed

    def _walk(self, run: bytes) -> tuple[list[Node], int]:
        """The nodes whose runs ``run`` begins with, the last perhaps in part, and how many tokens that is."""
        nodes, at, node = [], 0, self._root
        while child := node.children.get(run[at : at + _WIDTH]):
            nodes.append(child)
            same = _common(child.run, run[at : at + len(child.run)])
            at += same * _WIDTH
            if same < child.tokens:
                break
            node = child
        return nodes, at // _WIDTH

    def _split(self, node: Node, count: int) -> Node:
        """The upper part, of ``count`` tokens, of a node whose lower part becomes its child. Goes layer by layer: at
        most one is held twice. Both are made before either takes its place: copying may fail, and other threads look
        on."""
        parent = node.parent
        assert parent is not None
        halves: list[tuple[Entry, Entry]] = []
        try:
            for index, entry in enumerate(node.held):
                halves.append((_part(entry, 0, count), _part(entry, count, node.tokens)))
                node.held[index] = ()
        except Exception:
            self._join(node, halves)
            raise
        first, second = ([pair[half] for pair in halves] for half in (0, 1))
        upper = Node(node.run[: count * _WIDTH], first, parent, node.used)
        lower = Node(node.run[count * _WIDTH :], second, upper, node.used, node.children)
        upper.children[lower.run[:_WIDTH]] = lower
        for child in lower.children.values():
            child.parent = lower
        parent.children[upper.run[:_WIDTH]] = upper
        return upper

    def _join(self, node: Node, halves: list[tuple[Entry, Entry]]) -> None:
        """Put the first layers of a node together again; where not even that can be done, nothing is kept."""
        try:
            while halves:
                parts = zip(*halves.pop(), strict=True)
                node.held[len(halves)] = tuple(mx.concatenate(list(pair), axis=2) for pair in parts)
                mx.eval(node.held[len(halves)])
        except Exception:
            self._root, self.nbytes = Node(b"", [], None, 0), 0
            raise

    def _attach(self, node: Node) -> None:
        assert node.parent is not None
        node.parent.children[node.run[:_WIDTH]] = node
        self.nbytes += node.nbytes

    def _detach(self, node: Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.run[:_WIDTH]]
        self.nbytes -= node.nbytes

    def _leaves(self) -> Iterator[Node]:
        open_ = list(self._root.children.values())
        while open_:
            node = open_.pop()
            if node.children:
                open_ += node.children.values()
            else:
                yield node


def _common(one: bytes, two: bytes) -> int:
    """How many tokens two runs begin with alike, by halving: bytes compare much faster than a loop runs."""
    if one == two:
        return len(one) // _WIDTH
    low, high = 0, min(len(one), len(two)) // _WIDTH
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * _WIDTH : middle * _WIDTH] == two[low * _WIDTH : middle * _WIDTH]:
            low = middle
        else:
            high = middle - 1
    return low


def _part(entry: Entry, first: int, last: int) -> Entry:
    """A copy, so that the whole is not kept alive."""
    part = tuple(copied(array[:, :, first:last]) for array in entry)
    mx.eval(part)
    return part
