"""Starts and closes what requests are asked about with: in the server's lifespan, or at the first request without one.

Nothing that goes wrong here is raised while the application is put together. In a lifespan it is said
(``lifespan.startup.failed``) and then raised, as Starlette's own lifespan does: servers that heard the one exit, and
test clients raise the other. Only to raise would not do: servers take that for "not supported", and serve all the same.
Without a lifespan it denies every request ``policy_unavailable``, and later requests try again.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple, Union

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..checker.base import Checker, PolicyChecker
from ..checker.foreign import as_checker
from ..enforcement.point import EnforcementPoint
from ..errors import CapgateError, ConfigError, PolicyUnavailable, StartTimeout, ends_task
from ..events import MonitorPeriod, flush, printable
from ..limits import Limits
from ..model import DEFAULT_ENVIRONMENT, Actor, Environment
from ..routes.canary import check_framework, check_versions
from ..routes.contract import HandlerContract
from ..routes.declare import Requirement
from ..routes.dispatch import arm, install
from ..routes.framework import Unresolvable
from ..routes.openapi import describe
from ..routes.precedence import Needed, RouterPlace, start
from ..routes.route_report import check_inside, check_routes
from ..routes.seat import PUBLIC
from ..routes.target import Target, find_target
from ..runtime.bounded_wait import BoundedWait
from ..settings.select import select_checker
from ..settings.settings import Settings
from ..settings.table import PASS
from .actors import actor_from_user
from .contract import around, check_application, check_policy, contract_of, read_contract

_log = logging.getLogger("capgate")

ActorOf = Callable[[Scope], Union[Actor, Awaitable[Actor]]]
Resolver = Callable[[Scope], Any]
#: Gives what else is known of the moment, as a mapping of facts, or an awaitable of it.
ContextOf = Callable[[Scope], Any]

_STRICT: Final = "routes that each declare what they need, or are public; or strict=False, which denies the others"

#: Seconds between the first two looks at whether another task, perhaps of another event loop, has finished starting.
#: Each further pause is twice as long, up to :data:`LONGEST_POLL`: whoever waits holds up whoever starts.
POLL = 0.002
LONGEST_POLL = 0.05
#: Seconds after a failed start until a request tries again. Doubled after each failure, up to :data:`LONGEST_RETRY`.
RETRY = 1.0
LONGEST_RETRY = 60.0
#: Seconds that closing the checker may take when the lifespan ends without a proper shutdown.
CLOSING = 5.0
#: Characters of a failure as a log or a server shows it.
TEXT_LIMIT = 4_096


class RequestPoint(EnforcementPoint):
    """What requests are asked about with: also who is asking, and where the routes begin. Made once, never changed.

    ``place`` is where a request that was let in stands. Where no router can be seen, it is what all of the application
    needs, and where that is not certain, the reason.
    """

    __slots__ = (
        "actor",
        "begin",
        "by_resolver",
        "context",
        "passes_unknown_routes",
        "place",
        "public",
        "resolver",
        "strict_paths",
    )

    def __init__(
        self,
        settings: Settings,
        checker: PolicyChecker,
        actor: ActorOf,
        resolver: Resolver | None,
        place: RouterPlace | Needed | Exception,
        period: MonitorPeriod | None = None,
        context: ContextOf | None = None,
    ) -> None:
        super().__init__(
            checker,
            settings.environment,
            deadline=settings.limits.deadline,
            limits=settings.limits,
            sample_allows=settings.sample_allows,
            body_bytes=settings.body_bytes,
            period=period,
            log_facts=settings.log_facts,
        )
        self.actor = actor
        self.context = context
        self.public = frozenset(settings.public)
        self.strict_paths = settings.strict_paths
        self.passes_unknown_routes = settings.unknown_routes == PASS
        self.by_resolver = resolver is not None
        #: Gives what a request needs, in place of the routes. Raises whatever the application's resolver raises.
        self.resolver: Callable[[Scope], Needed] | None = (
            None if resolver is None else functools.partial(_resolved, resolver)
        )
        self.place = place
        #: The same where there is a router.
        self.begin: RouterPlace | None = place if type(place) is RouterPlace else None


class Given(NamedTuple):
    """What a gate was given. ``settings`` are ``None`` where they are those of the environment."""

    settings: Settings | None
    checker: PolicyChecker | None
    actor: ActorOf | None
    resolver: Resolver | None


def _resolved(resolver: Resolver, scope: Scope) -> Needed:
    """Return what the application's resolver says: a requirement, several, ``PUBLIC``, or ``None``."""
    needed = resolver(scope)
    if needed is PUBLIC:
        return "public", ()
    requirements = () if needed is None else (needed,) if type(needed) is Requirement else needed
    if type(requirements) not in (tuple, list) or any(type(part) is not Requirement for part in requirements):
        if inspect.iscoroutine(needed):
            needed.close()
        raise TypeError(f"the resolver returned a {type(needed).__name__}")
    return ("declared" if requirements else "undeclared"), tuple(requirements)


