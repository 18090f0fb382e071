"""Serves an application under a real uvicorn, on loopback, in a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from ...errors import ConfigError, PolicyUnavailable

STARTUP_SECONDS = 30.0


@contextlib.contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """Serve ``app`` while the block runs, and yield its base URL. Port 0 takes a free one.

    Raises :class:`ConfigError` for a port that is taken, :class:`PolicyUnavailable` when the app does not start.
    """
    listener = _listen(port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
    thread = threading.Thread(target=_run, args=(server, listener), name="capgate-demo-server")
    thread.start()
    try:
        _wait_for_start(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    with contextlib.suppress(SystemExit):  # how uvicorn says that start-up failed; it has logged why
        server.run([listener])


def _listen(port: int) -> socket.socket:
    # With the protocol spelled out, asyncio turns Nagle's algorithm off; else each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError("port", port, f"a free port, or 0 for any ({error.strerror})") from error
    return listener


def _wait_for_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    end = time.monotonic() + STARTUP_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise PolicyUnavailable("the application did not start; its log says why")
        time.sleep(0.005)
