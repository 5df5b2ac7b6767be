"""The command's options become a server that runs until it is told to stop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..cli.options import Options
from ..errors import InvalidRequest
from . import log
from .lifecycle import Watch, make_server, tell_ready
from .receipts import make_folder
from .security import host_name
from .service import Service
from .settings import Settings
from .sockets import Bound, Listen, bind

if TYPE_CHECKING:
    from ..api import Qwen3


def start(options: Options, given: Mapping[str, Any]) -> int:
    """Serve until a signal comes; returns the exit status. ``given``: the options that only this command has.

    What can be wrong without a model is found out before one is loaded.
    """
    listen = Listen(given["host"], given["port"], given["uds"], given["listen_fd"])
    if listen.uds is not None and listen.fd is not None:
        raise InvalidRequest("--uds and --listen-fd are two places to listen at: choose one", param="uds")
    if given["ready_fd"] is not None:
        _check_open(given["ready_fd"])
    bound = bind(listen)
    try:
        settings = _settings(options, given, listen, bound)
        log.set_up(given["log_format"], given["log_level"])
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: threads would be a pool more
        log.event("loading", model=settings.names[0])
        with _load(options, settings, given) as model:
            return _serve(model, settings, bound, options, given)
    finally:
        bound.close()


def _load(options: Options, settings: Settings, given: Mapping[str, Any]) -> Qwen3:
    from ..api import Qwen3

    return Qwen3.load(
        settings.names[0],
        bits=options.bits,
        kv_bits=options.kv_bits,
        context=options.context,
        kernels=options.kernels or "auto",
        deterministic=options.deterministic,
        max_batch=settings.running,
        memory_limit=given["memory_limit"],
        prefix_cache_bytes=given["prefix_cache_bytes"],
    )


def _serve(model: Qwen3, settings: Settings, bound: Bound, options: Options, given: Mapping[str, Any]) -> int:
    name = settings.names[0]

    def ready() -> None:
        log.event("ready", url=bound.url, model=name)
        document = {"event": "ready", "url": bound.url, "model": name}
        told = json.dumps(document) if given["log_format"] == "json" else f"ready {bound.url}"
        print(told, flush=True)
        if given["ready_fd"] is not None:
            tell_ready(given["ready_fd"], document)

    service = Service(model, settings, fingerprint(name, options))
    server = make_server(service, Watch(ready, given["parent_pid"]))
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[bound.socket]))
    log.event("stopped")
    return 130 if server.signal == signal.SIGINT else 0


def fingerprint(name: str, options: Options) -> str:
    """Changes with whatever may change an answer: the model's name and how it is loaded, this package, MLX."""
    loaded = f"{options.bits} {options.kv_bits} {options.kernels} {options.deterministic}"
    known = f"{name} {loaded} {version('qwen3-mlx')} {version('mlx')} {sys.platform}"
    return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:10]}"


def _settings(options: Options, given: Mapping[str, Any], listen: Listen, bound: Bound) -> Settings:
    keys = _keys(given)
    if not (bound.local or keys or given["no_auth"]):
        where = f"--host {listen.host}" if listen.fd is None else f"--listen-fd {listen.fd} ({bound.url})"
        raise InvalidRequest(
            f"{where} lets other machines in: give an --api-key that they must send, or --no-auth",
            param="host" if listen.fd is None else "listen_fd",
        )
    if given["dump_requests"] is not None:
        make_folder(given["dump_requests"])
    debug = given["debug"]
    settings = Settings(
        names=(options.model or "demo", *given["aliases"]),
        api_keys=keys,
        thinking=options.thinking,
        thinking_budget=options.thinking_budget,
        allowed_hosts=tuple(filter(None, map(host_name, (*given["hosts"], listen.host)))),
        origins=tuple(origin.lower().rstrip("/") for origin in given["origins"]),
        check_host=listen.uds is None,
        debug=bound.local if debug is None else debug,
        debug_text=debug is True,
        running=given["max_batch"],
        queue=given["max_queue"],
        body_bytes=given["max_body"],
        deadline=given["timeout"],
        grace=given["grace"],
        dump=given["dump_requests"],
    )
    return settings


def _check_open(fd: int) -> None:
    """To be called before anything is opened here, which could have the number."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise InvalidRequest(f"--ready-fd {fd} is not open: pass it on to this process", param="ready_fd") from None


def _keys(given: Mapping[str, Any]) -> tuple[str, ...]:
    keys = [*given["api_keys"]]
    if given["api_key_file"] is not None:
        keys += [line.strip() for line in given["api_key_file"] if line.strip()]
    for key in keys:
        if not key.strip() or not key.isascii() or not key.isprintable():
            raise InvalidRequest("an API key must be printable ASCII text, and not empty", param="api_key")
    if given["no_auth"] and keys:
        raise InvalidRequest("--no-auth lets anybody in, --api-key does not: choose one", param="no_auth")
    return tuple(keys)
