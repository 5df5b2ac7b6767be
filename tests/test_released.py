"""The shapes in the product are those of the published configs."""

from __future__ import annotations

import pytest

from qwen3_mlx.config import ModelConfig
from qwen3_mlx.hub import ALIASES
from qwen3_mlx.released import RELEASED
from tests import released


@pytest.mark.parametrize("name", released.RELEASED)
def test_a_released_shape_is_the_published_one(name: str) -> None:
    published = ModelConfig.from_dict(released.RELEASED[name])
    assert RELEASED[f"qwen3:{name.removeprefix('Qwen3-').lower()}"] == published


def test_every_alias_has_its_shape() -> None:
    assert set(RELEASED) == set(ALIASES)
