"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Settings:
    """``names``: what clients may call the model, the first one listed. Sizes are bytes, times seconds.

    ``queue``: requests that may wait behind those that run; ``grace``: how long running answers may take to finish when
    the server is told to stop; ``deadline``: how long a request may take in all; ``patience``: how long a client may
    take to read what is written, or to send its request; ``debug_text``: whether the cache's explanation may quote what
    others have asked.
    """

    names: tuple[str, ...]
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    thinking: bool = True
    thinking_budget: int | None = None
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    check_host: bool = True
    debug: bool = True
    debug_text: bool = False
    running: int = 8
    queue: int = 64
    choices: int = 8
    messages: int = 4096
    body_bytes: int = 8 << 20
    header_bytes: int = 64 << 10
    connections: int = 512
    deadline: float = 3600.0
    patience: float = 30.0
    grace: float = 10.0
    keep_alive: float = 15.0
    dump: str | None = None
