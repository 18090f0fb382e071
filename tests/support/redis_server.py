"""A real redis-server on loopback, for the tests of the gated client."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from .tools import require_tool

ATTEMPTS = 5


class RedisServer:
    """A server that runs, and a client of it that is not gated."""

    def __init__(self, port: int, socket: Path) -> None:
        self.port = port
        self.socket = socket
        self.plain: Any = redis.Redis(host="127.0.0.1", port=port)  # much of redis-py is untyped

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        return redis.asyncio.Redis(host="127.0.0.1", port=self.port, **options)

    def contents(self) -> dict[tuple[int, bytes], object]:
        """Everything that is stored, in each database: what a denied command must not change."""
        found: dict[tuple[int, bytes], object] = {}
        client: Any
        for db in range(3):
            with self.client(db=db) as client:
                for key in client.keys("*"):
                    found[db, key] = (client.dump(key), client.pexpiretime(key))
        return found

    def commands(self) -> dict[str, int]:
        """How often the server ran each command since :meth:`forget`."""
        stats: dict[str, Any] = self.plain.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}

    def forget(self) -> None:
        self.plain.flushall()
        self.plain.script_flush()
        self.plain.config_resetstat()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A server on a free port, until the end of the block. Skips visibly where there is no ``redis-server``."""
    program = require_tool("redis-server")
    for attempt in range(ATTEMPTS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = folder / f"{attempt}.sock"
        options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, "--unixsocket", path]
        process = subprocess.Popen([program, *map(str, options)], stdout=subprocess.DEVNULL)
        try:
            server = RedisServer(port, path)
            if _answers(server.plain, process):
                yield server
                return
        finally:
            server.plain.close()
            process.terminate()
            process.wait(30)
    raise AssertionError(f"redis-server did not start, {ATTEMPTS} times")


def _answers(client: Any, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(1_000):
        if process.poll() is not None:
            return False  # the port was taken meanwhile
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            time.sleep(0.02)
    return False
