"""Gates work that takes long: :class:`GatedLimiter`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.background import BackgroundTask

from ..enforcement.capabilities import Capabilities
from ..enforcement.current import current
from ..errors import ConfigError, PoolExhausted
from ..limits import check_number
from ..model import Resource

ACTION: Final = "compute.long"
KIND: Final = "job"
#: The largest accepted ``capacity`` and ``waiting``.
HIGHEST: Final = 1_000_000

_P = ParamSpec("_P")
_T = TypeVar("_T")


class LimiterStatistics(msgspec.Struct, frozen=True):
    """How many slots a limiter has, how many are taken, and how many callers wait for one."""

    capacity: int
    running: int
    waiting: int


class GatedLimiter:
    """At most ``capacity`` pieces of background work at once, each asked for as ``compute.long`` on ``job:<job>``.

    ::

        reports = GatedLimiter(2, job="report")

        pdf = await reports.run(render, order)                            # in a worker thread
        async with reports.slot():                                        # or asynchronous work
            await crunch(order)
        return JSONResponse({}, background=reports.task(render, order))   # or after the response

    The policy is asked first: what is denied raises :class:`~capgate.errors.CapabilityDenied`, waits for nothing and
    takes no slot. It is asked once: work that has to wait then begins by the answer from before. A background task is
    asked about when it begins. The response is gone then, so its denial is an error of the server and no 403; a route
    that must answer with 403 declares ``compute.long`` itself.

    ``job``           the id of the resource; without it the question names none
    ``waiting``       callers that may wait for a slot; the next one is denied ``pool_exhausted``
    ``capabilities``  whom to ask, in place of the current ones of each caller

    A slot is given back however the work ends. A thread cannot be interrupted: cancelled, :meth:`run` waits for its
    function to end, and keeps the slot until then. One limiter is for one event loop. Raises :class:`ConfigError`.

    Not gated: threads, processes and tasks that are started in another way.
    """

    def __init__(
        self, capacity: int, *, job: str | None = None, waiting: int = 100, capabilities: Capabilities | None = None
    ) -> None:
        check_number("capacity", capacity, 1, HIGHEST, whole=True)
        check_number("waiting", waiting, 0, HIGHEST, whole=True)
        if job is not None and (not isinstance(job, str) or not job):
            raise ConfigError("job", job, "the name of a job, as in 'job:<name>', or None")
        self._resource = None if job is None else Resource(KIND, job)
        self._capacity = capacity
        self._most_waiting = waiting
        self._capabilities = capabilities
        self._limiter = anyio.CapacityLimiter(capacity)
        self._waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for the duration of an ``async with``."""
        capabilities = self._capabilities or current()
        await capabilities.require(ACTION, self._resource)
        borrower = object()  # a task may hold several
        await self._acquire(borrower, capabilities)
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(borrower)

    async def run(self, func: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``func`` in a worker thread, where the current capabilities are those from here. Return its result."""
        async with self.slot():
            # Not one of the threads that endpoints share: the slot is what bounds these.
            return await anyio.to_thread.run_sync(partial(func, *args, **kwargs), limiter=anyio.CapacityLimiter(1))

    def task(self, func: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> BackgroundTask:
        """Return a background task for a response of starlette's.

        It calls ``func``, in a worker thread unless that is asynchronous.
        """
        return BackgroundTask(self._run_any, func, args, kwargs)

    def statistics(self) -> LimiterStatistics:
        """Take a snapshot."""
        return LimiterStatistics(self._capacity, self._limiter.borrowed_tokens, self._waiting)

    async def _run_any(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _is_async(func):
            await self.run(func, *args, **kwargs)
            return
        async with self.slot():
            await func(*args, **kwargs)

    async def _acquire(self, borrower: object, capabilities: Capabilities) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
            return
        except anyio.WouldBlock:
            if self._waiting >= self._most_waiting:
                self._deny(capabilities)
        self._waiting += 1
        try:
            await self._limiter.acquire_on_behalf_of(borrower)
        finally:
            self._waiting -= 1

    def _deny(self, capabilities: Capabilities) -> NoReturn:
        seen = f"{self._waiting} callers wait for {self._capacity} slots, the limit is {self._most_waiting}"
        capabilities.deny(PoolExhausted(seen), ACTION, self._resource)


def _is_async(func: Callable[..., object]) -> bool:
    while isinstance(func, partial):
        func = func.func
    return iscoroutinefunction(func) or iscoroutinefunction(getattr(func, "__call__", None))  # noqa: B004  # its __call__