def _place_of(target: Target) -> RouterPlace | Needed | Exception:
    """Return where the routes of ``target`` begin, with a dispatch at its router."""
    try:
        place = start(target)
        if isinstance(place, RouterPlace):
            arm(place.router)
    except Unresolvable as error:
        return error
    return place


class Startup:
    """The enforcement point of a middleware, made at most once at a time, and the reason why there is none."""

    def __init__(
        self,
        middleware: type,
        app: ASGIApp,
        settings: Settings | None,
        checker: PolicyChecker | None,
        actor: ActorOf | None,
        resolver: Resolver | None,
        router: object,
        context: ContextOf | None = None,
    ) -> None:
        self.point: RequestPoint | None = None
        self.failure: BaseException | None = None
        self.settings = settings
        self._note(settings)
        self._middleware = middleware
        self._given = checker
        self._actor = actor
        self._resolver = resolver
        self._context = context
        self._app = app
        self._router = router
        self._owned: Checker | None = None
        # Held while starting, and never waited for: event loops of several threads may ask for the same gate.
        self._starting = threading.Lock()
        self._failures = 0
        self._retry_at = 0.0  # by time.monotonic()
        self._period: MonitorPeriod | None = None

    def _note(self, settings: object) -> None:
        """Keep what a request looks at: whether clients are told why, how they log in, and what ends with a request."""
        known = settings if isinstance(settings, Settings) else None
        self.exposes_reasons = known is not None and known.expose_reasons
        self.challenge = None if known is None else known.www_authenticate
        self.ends_capabilities = known is not None and known.capabilities_end_with_request

    @property
    def env(self) -> Environment:
        """The environment of events while nothing has started."""
        return self.settings.environment if isinstance(self.settings, Settings) else DEFAULT_ENVIRONMENT

    async def wait(self, scope: Scope) -> RequestPoint:
        """Return the enforcement point, for a request: started by whoever comes first, awaited by the others.

        That takes at most ``limits.start_seconds``, and comes before any limit of the question. After a failure nobody
        waits: one request after a while tries again, and the others are denied. Raises :class:`StartTimeout`, or
        :class:`PolicyUnavailable` where starting failed.
        """
        pause, seconds = POLL, self._start_seconds()
        with BoundedWait(seconds):
            while self.point is None and not self._rests():
                if not self._starting.acquire(blocking=False):
                    if self.failure is not None:
                        break
                    await anyio.sleep(pause)
                    pause = min(2 * pause, LONGEST_POLL)
                    continue
                try:
                    with BoundedWait(seconds, shield=True) as bound:
                        await self._start_once(scope)
                finally:
                    self._starting.release()
                if bound.expired and self.point is None:
                    _log.error("the gate did not start within %g s; the next request tries again", seconds)
                    break
        point = self.point
        if point is None:
            raise PolicyUnavailable("starting failed") if self.failure else StartTimeout("start_seconds", seconds)
        return point

    def _start_seconds(self) -> float:
        """Return the seconds that a request waits: of settings that are not read yet, as they would be read now."""
        try:
            return self._settings().limits.start_seconds
        except Exception:  # which starting will say
            return Limits().start_seconds

    def _rests(self) -> bool:
        """Say whether the last start failed, and it is too soon to try again."""
        return self.failure is not None and time.monotonic() < self._retry_at

    async def _start_once(self, scope: Scope) -> BaseException | None:
        """Start unless that has happened, and return what went wrong, which is logged here and nowhere else."""
        if self.point is not None or self._rests():
            return self.failure
        try:
            point = await self._start(scope)
        except BaseException as error:
            with anyio.move_on_after(CLOSING, shield=True):
                await self._close_owned(quietly=True)
            if ends_task(error):
                raise
            self._failures += 1
            self._retry_at = time.monotonic() + min(RETRY * 2 ** min(self._failures - 1, 16), LONGEST_RETRY)
            self.failure = error
            trace = None if isinstance(error, CapgateError) else error
            _log.error("the gate did not start, every request is denied: %s", explain(error), exc_info=trace)
        else:
            self.point, self.failure, self._failures = point, None, 0
        return self.failure

    async def _start(self, scope: Scope) -> RequestPoint:
        for name, given in (("actor", self._actor), ("resolver", self._resolver), ("context", self._context)):
            if given is not None and not callable(given):
                raise ConfigError(name, given, "a function of the scope")
        if self._router is not None:
            valid = "none: the routers that requests reach are asked; resolver= where something else is to say it"
            raise ConfigError("router", self._router, valid)
        self.settings = self._settings()
        self._note(self.settings)
        install()
        check_framework(fastapi=False)
        if "fastapi.routing" in sys.modules:
            check_framework(fastapi=True)
        check_versions(_log)
        target = around(find_target(self._app), scope.get("app"))
        contract = await self._contract(self.settings, target)
        checker = as_checker(await self._checker(self.settings), self.settings.limits.deadline)
        if contract is not None:  # before the policy can run, its start code and a pool's instances included
            check_policy(contract, checker, self.settings)
        await checker.start()
        actor = self._actor or actor_from_user
        period = MonitorPeriod(self.settings.enforced_from) if self.settings.monitors else None
        place = _place_of(target)
        point = RequestPoint(self.settings, checker, actor, self._resolver, place, period, self._context)
        self._report(self.settings, point, target, scope, monitored=period is not None)
        self._period = period
        if period is not None:
            period.begin()
            after = self.settings.enforce_after
            if period.lasts:
                _log.warning("NO DENIAL COUNTS, %s: enforce is 'monitor'", f"until {after}" if after else "for ever")
        return point

    async def _checker(self, settings: Settings) -> PolicyChecker:
        if self._given is not None:
            return self._given
        # Decoding and metering a module takes a while in Python, and other tasks are not to wait for it.
        self._owned = await anyio.to_thread.run_sync(select_checker, settings)
        return self._owned

    def _settings(self) -> Settings:
        settings = Settings.from_env() if self.settings is None else self.settings
        if not isinstance(settings, Settings):
            raise ConfigError("settings", settings, "a capgate.Settings")
        ignored = settings.about_checker() if self._given is not None else ()
        if ignored:
            valid = f"none together with {', '.join(ignored)} in settings: one of the two would not count"
            raise ConfigError("checker", type(self._given).__name__, valid)
        return settings

    def given(self) -> Given:
        """Return what the gate was given, as it was given."""
        return Given(self.settings, self._given, self._actor, self._resolver)

    async def trial(self, scope: Scope) -> tuple[Settings | None, BaseException | None]:
        """Start as a server's start does, close again, and return the settings and what went wrong.

        To be called where nothing is served. The checker is closed unless it was given.
        """
        failure: BaseException | None = None
        try:
            await self._start(scope)
        except BaseException as error:
            if ends_task(error):
                raise
            failure = error
        finally:
            with anyio.move_on_after(CLOSING, shield=True), contextlib.suppress(Exception):
                await self.close()
        return (self.settings if isinstance(self.settings, Settings) else None), failure

    def contract(self, app: object = None) -> HandlerContract:
        """Return the handler contract that fits what would start now, in the middleware of ``app``.

        Raises what :func:`contract_of` does, and :class:`ConfigError` where there is a ``resolver``.
        """
        self._require_routes()
        return contract_of(self._app, self._settings(), checker=self._given, within=app)

    def _require_routes(self) -> None:
        if self._resolver is not None:
            raise ConfigError("resolver", self._resolver, "none where there is a contract, which says what routes need")

    async def _contract(self, settings: Settings, target: Target) -> HandlerContract | None:
        """Return the contract that settings name, if they name one, once vocabulary and routes agree with it."""
        path = settings.contract
        if path is None:
            return None
        self._require_routes()
        contract = await anyio.to_thread.run_sync(lambda: read_contract(path, limits=settings.limits))
        check_application(contract, target, settings)
        return contract

    def _report(
        self, settings: Settings, point: RequestPoint, target: Target, scope: Scope, *, monitored: bool
    ) -> None:
        denied: list[str] = []
        try:
            check_inside(self._app, _log)
            if self._resolver is None:
                denied = check_routes(target, point.public, _log, monitored=monitored)
        except Exception as error:  # only a report: what it cannot describe is denied all the same
            _log.warning("the routes could not be reported", exc_info=True)
            if settings.strict:
                raise ConfigError("strict", f"{type(error).__name__} while routes were listed", _STRICT) from error
        if settings.openapi and self._resolver is None:
            describe(scope.get("app"), target, point.public, settings.www_authenticate)
        if settings.strict and denied:
            raise ConfigError("strict", ", ".join(denied), _STRICT)

    async def close(self) -> None:
        """Forget what was started, and close its checker if it was made here. A request that comes later starts anew.

        A checker that was passed in is its owner's to close.
        """
        self.point = self.failure = None
        self._failures = 0
        if self._period is not None:
            self._period.leave()
        try:
            await self._close_owned()
        finally:
            await anyio.to_thread.run_sync(flush)

    async def _close_owned(self, *, quietly: bool = False) -> None:
        checker, self._owned = self._owned, None
        if checker is None:
            return
        try:
            await checker.aclose()
        except Exception as error:
            if not quietly:
                raise
            _log.error("a policy checker could not be closed: %s", type(error).__name__)

    async def lifespan(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass ``lifespan`` through: start before the application does, and close after it.

        A start that fails is told to the server, and raised.
        """
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
                if not isinstance(failure, Exception):  # an engine's panic: nobody is to take it for the end of a task
                    raise PolicyUnavailable(explain(failure)) from failure
                raise failure
        passing = _PassingLifespan(self, startup, receive, send)
        try:
            await app(scope, passing.receive, passing.send)
        finally:
            # An application without lifespan raises at once; requests then come all the same, and what started stays.
            if passing.serving:
                with anyio.move_on_after(CLOSING, shield=True):
                    await self.close()


class _PassingLifespan:
    """The channels of a lifespan whose first message was read already. Closes before shutdown is complete."""

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
            self.serving = False  # a server ends its loop when it has the message: nothing may be left to close
        await self._send(message)


def explain(error: BaseException) -> str:
    """Say what went wrong, in printable ASCII: for capgate's own errors in their words, which quote settings only."""
    text = str(error) if isinstance(error, CapgateError) else f"{type(error).__name__}: {error}"
    return printable(text.replace("\\", "/"), TEXT_LIMIT) or type(error).__name__
