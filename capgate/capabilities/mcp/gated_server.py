"""Gates MCP servers over streamable HTTP: each tool call is a question before the server sees it.

::

    server = MCPServer("workshop")                                                       # of the official SDK
    inside = server.streamable_http_app(streamable_http_path="/")
    app = Starlette(
        routes=[Mount("/mcp", GatedMCP(inside, action={"read_module": "tool.inspect", "rename": "tool.modify"}))],
        lifespan=lambda app: server.session_manager.run(),
    )
    app.add_middleware(CapabilityMiddleware, settings=settings)

Tools that ask on their own (:func:`~capgate.capabilities.tools.gated_tool`, or any gated capability in them) are asked
for the same actor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Union

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from ...enforcement.capabilities import Capabilities
from ...enforcement.current import current, using
from ...enforcement.point import denial_in, deny_unasked
from ...enforcement.response import refuse
from ...errors import CapabilityDenied, ConfigError, MalformedInput, PolicyUnavailable
from ...events import printable
from ...limits import BODY_BYTES, check_number
from ...log_writer import BackgroundLogger
from ...model import Actor, Decision
from . import jsonrpc as rpc
from .exchange import BatchExchange, check_headers, check_routing, read_whole, replay, respond, without_body
from .message_questions import NAMES, ActionOf, ArgumentsOf, MessageQuestion, MessageQuestions

_log = BackgroundLogger("capgate")

#: Whom to ask; or the denial where there is nobody; or ``None`` where nothing is asked.
CapabilitiesOrDenial = Union[Capabilities, Decision, None]


class GatedMCP:
    """Around the ASGI application of an MCP server: asks the policy about each ``tools/call`` that is posted.

    ``action``          what calling a tool is: one action for all, a mapping from the tool's name, or a function of it.
                        A tool that is not in the mapping is denied, ``unknown_action``. By default
                        ``tool.modify``: a tool of which nothing is known may change things
    ``methods``         other methods to ask about, with their action, as ``{"resources/read": "fs.read"}``
    ``args``            arguments that the policy sees, by the tool's name: ``{"refund": ["amount"]}``, or ``{"refund":
                        {"order_id": "orderId"}}`` by names that the policy has for them; or a function of the tool's
                        name and its arguments that gives them as a mapping
    ``actor``           a function of the scope, or an async one, that gives the actor in place of the request's
    ``capabilities``    whom to ask, in place of those of the request
    ``body_bytes``      of a request; a longer one is answered 413
    ``answer_bytes``    of all answers to one batch together; what has no room is an error
    ``expose_reasons``  tell clients why they were denied

    The question: the action, ``tool:<name>`` exactly as sent, and as ``args_hash``
    :func:`~capgate.capabilities.tools.canonical_hash` of ``params.arguments`` (``{}`` where there are none). For
    another method the resource has the kind of its action. Its id is the ``name`` or ``uri`` of the params, else the
    method, and the hash is of the params without ``_meta``. Arguments without a canonical form are denied.

    Denied: status 200 with a JSON-RPC error, code -32010, "Denied by policy", and ``decision_id`` in its data. A denied
    notification gets 202, as any. What is not strictly a JSON-RPC message gets an error, and reaches the server no more
    than what was denied. What was allowed reaches it byte for byte.

    A batch is taken apart: each message that may pass is a request of its own, in order, and the answers are one array.
    A tool that, meanwhile, asks its client something is cancelled, since nobody could answer.

    Not gated: every other method (listing, prompts, resources, answers of the client) and the requests GET, DELETE,
    HEAD and OPTIONS, whose bodies are withheld. So it belongs around the MCP endpoint, and not around an application
    with other routes. The gate outside lets everything reach it. Not part of the hash: ``_meta``, and what a client
    answers in later rounds of one call (``inputResponses``). Not for the older HTTP+SSE transport.
    """

    #: The gate outside lets requests pass unasked, since they are asked about here.
    __capgate_asks_itself__ = True

    def __init__(
        self,
        app: ASGIApp,
        *,
        action: ActionOf = "tool.modify",
        methods: Mapping[str, str] | None = None,
        args: ArgumentsOf | None = None,
        actor: Callable[[Scope], Actor | Awaitable[Actor]] | None = None,
        capabilities: Capabilities | None = None,
        body_bytes: int = 1_048_576,
        answer_bytes: int = 4_194_304,
        expose_reasons: bool = False,
    ) -> None:
        if not (capabilities is None or isinstance(capabilities, Capabilities)):
            raise ConfigError("capabilities", capabilities, "a capgate.capabilities.Capabilities")
        if not (actor is None or callable(actor)):
            raise ConfigError("actor", actor, "a function of the scope")
        check_number("body_bytes", body_bytes, *BODY_BYTES, whole=True)
        check_number("answer_bytes", answer_bytes, *BODY_BYTES, whole=True)
        self.app = app
        self._questions = MessageQuestions(action, methods or {}, args)
        self._actor = actor
        self._capabilities = capabilities
        self._body_bytes = body_bytes
        self._answer_bytes = answer_bytes
        self._expose_reasons = expose_reasons

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            decision = deny_unasked(MalformedInput("MCP is served over HTTP only"), None, scope)
            await refuse(scope, send, decision.decision_id or "")
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD", "DELETE", "OPTIONS"):
            with _in_force(self._held(scope)):
                await self.app(scope, without_body(receive), send)
        else:
            await respond(send, 405, None, (b"allow", b"GET, HEAD, DELETE, OPTIONS, POST"))

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_headers(scope)
            body = await read_whole(receive, self._body_bytes)
            content = rpc.read_body(body)
            check_routing(scope, None if isinstance(content, list) else content, NAMES)
            messages = content if isinstance(content, list) else [content]
            questions = [self._questions.of(message) for message in messages]
        except rpc.ProtocolError as error:
            await respond(send, error.status, rpc.encode(rpc.error(error.id, error.code, error.message)))
            return
        held = self._held(scope, any(questions))
        if isinstance(content, list):
            exchange = BatchExchange(self.app, scope, receive, self._answer_bytes)
            await self._batch(exchange, list(zip(messages, questions, strict=True)), held, send)
            return
        denial = await _denial(questions[0], held)
        if denial is None:
            denial = await self._pass(scope, replay(body, receive), send, held)
        if denial is not None:
            await respond(send, *self._refusal(content, denial))

    def _held(self, scope: Scope, asks: bool = False) -> CapabilitiesOrDenial:
        """Return whom to ask, and who acts in the server; ``None`` where that is whoever it is anyway."""
        if not asks and self._capabilities is None and self._actor is None:
            return None
        try:
            held = current() if self._capabilities is None else self._capabilities
        except CapabilityDenied as denied:
            decision: Decision = denied.decision
            return decision
        return held if self._actor is None else held.for_actor_in(scope, self._actor)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, held: CapabilitiesOrDenial) -> Decision | None:
        """Let the server answer. Return the denial of something that it tried, if that was all that came of it."""
        began = False

        async def watch(event: Event) -> None:
            nonlocal began
            began = True
            await send(event)

        try:
            with _in_force(held):
                await self.app(scope, receive, watch)
        except Exception as error:
            denial = denial_in(error)
            if denial is None or began:
                raise
            return denial
        return None

    async def _batch(
        self,
        exchange: BatchExchange,
        pairs: list[tuple[rpc.Message, MessageQuestion | None]],
        held: CapabilitiesOrDenial,
        send: Send,
    ) -> None:
        results = [await self._answer(exchange, message, question, held) for message, question in pairs]
        answers = [answer for answer in results if answer is not None]
        await respond(send, 200 if answers else 202, b"[" + b",".join(answers) + b"]" if answers else None)

    async def _answer(
        self,
        exchange: BatchExchange,
        message: rpc.Message,
        question: MessageQuestion | None,
        held: CapabilitiesOrDenial,
    ) -> bytes | None:
        """Return the answer to one message of a batch, ``None`` where it gets none."""
        denial = await _denial(question, held)
        if denial is None:
            try:
                with _in_force(held):
                    return await exchange.ask(message)
            except Exception as error:
                denial = denial_in(error)
                if denial is None:
                    _log.error("the MCP server failed: %s", type(error).__name__, exc_info=error)
                    failed = rpc.error(message.id, rpc.INTERNAL_ERROR, "Internal error")
                    return rpc.encode(failed) if message.wants_answer else None
        return self._refusal(message, denial)[1]

    def _refusal(self, message: rpc.Message, denial: Decision) -> tuple[int, bytes | None]:
        """Return status and body for a message that was denied."""
        if not message.wants_answer:
            return 202, None
        data = {"decision_id": denial.decision_id}
        if self._expose_reasons:
            data["reason"] = printable(getattr(denial.result, "reason", None))
        return 200, rpc.encode(rpc.error(message.id, rpc.DENIED, "Denied by policy", data))


def _in_force(held: CapabilitiesOrDenial) -> AbstractContextManager[object]:
    return using(held) if isinstance(held, Capabilities) else nullcontext()


async def _denial(question: MessageQuestion | None, held: CapabilitiesOrDenial) -> Decision | None:
    """Return the denial of ``question``; ``None`` where it is allowed, or nothing was asked for."""
    if question is None:
        return None
    if not isinstance(held, Capabilities):
        return held or deny_unasked(PolicyUnavailable("there is nobody to ask"), None, {})
    try:
        await held.require(question.action, question.resource, args_hash=question.hash, args=question.args)
        if question.problem is not None:  # not even where a checker of the application's allowed it
            held.deny(question.problem)
    except CapabilityDenied as denied:
        decision: Decision = denied.decision
        return decision
    return None
