"""The menu-bar example: its server for real, its window with a stand-in for rumps, which runs on macOS only."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.serving import eventually

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "menu_bar"
QUESTION = "How many r are in raspberries?"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("server", "app"):
        sys.modules.pop(name, None)


def test_the_server_is_asked_and_ends(folder: None) -> None:
    server = importlib.import_module("server")
    local = server.LocalServer("demo")
    try:
        assert local.ready(60)
        text = "".join(local.ask([{"role": "user", "content": QUESTION}], temperature=0))
        assert text == "The letter r appears 3 times in raspberries."
        pieces = local.ask([{"role": "user", "content": QUESTION}], temperature=0)
        next(pieces)
        pieces.close()
        with pytest.raises(server.ServerError, match="temperature"):
            list(local.ask([{"role": "user", "content": QUESTION}], temperature=-1))
    finally:
        local.stop()
    assert not os.path.exists(local.path)


def test_a_server_that_does_not_start_says_why(folder: None) -> None:
    server = importlib.import_module("server")
    local = server.LocalServer("/no/such/model")
    with pytest.raises(server.ServerError, match="/no/such/model"):
        local.ready(60)
    local.stop()


class StandIn(types.ModuleType):
    """What the app uses of rumps."""

    def __init__(self, typed: str) -> None:
        super().__init__("rumps")
        self.notices: list[tuple[str, ...]] = []
        self.over = False
        outer = self

        class App:
            def __init__(self, name: str, title: str | None = None, quit_button: Any = "Quit") -> None:
                self.title = title

        class MenuItem:
            def __init__(self, title: str, callback: Any = None) -> None:
                self.title, self.callback = title, callback

        class Timer:
            def __init__(self, callback: Any, interval: float) -> None:
                self.callback = callback

            def start(self) -> None:
                outer.tick = lambda: self.callback(self)

        class Window:
            def __init__(self, message: str, title: str, dimensions: Any, cancel: bool) -> None:
                pass

            def run(self) -> Any:
                return types.SimpleNamespace(clicked=1, text=typed)

        self.App, self.MenuItem, self.Timer, self.Window = App, MenuItem, Timer, Window

    def notification(self, *words: str) -> None:
        self.notices.append(words)

    def quit_application(self) -> None:
        self.over = True


def test_the_app(folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rumps: Any = StandIn(QUESTION)
    monkeypatch.setitem(sys.modules, "rumps", rumps)
    module = importlib.import_module("app")
    app = module.App("demo")

    def state(wanted: str) -> bool:
        rumps.tick()
        return bool(app.title == wanted)

    try:
        app.ask(None)
        assert rumps.notices.pop()[-1] == "The model is not ready yet"
        eventually(lambda: state(module.IDLE), 60)
        app.ask(None)
        assert app.title == module.BUSY
        eventually(lambda: state(module.IDLE), 60)
        assert rumps.notices[-1][1] == QUESTION and "raspberries" in rumps.notices[-1][2]
        assert app.answer.title and [one["role"] for one in app._messages] == ["user", "assistant"]
    finally:
        app.quit(None)
    assert rumps.over
