"""Starting and closing what a gate judges with: in the lifespan of the server, or at the first request where there is
none.

Nothing that goes wrong here is raised while the application is put together, since servers take an exception of a
lifespan for "not supported" and serve all the same. It ends start-up with its reason (``lifespan.startup.failed``),
or is remembered and denies every request ``policy_unavailable``.
"""

from __future__ import annotations

import logging
import threading
from typing import Final

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..checker.local import PolicyChecker
from ..enforcement.actors import actor_from_user
from ..errors import CapgateError, ConfigError, PolicyUnavailable, ends_task
from ..events import printable
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT, Environment
from ..routes.contract import HandlerContract
from ..routes.openapi import describe
from ..routes.route_report import check_authentication, check_order, check_routes
from ..routes.target import Target, find_target
from ..settings.select import select_checker
from ..settings.settings import Settings
from .contract import around, check_application, check_policy, contract_of, read_contract
from .gate import ActorOf, Gate, Resolver

_log = logging.getLogger("capgate")

_STRICT: Final = "routes that each declare what they need, or are public; or strict=False, which denies the others"

#: Seconds between two looks at whether another task, perhaps of another event loop, has finished starting.
POLL = 0.002
#: Seconds that starting may take where a request does it: who hangs longer than that holds nobody up, and is denied.
STARTING = 30.0
#: Seconds that closing the checker may take when the lifespan ends without a proper shutdown.
CLOSING = 5.0
#: Characters of a failure as a log or a server shows it.
TEXT_LIMIT = 4_096


