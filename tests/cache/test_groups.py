"""Rows of a batch in groups: who is where, what each holds, and what moving them takes."""

from __future__ import annotations

import itertools

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen3_mlx.cache.groups import GroupedCache, Member
from qwen3_mlx.cache.kv import KVCache
from qwen3_mlx.costs import grown
from qwen3_mlx.kernels import Entry, resolve
from qwen3_mlx.kernels.views import entry
from tests.cache.test_kv import CONFIG, check, fresh


def single(length: int, bits: int | None = None, seed: int = 0) -> KVCache:
    one = KVCache(CONFIG, kv_bits=bits)
    for layer in one.layers:
        layer.append(entry(*fresh(length, 1, seed), layer.packing))
    mx.eval(one.arrays)
    return one


def parted(data: st.DataObject, members: list[Member]) -> list[list[Member]]:
    """In any order, in groups of any sizes."""
    members = data.draw(st.permutations(members))
    cuts = data.draw(st.lists(st.integers(0, len(members)), max_size=3).map(sorted))
    return [members[a:b] for a, b in itertools.pairwise([0, *cuts, len(members)])]


@pytest.mark.parametrize("bits", [None, 8])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_come_and_go_and_keep_what_is_theirs(bits: int | None, data: st.DataObject) -> None:
    """Against a list of what each row was given, through every way that rows are moved."""
    lengths = st.sampled_from([1, 5, 255, 256, 300, 700])
    first = single(data.draw(lengths), bits)
    packing = first.layers[0].packing
    cache, rows = GroupedCache([first]), [[first.layers[0].part(0, 0, first.offset)]]

    for seed in range(data.draw(st.integers(1, 8))):
        move = data.draw(st.sampled_from(["step", "clear", "arrange", "arrange", "row"]))
        at = data.draw(st.integers(0, len(rows) - 1))
        if move == "step":
            new = entry(*fresh(1, len(rows), seed), packing)
            views = [layer.append(new) for layer in cache.layers]
            for index, row in enumerate(rows):
                row.append(tuple(part[index : index + 1] for part in new))
            if all(rows):
                check(views[1], rows)
        elif move == "clear":
            cache.clear([at])
            rows[at] = []
        elif move == "arrange":
            joining = [single(data.draw(lengths), bits, 10 * seed + n) for n in range(data.draw(st.integers(0, 2)))]
            theirs: dict[Member, list[Entry]] = {one: [one.layers[0].part(0, 0, one.offset)] for one in joining}
            stay = [place for place, row in enumerate(rows) if row]
            if not stay + joining:
                continue
            needed = {place: data.draw(lengths) for place in stay[:1]}
            wanted = parted(data, [*stay, *joining])
            places = cache.arrange(wanted, needed, data.draw(st.booleans()))
            each = iter(places)
            together = [{next(each) for _ in range(group.batch)} - {None} for group in cache.groups]
            asked = [set(group) for group in wanted if group]
            assert not list(each) and len(together) == len(asked) and all(group in together for group in asked)
            for place, count in needed.items():
                assert cache.capacities[places.index(place)] >= count
            rows = [[] if m is None else theirs[m] if isinstance(m, KVCache) else rows[m] for m in places]
        elif rows[at]:
            one = cache.row(at)
            rows_before, rows[at] = rows[at], []
            cache.clear([at])
            new = entry(*fresh(1, 1, seed), packing)
            views = [layer.append(new) for layer in one.layers]
            check(views[1], [[*rows_before, new]])
        for row, length in zip(rows, cache.lengths.each, strict=True):
            assert not row or length == sum(part[0].shape[2] for part in row)


def test_places_are_kept_and_filled_before_there_are_more() -> None:
    cache = GroupedCache([single(100, seed=n) for n in range(4)])
    assert cache.arrange([[0, 1, 2, 3]]) == [0, 1, 2, 3] and len(cache.groups) == 1
    cache.clear([1])
    assert cache.arrange([[3, 2, 0]]) == [0, None, 2, 3]
    one, two, long = single(50), single(60), single(2000)
    assert cache.arrange([[long], [3, 0, 2, one, two]]) == [0, one, 2, 3, two, long]
    assert [(group.batch, group.capacity) for group in cache.groups] == [(5, 256), (1, 2048)]
    assert cache.groups[1] is long, "a group of one is never copied"
    assert cache.arrange([[0, 1, 2, 4], [5, 3]]) == [0, 1, 2, 4, 5, 3], "a place that was moved from is given up"
    assert cache.arrange([[0, 1, 2, 3]]) == [0, 1, 2, 3] and cache.capacities == [256] * 4
    cache.clear([0, 2])
    assert cache.arrange([[1, 3]]) == [1, 3], "half are"
    cache.clear([0, 1])
    assert cache.nbytes == 0, "memory of nobody is given back at once"


def test_a_row_alone_in_its_group_leaves_without_a_copy() -> None:
    cache = GroupedCache([single(100), single(300)])
    group = cache.groups[1]
    assert cache.row(1) is group and cache.nbytes == cache.groups[0].nbytes
    assert cache.row(0).capacity == grown(0, 100)


def test_arranging_and_joining_hold_one_layer_twice_at_most() -> None:
    cache, one = GroupedCache([single(5000, seed=n) for n in range(4)]), single(4000)
    cache.arrange([[0, 1, 2, 3]])
    cache.clear([2])
    mx.clear_cache()
    held, small = cache.nbytes + one.nbytes, one.nbytes
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    cache.arrange([[0, 1, 3], [one]])
    assert mx.get_peak_memory() - before < 100_000 and cache.nbytes == held, "nothing is copied"
    cache.arrange([[0, 1, 3, 4]])
    assert mx.get_peak_memory() - before < 100_000, "in place"
    assert mx.get_active_memory() == before - small
    cache.clear([1])
    mx.reset_peak_memory()
    cache.arrange([[0, 2, 3]], pack=True)
    assert mx.get_peak_memory() - before < 1.1 * cache.nbytes / 3
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    cache.arrange([[0, 2], [1]])
    assert mx.get_peak_memory() - before < 1.1 * cache.nbytes / 3, "a row moves out"
    mx.reset_peak_memory()
    cache.arrange([[0, 1, 2]])
    assert mx.get_peak_memory() - before < 1.1 * cache.nbytes / 3, "and back"
    assert mx.get_active_memory() == before
    mx.reset_peak_memory()
    cache.arrange([[0], [1], [2]])
    assert mx.get_peak_memory() - before < 0.7 * cache.nbytes / 3, "all rows move out, keys before values"


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("mode", ["reference", "emulate"])
def test_attention_by_groups_is_that_of_each_row_alone(mode: str, bits: int | None) -> None:
    kernels, lengths = resolve(mode), (700, 3, 256, 40)  # type: ignore[arg-type]
    alone, together = ([single(length, bits, n) for n, length in enumerate(lengths)] for _ in range(2))
    cache = GroupedCache(together)
    places = cache.arrange([[0], [1, 3], [2]])
    assert places == [0, 1, 3, 2]
    queries, new = mx.random.normal((4, 4, 1, 64), key=mx.random.key(0)), fresh(1, 4, 9)
    packed = entry(*new, alone[0].layers[0].packing)
    out = kernels.attend(queries, cache.layers[0].append(packed), 0.125)
    for place, row in enumerate([0, 1, 3, 2]):
        at = slice(place, place + 1)
        view = alone[row].layers[0].append(tuple(part[at] for part in packed))
        assert mx.array_equal(kernels.attend(queries[at], view, 0.125), out[at])
