from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from qwen3_mlx.cli.live import PLAIN_FROM, _Block, split_blocks

CASES = [
    ("one", "", "one"),
    ("one\n\n", "", "one\n\n"),  # what follows may still belong to it
    ("one\n\ntwo", "one", "two"),
    ("one\n\n  two", "", "one\n\n  two"),
    ("- a\n\n- b", "", "- a\n\n- b"),
    ("1. a\n\n2. b\n\nend", "1. a\n\n2. b", "end"),
    ("```\na\n\nb", "", "```\na\n\nb"),
    ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```", "c"),
    ("````\n```\n\nb\n````\n\nc", "````\n```\n\nb\n````", "c"),
    ("~~~\n```\n\nb", "", "~~~\n```\n\nb"),
    ("a\n\n# b\n\nc", "a\n\n# b", "c"),
    ("a\n\n```py\nx", "a", "```py\nx"),
]


@pytest.mark.parametrize(("text", "done", "rest"), CASES)
def test_only_blocks_that_are_over_are_done(text: str, done: str, rest: str) -> None:
    assert split_blocks(text) == (done, rest)


@given(
    st.lists(st.sampled_from(["a", "\n", "\n\n", "```", "```\n", "- ", "  ", "1. ", "# ", "~~~", "你"]), max_size=30)
)
def test_splitting_loses_nothing_but_blank_ends(pieces: list[str]) -> None:
    text = "".join(pieces)
    done, rest = split_blocks(text)
    assert text.startswith(done) and text.endswith(rest)
    assert not text[len(done) : len(text) - len(rest)].strip()


@given(st.lists(st.sampled_from(["word ", "\n", "\n\n", "```\n", "- ", "1. ", "# ", "\n\nend"]), max_size=30))
def test_what_is_done_stays_done(pieces: list[str]) -> None:
    """However the text goes on, an earlier cut is a cut of the whole, too."""
    text = "".join(pieces)
    cuts = {len(text[:end]) - len(split_blocks(text[:end])[1]) for end in range(len(text) + 1)}
    final = len(text) - len(split_blocks(text)[1])
    assert max(cuts) == final


def drawn(block: _Block, height: int = 10) -> list[str]:
    console = Console(file=io.StringIO(), width=40, height=height, force_terminal=True, color_system=None)
    console.print(block, end="")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_growing_block_shows_what_fits_and_a_whole_one_everything() -> None:
    text = "\n".join(f"- item {i}" for i in range(50))
    assert drawn(_Block(text)) == [f" • item {i}" for i in range(42, 50)]
    assert len(drawn(_Block(text, whole=True))) == 50


def test_lines_leave_room_for_the_terminals_own_echo() -> None:
    lines = drawn(_Block("word 你好 " * 30, whole=True))
    assert len(lines) > 1
    console = Console(width=40)
    assert max(console.render_str(line).cell_len for line in lines) <= 38
    assert not any(line.endswith(" ") for line in lines)


def test_a_huge_block_is_cheap_until_it_is_whole() -> None:
    text = "**x** " * (PLAIN_FROM // 6 + 1)
    assert any("**x**" in line for line in drawn(_Block(text)))
    assert not any("**x**" in line for line in drawn(_Block(text, whole=True)))


def test_addresses_of_links_are_shown() -> None:
    assert "http://evil.example" in "".join(drawn(_Block("[bank](http://evil.example)", whole=True)))
