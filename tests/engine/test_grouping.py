"""Which rows lie together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from qwen3_mlx.engine.grouping import GROUPS, WORTH, groups, halved, partition

SIZES = st.lists(st.integers(1, 160).map(lambda n: n * 256), max_size=7)


def cost(parts: list[list[int]]) -> int:
    return sum(len(part) * max(part) for part in parts) + WORTH * (len(parts) - 1)


def every_way(sizes: list[int]) -> Iterator[list[list[int]]]:
    """To part them, by size, into so many groups at most."""
    sizes = sorted(sizes)
    for count in range(min(GROUPS, len(sizes))):
        for cuts in itertools.combinations(range(1, len(sizes)), count):
            yield [sizes[a:b] for a, b in itertools.pairwise([0, *cuts, len(sizes)])]


@given(SIZES.filter(bool))
def test_memory_is_the_least_that_so_many_groups_can_have(sizes: list[int]) -> None:
    rows = {f"row {index}": size for index, size in enumerate(sizes)}
    parts = partition(rows)
    assert sorted(itertools.chain(*parts)) == sorted(rows)
    assert cost([[rows[row] for row in part] for part in parts]) == min(map(cost, every_way(sizes)))


@given(SIZES, st.integers(1, 160).map(lambda n: n * 256))
def test_no_row_makes_what_others_take_less(sizes: list[int], more: int) -> None:
    def taken(sizes: list[int]) -> int:
        parts = groups(sizes)
        return sum(rows * capacity for rows, capacity in parts) + WORTH * len(parts)

    assert taken(sizes) + more <= taken([*sizes, more])


def test_examples() -> None:
    assert groups([]) == []
    assert groups([1280] * 8) == [(8, 1280)]
    assert groups([1280, 2048]) == [(2, 2048)], "a group of its own would save less than it costs"
    assert groups([1280] * 3 + [2048]) == [(1, 2048), (3, 1280)]
    assert groups([32_768] + [1280] * 7) == [(1, 32_768), (7, 1280)]
    assert groups([32_768, 1280, 30_000, 1536]) == [(1, 32_768), (1, 30_000), (2, 1536)]
    assert groups([256 << n for n in range(8)]) == [(1, 32_768), (1, 16_384), (2, 8192), (4, 2048)]


def test_rows_of_a_size_are_never_parted() -> None:
    rows = {n: 32_768 >> n // 2 for n in range(16)}
    for part in partition(rows):
        assert {rows[row] for row in part}.isdisjoint(size for row, size in rows.items() if row not in part)


@given(st.lists(st.sampled_from([None, 0, 1, 2]), max_size=20))
def test_halves_are_of_all_rows_and_neither_is_nearly_all(places: list[int | None]) -> None:
    rows = list(range(len(places)))
    where = {row: group for row, group in enumerate(places) if group is not None}
    halves = halved(rows, where)
    assert sorted(itertools.chain(*halves)) == rows and all(halves)
    if len(rows) > 1:
        few, many = sorted(map(len, halves))
        assert many <= 3 * few
    again = halved(rows, {row: index for index, half in enumerate(halves) for row in half})
    assert list(map(sorted, again)) == list(map(sorted, halves)), "and there they stay"


def test_who_joins_moves_nobody() -> None:
    where = dict.fromkeys("abcd", 0) | dict.fromkeys("efgh", 1)
    assert halved("abcdefgh", where) == [[*"abcd"], [*"efgh"]]
    assert halved("abcdefghi", where) == [[*"abcdi"], [*"efgh"]]
    assert halved("efghixyab", where) == [[*"abixy"], [*"efgh"]], "into the half that fewer are left in"
    assert halved("efghij", where) == [[*"efgh"], [*"ij"]]
    assert halved("abcd", where) == [[*"ab"], [*"dc"]], "nobody is left in the other"
    assert halved("a", where) == [["a"]] and halved("", where) == []
