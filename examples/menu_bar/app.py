"""A menu-bar app that answers questions with a model on this Mac.

pip install rumps
python examples/menu_bar/app.py --model qwen3:4b
"""

from __future__ import annotations

import argparse
import queue
import threading
from typing import Any

import rumps  # type: ignore[import-not-found]  # macOS only
from server import LocalServer, ServerError

LOADING, IDLE, BUSY = "◌", "●", "…"
SHOWN = 60  # characters of an answer in the menu


class App(rumps.App):  # type: ignore[misc]
    """Work happens on threads; the menu is touched by the timer only, on the main thread."""

    def __init__(self, model: str) -> None:
        super().__init__("Qwen3", title=LOADING, quit_button=None)
        self.answer = rumps.MenuItem("No question yet")
        self.menu = [rumps.MenuItem("Ask…", callback=self.ask), self.answer, rumps.MenuItem("Quit", callback=self.quit)]
        self.server = LocalServer(model)
        self._text = ""
        self._messages: list[dict[str, Any]] = []
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._timer = rumps.Timer(self.tick, 0.1)
        self._timer.start()

    def ask(self, _: Any) -> None:
        """The menu's "Ask…": a window for the question; the answer appears in the menu."""
        if self.title != IDLE:
            rumps.notification("Qwen3", "", "The model is not ready yet" if self.title == LOADING else "One at a time")
            return
        reply = rumps.Window("What do you want to know?", "Qwen3", dimensions=(320, 60), cancel=True).run()
        if reply.clicked and reply.text.strip():
            self.title, self._text = BUSY, ""
            self._messages.append({"role": "user", "content": reply.text.strip()})
            threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        try:
            for piece in self.server.ask(self._messages):
                self._pieces.put(piece)
        except ServerError as error:
            self._pieces.put(f"({error})")
        self._pieces.put(None)

    def tick(self, _: Any) -> None:
        """Shows what has come since the last time."""
        if self.title == LOADING:
            try:
                if self.server.ready():
                    self.title = IDLE
            except ServerError as error:
                self.title, self.answer.title = "!", str(error)
        while not self._pieces.empty():
            piece = self._pieces.get()
            if piece is None:
                self._messages.append({"role": "assistant", "content": self._text})
                self.title = IDLE
                rumps.notification("Qwen3", self._messages[-2]["content"], self._text)
            else:
                self._text += piece
                self.answer.title = self._text[-SHOWN:]

    def quit(self, _: Any) -> None:
        self.server.stop()
        rumps.quit_application()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    App(parser.parse_args().model).run()


if __name__ == "__main__":
    main()
