"""Plays the server's side of a lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope

LIFESPAN: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}


class Lifespan:
    """What the server hears of a lifespan."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.error: BaseException | None = None
        self.answered = anyio.Event()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.answered.set()

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app({**LIFESPAN, "state": {}}, receive, self.send)
        except Exception as error:
            self.error = error
        finally:
            self.answered.set()

    @property
    def types(self) -> list[str]:
        return [message["type"].removeprefix("lifespan.") for message in self.sent]


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[Lifespan]:
    """The server's side of a lifespan: start the application up, and shut it down."""
    lifespan = Lifespan()
    to_app, from_server = anyio.create_memory_object_stream[Message](2)
    with to_app, from_server:
        async with anyio.create_task_group() as group:
            group.start_soon(lifespan.run, app, from_server.receive)
            await to_app.send({"type": "lifespan.startup"})
            with anyio.fail_after(30):
                await lifespan.answered.wait()
            yield lifespan
            await to_app.send({"type": "lifespan.shutdown"})
