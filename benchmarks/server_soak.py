"""Whether a server survives its clients: thousands of requests, many of them not meant well.

    python -m benchmarks.server_soak [--requests 10000] [--clients 32] [--model demo] [--seed 0]

Every client draws what it does next: whole answers and streams, with tools, schemas and log-probabilities; streams and
whole answers that are left at a random moment; bodies that are too large, wrong or no JSON; bytes that are no HTTP;
requests that stop half way; readers that are slow, and some that do not read at all. What must come back is known for
each. Printed: what came of each kind, and the server's memory after every twentieth part; growth is told from the
five samples after the warm-up, a quarter of all requests, to the last five. At the end no slot may be taken and a
question must have its answer. The exit status is 1 if anything was lost, stuck or leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .sides import machine

PARTS, WARM, MEAN = 20, 5, 5
STUCK = 120.0  # seconds after which a request counts as stuck
BODY = 200_000  # bytes that the server takes
WORDS = ("strawberry", "banana", "committee", "raspberries", "Mississippi", "parallel", "pear", "incomprehensible")
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["CET", "UTC"]}}, "required": ["zone"]},
    },
}
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


class Lost(Exception):
    """What came back is not what has to."""


class Client:
    """One of many, with a random course of its own."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.rng = random.Random(seed)
        good = [self.whole, self.stream, self.stream, self.tools, self.schema, self.completion, self.several]
        rude = [self.leave, self.leave, self.leave_whole, self.slow, self.deaf]
        wrong = [self.oversize, self.mistake, self.no_json, self.garbage, self.half, self.unknown]
        self.kinds: list[Callable[[], Awaitable[None]]] = [*good, *good, *rude, *wrong]

    async def act(self) -> str:
        kind = self.rng.choice(self.kinds)
        async with asyncio.timeout(STUCK):
            await kind()
        return kind.__name__

    # -- what is asked ---------------------------------------------------------------------------------------------

    def body(self, **more: Any) -> dict[str, Any]:
        rng = self.rng
        text = f"How many {rng.choice('abersp')} are in {rng.choice(WORDS)}?"
        if rng.random() < 0.5:
            text = f"What is {rng.randint(10, 99999)} + {rng.randint(10, 99999)}?"
        return {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": rng.randint(1, 40),
            "temperature": rng.choice([0, 0.6, 1.2]),
            "enable_thinking": rng.random() < 0.5,
            **more,
        }

    async def opened(self, body: Any, path: str = CHAT) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        return await self.sent(head.encode() + data)

    async def sent(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        return reader, writer

    async def asked(self, body: Any, path: str = CHAT) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 for a connection that was closed without one."""
        reader, writer = await self.opened(body, path)
        return await self.answer(reader, writer)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        data = b""
        try:
            while piece := await reader.read(65536):
                data += piece
        except ConnectionError:
            pass
        finally:
            writer.close()
        head, _, rest = data.partition(b"\r\n\r\n")
        return (int(head.split()[1]), rest) if head.startswith(b"HTTP/1.1 ") else (0, b"")

    # -- meant well ------------------------------------------------------------------------------------------------

    async def expect_whole(self, body: dict[str, Any], path: str = CHAT) -> Any:
        status, data = await self.asked(body, path)
        if status != 200:
            raise Lost(f"status {status}: {data[:200]!r}")
        document = json.loads(data)
        if len(document["choices"]) != body.get("n", 1) or not all(c["finish_reason"] for c in document["choices"]):
            raise Lost(f"not whole: {document}")
        return document

    async def whole(self) -> None:
        await self.expect_whole(self.body())

    async def several(self) -> None:
        await self.expect_whole(self.body(n=2, logprobs=True, top_logprobs=2))

    async def tools(self) -> None:
        document = await self.expect_whole(self.body(tools=[CLOCK], tool_choice="required", max_tokens=200))
        choice = document["choices"][0]
        if choice["finish_reason"] == "tool_calls":
            json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])

    async def schema(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        document = await self.expect_whole(self.body(response_format=form, enable_thinking=False, max_tokens=100))
        if document["choices"][0]["finish_reason"] == "stop":
            json.loads(document["choices"][0]["message"]["content"])

    async def completion(self) -> None:
        body = {"prompt": [self.rng.choice(WORDS)], "max_tokens": self.rng.randint(1, 20), "echo": True, "logprobs": 1}
        await self.expect_whole(body, COMPLETION)

    async def stream(self) -> None:
        status, data = await self.asked(self.body(stream=True, stream_options={"include_usage": True}))
        if status != 200 or b"data: [DONE]" not in data or b'"usage":{' not in data or b'"error"' in data:
            raise Lost(f"status {status}, a stream that ends with {data[-200:]!r}")

    # -- not so well -----------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        reader, writer = await self.opened(self.body(stream=True, max_tokens=300))
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(self.rng.random() * 0.5):
                for _ in range(self.rng.randrange(20)):
                    await reader.read(100)
        writer.transport.abort() if self.rng.random() < 0.5 else writer.close()

    async def leave_whole(self) -> None:
        _, writer = await self.opened(self.body(max_tokens=300))
        await asyncio.sleep(self.rng.random() * 0.2)
        writer.transport.abort() if self.rng.random() < 0.5 else writer.close()

    async def slow(self) -> None:
        reader, writer = await self.opened(self.body(stream=True))
        data = b""
        while piece := await reader.read(self.rng.randint(200, 3000)):
            data += piece
            await asyncio.sleep(self.rng.random() * 0.02)
        writer.close()
        if b"data: [DONE]" not in data:
            raise Lost(f"a slow reader's stream ends with {data[-200:]!r}")

    async def deaf(self) -> None:
        _, writer = await self.opened(self.body(stream=True, n=2, logprobs=True, top_logprobs=20, max_tokens=300))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(self.rng.random())
        writer.transport.abort()

    async def refused(self, body: Any, *statuses: int) -> None:
        status, data = await self.asked(body)
        if status not in statuses or (status and not json.loads(data)["error"]["message"]):
            raise Lost(f"status {status} instead of {statuses}: {data[:200]!r}")

    async def oversize(self) -> None:
        await self.refused(self.body(user="x" * (BODY + self.rng.randrange(BODY))), 413, 0)

    async def mistake(self) -> None:
        wrong: Any = self.rng.choice(
            [{"stop": [1]}, {"top_k": 200000}, {"n": 0}, {"temperature": "x"}, {"messages": []}, {"tools": 5}]
        )
        await self.refused(self.body(**wrong), 400)

    async def unknown(self) -> None:
        await self.refused(self.body(model="/etc/passwd"), 404)

    async def no_json(self) -> None:
        await self.refused(self.rng.choice([b"", b"{", b"\xff\xfe", b"[" * 1000, b'{"messages": NaN}']), 400)

    async def garbage(self) -> None:
        junk = self.rng.randbytes(self.rng.randint(1, 2000))
        reader, writer = await self.sent(b"GET" * self.rng.randrange(2) + junk + b"\r\n\r\n")
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.2):
                await reader.read(1000)
        writer.close()

    async def half(self) -> None:
        whole = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode() + b"{" * 50
        _, writer = await self.sent(whole[: self.rng.randrange(len(whole))])
        await asyncio.sleep(self.rng.random() * 0.1)
        writer.transport.abort()


def resident(process: int) -> float:
    """Megabytes of memory that a process has now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read(-1)
    writer.close()
    return data.partition(b"\r\n\r\n")[2]


async def idle(port: int) -> dict[str, Any]:
    """What the server tells of itself, when it has come to rest or does not within ten seconds."""
    health: dict[str, Any] = {}
    for _ in range(100):
        health = json.loads(await get(port, "/health"))
        if not health["running"] + health["waiting"]:
            break
        await asyncio.sleep(0.1)
    return health


async def play(args: argparse.Namespace, port: int, process: int) -> int:
    counts: Counter[str] = Counter()
    problems: list[str] = []
    memory: list[float] = []
    left = args.requests
    clients = [Client(port, args.seed * 1000 + i) for i in range(args.clients)]

    async def work(client: Client, until: int) -> None:
        nonlocal left
        while left > until:
            left -= 1
            try:
                counts[await client.act()] += 1
            except TimeoutError:
                problems.append("stuck")
            except Exception as error:
                problems.append(f"lost: {type(error).__name__}: {error}"[:300])

    for part in range(PARTS):
        until = args.requests - args.requests * (part + 1) // PARTS
        await asyncio.gather(*(work(client, until) for client in clients))
        health = await idle(port)
        if health["running"] or health["waiting"]:
            problems.append(f"leaked: {health}")
        memory.append(resident(process))
        print(f"  {args.requests - left:8} requests   {memory[-1]:8.1f} MB   {len(problems)} problems", flush=True)
    await clients[0].whole()
    print("  " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    for problem in problems[:20]:
        print(f"  {problem}")
    before, after = statistics.mean(memory[WARM : WARM + MEAN]), statistics.mean(memory[-MEAN:])
    growth = f"{100 * (after / before - 1):+.2f} %"
    print(f"  resident: {before:.1f} MB after the warm-up, {after:.1f} MB at the end ({growth})")
    return len(problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = ["--port", "0", "--max-body", str(BODY), "--prefix-cache", str(8 << 20), "--log-level", "error"]
    command = [sys.executable, "-m", "qwen3_mlx.server", "--model", args.model, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    begun = time.perf_counter()
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        problems = asyncio.run(play(args, port, process.pid))
    finally:
        process.terminate()
    status = process.wait(30)
    print(f"  {problems} problems, {time.perf_counter() - begun:.0f} s, the server's exit status {status}")
    print(f"  {machine()}")
    raise SystemExit(bool(problems or status))


if __name__ == "__main__":
    main()
