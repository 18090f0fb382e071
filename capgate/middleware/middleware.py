"""Puts a seal around each request of an application: the policy enforcement point, pure ASGI middleware.

The middleware lets a request in as far as the application's routers. There it is asked about the route that it reached
(:mod:`capgate.routes.dispatch`). What is sent without that is replaced (:mod:`capgate.middleware.seal`).
"""

from __future__ import annotations

from typing import Any, NoReturn

from starlette.types import ASGIApp, Receive, Scope, Send

from ..checker.base import PolicyChecker
from ..routes.contract import HandlerContract
from ..settings.settings import Settings
from .request import GatedRequest
from .startup import ActorOf, ContextOf, Given, Resolver, Startup


class CapabilityMiddleware:
    """Asks a policy about what the endpoint of each request declares with :func:`~capgate.requires`.

    ``http`` and ``websocket`` are gated. ``lifespan`` passes through, and starts and closes the checker; without it
    the first request does. Any other kind of scope goes no further.

    ``settings``  how to judge; by default :meth:`Settings.from_env`, read at start-up
    ``checker``   the policy decision point, in place of the one that ``settings`` describe; its owner closes it. Of one
                  that is not capgate's, or a subclass that overrides ``check``, nothing but ``check`` is asked
    ``actor``     a function of the scope, or an async one, that gives the :data:`~capgate.model.Actor` who is asking,
                  in place of :func:`~capgate.middleware.actors.actor_from_user`
    ``resolver``  a function of the scope that gives what a request needs, in place of the application's routes: a
                  :class:`~capgate.routes.declare.Requirement`, several, :data:`~capgate.routes.seat.PUBLIC`, or
                  ``None`` (denied)
    ``context``   a function of the scope, or an async one, that gives what else is known of the moment, as a mapping of
                  facts: ``{"ip": scope["client"][0]}``. All questions of a request have it

    Whatever goes wrong is a denial: status 403 with a ``decision_id``, and an event in the log that says why
    (:mod:`capgate.events`). What the application raises passes untouched, but for
    :class:`~capgate.errors.CapabilityDenied`: that is the same 403, as long as no response began.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings | None = None,
        checker: PolicyChecker | None = None,
        actor: ActorOf | None = None,
        resolver: Resolver | None = None,
        context: ContextOf | None = None,
        router: object = None,
    ) -> None:
        self.app = app
        self._startup = Startup(type(self), app, settings, checker, actor, resolver, router, context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("type") == "lifespan":
            await self._startup.lifespan(self.app, scope, receive, send)
            return
        startup = self._startup
        request = GatedRequest(scope, send, _startup=startup, _point=startup.point)
        entered = request.enter_now()
        if entered is None:
            entered = await request.enter(receive)
        if entered is not None:
            if request.replay is not None:
                receive, request.replay = request.replay, None
            # As far as its routers. What they reach is asked about there, and nothing else can answer: see Seal.
            try:
                await self.app(scope, receive, request.send)
            except Exception as error:
                if not await request.answers(error):
                    raise
            finally:
                request.leave(entered)
            if not request.over and (request.denied or request.waiting is not None):
                await request.finish()
            return
        await request.refuse_now()

    def contract(self, app: object = None) -> HandlerContract:
        """Return the handler contract that fits what would start now, in the middleware of ``app``.

        Raises what :func:`~capgate.middleware.contract.contract_of` does, and :class:`ConfigError` where there is a
        ``resolver``.
        """
        return self._startup.contract(app)

    def given(self) -> Given:
        """Return what this was made with."""
        return self._startup.given()

    async def trial(self, scope: Scope) -> tuple[Settings | None, BaseException | None]:
        """Start as in the lifespan of ``scope``, close again, and return the settings and what went wrong, if anything.

        To be called where nothing is served, as ``capgate doctor`` does.
        """
        return await self._startup.trial(scope)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a CapabilityMiddleware belongs to its process and is not copied or pickled; make another one")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self.__reduce__()
