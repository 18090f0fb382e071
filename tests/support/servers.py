"""Runs the servers of others on loopback: each as a child process, ended by its own process id."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import psutil

from .command import environment
from .journal import JOURNAL, Journal
from .tools import ROOT, require_module

#: Seconds that a child may take to start, to answer, and to stop; only a failure takes as long.
PATIENCE: Final = 60.0
#: Seconds that each server is told to wait at most for what is under way when it has to stop.
GRACE: Final = "2"
APPS: Final = "tests.middleware.servers"


@dataclass(frozen=True)
class Server:
    """A server and how it is started: ``arguments`` of ``python -m``, with ``{port}`` and ``{app}`` in them."""

    name: str
    #: Who reads its HTTP/1.1: servers with the same parser answer hostile requests alike.
    parser: str
    arguments: str
    #: In place of ``arguments`` where the application's lifespan is not run; ``None`` where that cannot be told.
    without_lifespan: str | None
    #: The modules that have to be installed.
    modules: tuple[str, ...]
    #: What it exits with after SIGTERM.
    stops_with: int = 0
    #: What it exits with where the lifespan said that start-up failed.
    fails_with: int = 1
    workers: int = 1
    #: Whether an application is called only when all of the body is there.
    reads_bodies_first: bool = False
    #: Whether it ends only when no request is under way, however long it was told to wait.
    waits_for_clients: bool = False

    @property
    def runs_lifespan(self) -> bool:
        return self.arguments != self.without_lifespan

    def __str__(self) -> str:
        return self.name


def _uvicorn(http: str, ws: str) -> Server:
    arguments = f"uvicorn {{app}} --port {{port}} --http {http} --ws {ws} --timeout-graceful-shutdown {GRACE}"
    return Server(
        f"uvicorn-{http}-{ws}",
        http,
        f"{arguments} --lifespan on",
        f"{arguments} --lifespan off",
        ("uvicorn", http, ws.partition("-")[0]),
        stops_with=-signal.SIGTERM,  # it stops in good order, and then gives itself the signal again
        fails_with=3,
    )


def _hypercorn(worker: str) -> Server:
    arguments = f"hypercorn {{app}} --bind 127.0.0.1:{{port}} --worker-class {worker} --graceful-timeout {GRACE}"
    return Server(
        f"hypercorn-{worker}",
        "hypercorn",
        arguments,
        None,
        ("hypercorn", "h2") + (("trio",) if worker == "trio" else ()),
        fails_with=0,  # whatever the application (0.18): it forgets the exit code of its one worker
        waits_for_clients=worker == "asyncio" and sys.version_info >= (3, 12),  # pgjones/hypercorn#308
    )


def _gunicorn(name: str, options: str) -> Server:
    arguments = f"gunicorn {{app}} --bind 127.0.0.1:{{port}} --graceful-timeout {GRACE} --no-control-socket {options}"
    return Server(
        name,
        "httptools",
        f"{arguments} --worker-class uvicorn_worker.UvicornWorker",
        f"{arguments} --worker-class {APPS}.gunicorn_workers.WithoutLifespan",
        ("gunicorn", "uvicorn_worker", "httptools"),
        fails_with=3,
        workers=2,
    )


def _granian() -> Server:
    arguments = f"granian {{app}} --port {{port}} --workers-kill-timeout {GRACE} --interface"
    return Server("granian", "granian", f"{arguments} asgi", f"{arguments} asginl", ("granian",))


def _daphne() -> Server:
    """Daphne never runs a lifespan."""
    arguments = "daphne {app} --port {port} --bind 127.0.0.1"
    return Server("daphne", "daphne", arguments, arguments, ("daphne",), reads_bodies_first=True)


SERVERS: Final = (
    _uvicorn("h11", "websockets"),
    _uvicorn("h11", "wsproto"),
    _uvicorn("httptools", "websockets-sansio"),
    _uvicorn("httptools", "wsproto"),
    _hypercorn("asyncio"),
    _hypercorn("trio"),
    _granian(),
    _gunicorn("gunicorn", "--workers 2"),
    _gunicorn("gunicorn-preload", "--workers 2 --preload"),
    _daphne(),
)


class Child:
    """A server that was started."""

    def __init__(self, server: Server, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.server = server
        self.process = process
        self.port = port
        self.journal = Journal(folder / "journal")
        self._log = folder / "server.log"

    @property
    def output(self) -> str:
        """What the server wrote on standard output and error."""
        return self._log.read_text(errors="replace")

    def connect(self, seconds: float = PATIENCE) -> socket.socket:
        """Connect as soon as the server listens; ``seconds`` is how long the connection waits for bytes."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)
            except ConnectionRefusedError:  # noqa: PERF203
                assert self.process.poll() is None, self.output
                assert time.monotonic() < until, self.output
                time.sleep(0.02)

    def ask(self, path: str) -> tuple[int, Any]:
        """Send an ordinary request on a connection of its own; return the status and the body, parsed if it is JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.sock = self.connect()
        try:
            connection.request("GET", path, headers={"connection": "close"})
            response = connection.getresponse()
            body: Any = response.read()
            return response.status, json.loads(body) if "json" in response.headers["content-type"] else body
        finally:
            connection.close()

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return self.process.wait(PATIENCE)

    def stop(self) -> int:
        """Tell it to stop, and return its exit code, once none of its processes is left."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        code = self.wait()
        _, left = psutil.wait_procs(workers, PATIENCE)
        assert not left, left
        return code


def hold_port() -> socket.socket:
    """Return a socket that holds a port: nobody else is given that port, and who names it may listen there."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


@contextmanager
def running(
    server: Server, app: str, folder: Path, variables: dict[str, str], *, lifespan: bool = True, options: str = ""
) -> Iterator[Child]:
    """Start ``server`` with one of the applications of :data:`APPS`; whatever of it still runs at the end is killed."""
    for module in server.modules:
        require_module(module)
    arguments = server.arguments if lifespan else server.without_lifespan
    assert arguments is not None
    with hold_port() as holder, (folder / "server.log").open("wb") as log:
        port = holder.getsockname()[1]
        command = f"{arguments} {options}".format(port=port, app=f"{APPS}.{app}_app:app").split()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment(**{JOURNAL: str(folder / "journal"), "PYTHONUNBUFFERED": "1"}, **variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield Child(server, process, port, folder)
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    child = psutil.Process(process.pid)
    workers = child.children(recursive=True)
    process.kill()
    process.wait()
    for worker in workers:
        if worker.is_running():
            worker.kill()
    psutil.wait_procs(workers, PATIENCE)
