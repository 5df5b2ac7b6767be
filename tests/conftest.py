"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A suite started in the background of a shell inherits an ignored SIGINT, and its children with it: Ctrl-C would do
# nothing in the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_templates_are_kept() -> Iterator[None]:
    """The templates that tests make do not belong in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("qwen3_mlx.text.compiled.cache_folder", lambda name: None)
        yield