class Startup:
    """The gate, made at most once at a time, and the reason why there is none. A :class:`~capgate.middleware.request.GateSource`."""

    def __init__(
        self,
        gate_class: type,
        app: ASGIApp,
        settings: Settings | None,
        checker: PolicyChecker | None,
        actor: ActorOf | None,
        resolver: Resolver | None,
        router: ASGIApp | None,
    ) -> None:
        self.gate: Gate | None = None
        self.failure: BaseException | None = None
        self.settings = settings
        self._gate_class = gate_class
        self._given = checker
        self._actor = actor
        self._resolver = resolver
        self._routed = app if router is None else router
        self._owned: PolicyChecker | None = None
        # Held while starting, and never waited for: event loops of several threads may ask for the same gate.
        self._starting = threading.Lock()

    @property
    def env(self) -> Environment:
        return self.settings.environment if isinstance(self.settings, Settings) else DEFAULT_ENVIRONMENT

    @property
    def exposes_reasons(self) -> bool:
        return isinstance(self.settings, Settings) and self.settings.expose_reasons

    async def wait(self, scope: Scope) -> Gate:
        """The gate, for a request: started by whoever comes first, awaited by the others for as long as the deadline.

        Raises :class:`PolicyUnavailable`. Who starts is not interrupted by the deadline, which then begins afterwards,
        but by :data:`STARTING`.
        """
        limits = self.settings.limits if isinstance(self.settings, Settings) else Limits()
        with anyio.move_on_after(limits.deadline):
            while self.gate is None and self.failure is None:
                if not self._starting.acquire(blocking=False):
                    await anyio.sleep(POLL)
                    continue
                try:
                    with anyio.move_on_after(STARTING, shield=True) as bound:
                        await self._start_once(scope)
                finally:
                    self._starting.release()
                if bound.cancelled_caught:
                    _log.error("the gate did not start within %g s; the next request tries again", STARTING)
                    break
        gate = self.gate
        if gate is None:
            raise PolicyUnavailable("starting failed" if self.failure else "starting takes longer than the deadline")
        return gate

    async def _start_once(self, scope: Scope) -> BaseException | None:
        """Start unless that has happened. What went wrong, if anything did, is logged here and nowhere else."""
        if self.gate is not None or self.failure is not None:
            return self.failure
        try:
            self.gate = await self._start(scope)
        except BaseException as error:
            if ends_task(error):
                raise
            self.failure = error
            trace = None if isinstance(error, CapgateError) else error
            _log.error("the gate did not start, every request is denied: %s", explain(error), exc_info=trace)
        return self.failure

    async def _start(self, scope: Scope) -> Gate:
        for name, given in (("actor", self._actor), ("resolver", self._resolver)):
            if given is not None and not callable(given):
                raise ConfigError(name, given, "a function of the scope")
        self.settings = self._settings()
        target = around(find_target(self._routed), scope.get("app"))
        contract = await self._contract(self.settings, target)
        checker = self._given
        if checker is None:
            # Decoding and metering a module takes a while in Python, and other tasks are not to wait for it.
            checker = self._owned = await anyio.to_thread.run_sync(select_checker, self.settings)
        if contract is not None:  # before the policy can run, its start code and a pool's instances included
            check_policy(contract, checker, self.settings)
        if hasattr(checker, "start"):
            await checker.start()
        gate = Gate(self.settings, checker, self._actor or actor_from_user, self._resolver, target)
        self._report(self.settings, gate, target, scope)
        return gate

    def _settings(self) -> Settings:
        settings = Settings.from_env() if self.settings is None else self.settings
        if not isinstance(settings, Settings):
            raise ConfigError("settings", settings, "a capgate.Settings")
        return settings

    def contract(self, app: object = None) -> HandlerContract:
        """The handler contract that fits what would start now, in the middleware of ``app``. Raises what
        :func:`contract_of` does, and :class:`ConfigError` where there is a ``resolver``."""
        self._require_routes()
        return contract_of(self._routed, self._settings(), checker=self._given, within=app)

    def _require_routes(self) -> None:
        if self._resolver is not None:
            raise ConfigError("resolver", self._resolver, "none where there is a contract, which says what routes need")

    async def _contract(self, settings: Settings, target: Target) -> HandlerContract | None:
        """The contract that settings name, if they name one, once vocabulary and routes agree with it."""
        path = settings.contract
        if path is None:
            return None
        self._require_routes()
        contract = await anyio.to_thread.run_sync(lambda: read_contract(path, limits=settings.limits))
        check_application(contract, target, settings)
        return contract

    def _report(self, settings: Settings, gate: Gate, target: Target, scope: Scope) -> None:
        denied: list[str] = []
        try:
            check_order(scope.get("app"), self._gate_class, _log)
            if self._actor is None:
                check_authentication(scope.get("app"), self._gate_class, _log)
            if self._resolver is None:
                denied = check_routes(target, gate.public, _log)
        except Exception as error:  # only a report: what it cannot describe is denied all the same
            _log.warning("the routes could not be reported", exc_info=True)
            if settings.strict:
                raise ConfigError("strict", f"{type(error).__name__} while routes were listed", _STRICT) from error
        if settings.openapi and self._resolver is None:
            describe(scope.get("app"), target, gate.public)
        if settings.strict and denied:
            raise ConfigError("strict", ", ".join(denied), _STRICT)

    async def close(self) -> None:
        """Forget the gate, and close its checker if it was made here; a checker that was passed in is its owner's to
        close. A request that comes later starts anew."""
        self.gate = self.failure = None
        checker, self._owned = self._owned, None
        aclose = getattr(checker, "aclose", None)
        if aclose is not None:
            await aclose()

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass ``lifespan`` through, the gate started before the application and closed after it."""
        startup = await receive()
        if startup["type"] == "lifespan.startup":
            self.failure = None
            # Blocking here would keep whoever starts on this loop from finishing, and an event belongs to one loop.
            while not self._starting.acquire(blocking=False):  # noqa: ASYNC110
                await anyio.sleep(POLL)
            try:
                failure = await self._start_once(scope)
            finally:
                self._starting.release()
            if failure is not None:
                await send({"type": "lifespan.startup.failed", "message": explain(failure)})
                return
        passing = _PassingLifespan(self, startup, receive, send)
        try:
            await app(scope, passing.receive, passing.send)
        finally:
            # An application without lifespan raises at once; requests then come all the same, and the gate stays.
            if passing.serving:
                with anyio.move_on_after(CLOSING, shield=True):
                    await self.close()


class _PassingLifespan:
    """The channels of a lifespan whose first message was read already; closes the gate before shutdown is complete."""

    def __init__(self, startup: Startup, first: Message, receive: Receive, send: Send) -> None:
        self.serving = False
        self._startup = startup
        self._unread = [first]
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        return self._unread.pop() if self._unread else await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.serving = True
        elif message["type"] == "lifespan.shutdown.complete":
            try:
                await self._startup.close()
            except Exception as error:
                message = {"type": "lifespan.shutdown.failed", "message": explain(error)}
        await self._send(message)


def explain(error: BaseException) -> str:
    """What went wrong, in printable ASCII: for capgate's own errors with their sentence, since those quote settings
    only."""
    text = str(error) if isinstance(error, CapgateError) else f"{type(error).__name__}: {error}"
    return printable(text.replace("\\", "/"), TEXT_LIMIT) or type(error).__name__
