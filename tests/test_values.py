"""Value classes are what ``dataclass(frozen=True, slots=True)`` makes of the same body."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, Generic, TypeVar, get_type_hints

import pytest

from qwen3_mlx.types import Completion, SamplingParams, Timings, Usage
from qwen3_mlx.values import frozen

T = TypeVar("T")


@frozen
class Point:
    """A point."""

    x: int
    y: float = 0.5
    tags: list[str] = field(default_factory=list)
    note: str = field(default="", compare=False, repr=False)

    @property
    def doubled(self) -> int:
        return 2 * self.x


@frozen
class One:
    only: float


@frozen
class Box(Generic[T]):
    held: T


def twin() -> Any:
    """The same class from the standard library."""

    @dataclass(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: float = 0.5
        tags: list[str] = field(default_factory=list)
        note: str = field(default="", compare=False, repr=False)

    Point.__qualname__ = "Point"
    return Point


def outcome(call: Any) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize(
    "given", [((1,), {}), ((1, 2.0, ["a"], "n"), {}), ((), {"x": 3, "note": "z"}), ((), {}), ((1, 2, 3, 4, 5), {})]
)
def test_made_and_shown_as_its_twin(given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    args, named = given
    ours, theirs = (outcome(lambda made=made: made(*args, **named)) for made in (Point, twin()))
    if isinstance(theirs, type):
        assert ours is theirs
        return
    assert repr(ours) == repr(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert dataclasses.astuple(ours) == dataclasses.astuple(theirs)
    assert repr(dataclasses.replace(ours, x=9)) == repr(dataclasses.replace(theirs, x=9))


def test_its_class_is_described_as_its_twin() -> None:
    theirs = twin()
    assert str(inspect.signature(Point)) == str(inspect.signature(theirs))
    assert Point.__init__.__qualname__.endswith("Point.__init__")
    assert get_type_hints(Point.__init__) == {
        "x": int,
        "y": float,
        "tags": list[str],
        "note": str,
        "return": type(None),
    }
    assert (Point.__slots__, Point.__match_args__, Point.__doc__) == (
        theirs.__slots__,
        theirs.__match_args__,
        theirs.__doc__,
    )
    assert dataclasses.is_dataclass(Point) and [f.name for f in dataclasses.fields(Point)] == ["x", "y", "tags", "note"]
    assert Point(4).doubled == 8 and Box[int](3) == Box(3)


def test_equal_where_the_compared_fields_are() -> None:
    assert Point(1, tags=["a"]) == Point(1, 0.5, ["a"], note="other") != Point(2)
    assert Point(1) != twin()(1) and Point(1) != 1 and One(1) != (1,)
    assert hash(One(2)) == hash(One(2.0)) and len({One(1), One(1), One(2)}) == 2
    assert SamplingParams(seed=1) == SamplingParams(seed=1) != SamplingParams(seed=2)
    nan = float("nan")
    assert One(nan) == One(nan)  # the same object, as in a tuple
    with pytest.raises(TypeError, match="unhashable"):
        hash(Point(1))  # for the list in it


def test_a_default_that_is_made_is_made_anew() -> None:
    assert Point(1).tags is not Point(1).tags


@pytest.mark.parametrize("name", ["x", "note", "unknown"])
def test_nothing_can_be_set_or_deleted(name: str) -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(point, name, 2)
    with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
        delattr(point, name)
    assert point == Point(1) and not hasattr(point, "__dict__")


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copied_and_pickled(make: Any) -> None:
    made = make(Point(1, 2.0, ["a"], "n"))
    assert made == Point(1, 2.0, ["a"]) and made.note == "n" and isinstance(made, Point)
    answer = Completion("a", None, (), "stop", Usage(prompt_tokens=3), Timings())
    assert make(answer) == answer


def test_matched_by_position() -> None:
    match Point(1, 2.0):
        case Point(1, y, tags=[]):
            assert y == 2.0
        case _:
            pytest.fail("no match")


def test_a_frozen_dataclass_may_inherit() -> None:
    @dataclass(frozen=True)
    class Near(Point):
        near: bool = True

    assert Near(1).near and Near(1).x == 1
    with pytest.raises(FrozenInstanceError):
        Near(1).x = 2  # type: ignore[misc]
