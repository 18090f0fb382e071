"""Gated redis: a client whose connections ask ``cache.read`` and ``cache.write`` before a command is sent.

::

    cache = gate_redis(redis.asyncio.from_url("redis://localhost"))      # or redis.Redis; before its first use
    await cache.set("orders:17", "paid")                                 # asks cache.write on namespace:orders

The gate is where a connection writes. It reads what is about to be sent: the bytes of the protocol. So it is the same
for single commands, pipelines, transactions, locks, subscriptions and whatever a library does with the client. All that
the commands of one write do is asked as one batch. If one of them is denied, nothing is sent, and the connection stays
usable.

The namespace of a key is what comes before its first colon; a key without one is its own namespace. Channels of PUBLISH
and SUBSCRIBE count as keys. A command is a read where its reply tells a value, a member or a field that was stored, or
whether a given one was. It is a write where it changes that. Often it is both: INCR, LPOP, SET with GET, and also SADD,
HSET, LREM. A write alone tells at most whether a key was there, and how much it holds: SET, DEL, LPUSH, APPEND.

Asked without an id, thus denied ``missing_resource``:

- a command that is not known, or does not fit its description: EVAL, KEYS, SCAN, FLUSHDB, CONFIG, SELECT and many more
  (see :mod:`capgate.capabilities.cache.redis_commands`)
- a key that is not UTF-8, and an empty namespace

PING, MULTI, EXEC, DISCARD, UNWATCH and the ends of subscriptions pass unasked. So does what a connection says to
introduce itself while it is made: HELLO, AUTH, SELECT of the database that the pool is configured with, CLIENT SETINFO
and the like. The scripts of redis-py's own locks are known, so locks work.

Not gated:

- replies, and messages of a subscription that was allowed, for as long as it lasts
- the address that a server sends its clients to during maintenance
- any code that makes another client or writes to the socket itself

A thread of ``run_in_thread`` has no request. A subscription can be renewed there only with ``capabilities``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, ClassVar, Final, TypeVar, Union

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncAbstractConnection
from redis.connection import AbstractConnection
from redis.credentials import StreamingCredentialProvider

from ...enforcement.capabilities import Capabilities, Question
from ...enforcement.current import current
from ...errors import CapabilityDenied, ConfigError
from ...model import Resource
from .redis_commands import NotUnderstood, accesses

Client = TypeVar("Client", bound=Union[redis.Redis, redis.asyncio.Redis])
#: What redis-py hands to a connection: commands as they are on the wire, whole or in pieces.
_Packed = Union[str, bytes, bytearray, memoryview, Iterable[bytes]]

_ACTIONS: Final = {"r": ("cache.read",), "w": ("cache.write",), "rw": ("cache.read", "cache.write")}
_LENGTH: Final = re.compile(rb"([*$])(0|[1-9][0-9]{0,9})\r\n", re.ASCII)

_POOLS: Final = (redis.ConnectionPool, redis.BlockingConnectionPool)
_ASYNC_POOLS: Final = (redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool)
_CONNECTIONS: Final = (redis.Connection, redis.SSLConnection, redis.UnixDomainSocketConnection)
_ASYNC_CONNECTIONS: Final = (
    redis.asyncio.Connection,
    redis.asyncio.SSLConnection,
    redis.asyncio.UnixDomainSocketConnection,
)

#: The connection that is being made here. It may introduce itself; nobody else who has hold of it may.
_CONNECTING: ContextVar[object] = ContextVar("capgate.redis", default=None)


def namespace_of(key: str) -> str:
    """Return what comes before the first colon of ``key``, or all of it."""
    return key.partition(":")[0]


def gate_redis(
    client: Client,
    *,
    namespace: Callable[[str], str] | None = None,
    capabilities: Capabilities | None = None,
) -> Client:
    """Gate ``client`` (:class:`redis.Redis` or :class:`redis.asyncio.Redis`) and return it.

    ``namespace``     gives the namespace of a key, in place of :func:`namespace_of`; where it raises, or gives no text,
                      the key has none
    ``capabilities``  whom to ask; by default those of the request that is being served

    To be called before the client is used. Its connection pool is changed, so every client that shares the pool is
    gated too, as are pipelines, subscriptions and locks made from it.

    Raises :class:`ConfigError` for what is not supported:

    - clusters and Sentinel
    - client-side caching, which answers without asking a connection
    - credentials that are renewed while connected
    - other classes of pools and connections
    - a pool that has connections already
    """
    is_async = isinstance(client, redis.asyncio.Redis)
    if not isinstance(client, (redis.Redis, redis.asyncio.Redis)) or isinstance(
        client, (redis.client.Pipeline, redis.asyncio.client.Pipeline)
    ):
        raise ConfigError("client", type(client).__name__, "redis.Redis or redis.asyncio.Redis")
    if namespace is not None and not callable(namespace):
        raise ConfigError("namespace", namespace, "a function from the text of a key to the name of its namespace")
    if capabilities is not None and not isinstance(capabilities, Capabilities):
        raise ConfigError("capabilities", capabilities, "Capabilities, or None for those of the current request")
    pool: Any = client.connection_pool
    _check_pool(client, pool, _ASYNC_POOLS if is_async else _POOLS)
    base = pool.connection_class
    if base not in (_ASYNC_CONNECTIONS if is_async else _CONNECTIONS):
        raise ConfigError("connection_class", base, "a connection class of redis-py, not gated yet")
    gate = _CommandGate(namespace or namespace_of, capabilities)
    mixin = AsyncGatedConnection if is_async else GatedConnection
    pool.connection_class = type(f"Gated{base.__name__}", (mixin, base), {"gate": gate})
    return client


class _CommandGate:
    """What the connections of one pool share: how keys are named, and whom to ask."""

    def __init__(self, namespace: Callable[[str], str], capabilities: Capabilities | None) -> None:
        self._namespace = namespace
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return current() if self._capabilities is None else self._capabilities

    def questions(self, data: bytes, *, connecting: bool) -> list[Question]:
        """Return what must be allowed for ``data`` to be sent, each question once."""
        questions: dict[tuple[str, str | None], Question] = {}
        try:
            for command in parse(data):
                for mode, key in accesses(command, connecting=connecting):
                    namespace = self._namespace_of(key)
                    for action in _ACTIONS[mode]:
                        questions[action, namespace] = (action, Resource("namespace", namespace))
        except NotUnderstood as error:
            seen = error.command[:64].decode("ascii", "backslashreplace")
            return [("cache.write", Resource("namespace", None, {"command": seen}))]
        return list(questions.values())

    def _namespace_of(self, key: bytes) -> str | None:
        try:
            name: object = self._namespace(key.decode())
        except Exception:  # the application's function may raise anything; what has no namespace is denied
            return None
        return name if type(name) is str and name else None


def parse(data: bytes) -> list[list[bytes]]:
    """Return the commands of ``data``: arrays of bulk strings of RESP, and nothing else.

    Raises :class:`NotUnderstood`, also for inline commands and for what is incomplete.

    https://redis.io/docs/latest/develop/reference/protocol-spec/#sending-commands-to-a-redis-server
    """
    commands: list[list[bytes]] = []
    at = 0
    while at < len(data):
        count, at = _length(data, at, b"*")
        command = []
        for _ in range(count):
            size, at = _length(data, at, b"$")
            command.append(data[at : at + size])
            at += size + 2
            if data[at - 2 : at] != b"\r\n":
                raise NotUnderstood(b"".join(command[:1]))
        if not command:
            raise NotUnderstood(b"")
        commands.append(command)
    return commands


def _length(data: bytes, at: int, marker: bytes) -> tuple[int, int]:
    match = _LENGTH.match(data, at)
    if match is None or match[1] != marker:
        raise NotUnderstood(b"")
    return int(match[2]), match.end()


def _joined(command: _Packed) -> bytes:
    """Copy what is to be sent once, so that it is what was asked about."""
    if isinstance(command, str):
        return command.encode()
    return bytes(command) if isinstance(command, (bytes, bytearray, memoryview)) else b"".join(command)


class GatedConnection(AbstractConnection):
    """What :func:`gate_redis` puts before the connection class of a pool."""

    gate: ClassVar[_CommandGate]

    def send_packed_command(self, command: _Packed, check_health: bool = True) -> None:
        """Send ``command``, as everything that redis-py sends. Raises :class:`CapabilityDenied` before it does."""
        data = _joined(command)
        questions = self.gate.questions(data, connecting=_CONNECTING.get() is self)
        if questions:
            self.gate.capabilities.require_all_now(questions)
        super().send_packed_command([data], check_health=check_health)  # type: ignore[no-untyped-call]  # redis has no types there

    def on_connect_check_health(self, check_health: bool = True) -> None:
        token = _CONNECTING.set(self)
        try:
            super().on_connect_check_health(check_health=check_health)
        finally:
            _CONNECTING.reset(token)

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        try:
            super().connect_check_health(*args, **options)
        except CapabilityDenied:
            # Denied was a function, or a subscription, that runs on connecting. It must not stay half made.
            self.disconnect()  # type: ignore[no-untyped-call]  # redis has no types there
            raise


class AsyncGatedConnection(AsyncAbstractConnection):
    """:class:`GatedConnection` for :mod:`redis.asyncio`."""

    gate: ClassVar[_CommandGate]

    async def send_packed_command(self, command: _Packed, check_health: bool = True) -> None:
        """Send ``command``, as everything that redis-py sends. Raises :class:`CapabilityDenied` before it does."""
        data = _joined(command)
        questions = self.gate.questions(data, connecting=_CONNECTING.get() is self)
        if questions:
            await self.gate.capabilities.require_all(questions)
        await super().send_packed_command([data], check_health=check_health)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        token = _CONNECTING.set(self)
        try:
            await super().on_connect_check_health(check_health=check_health)
        finally:
            _CONNECTING.reset(token)

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        try:
            await super().connect_check_health(*args, **options)
        except CapabilityDenied:
            await self.disconnect()
            raise


def _check_pool(client: object, pool: Any, pools: Iterable[type]) -> None:
    """Raise :class:`ConfigError` unless ``pool`` is one of ``pools``, is plain, and has no connection yet."""
    if type(pool) not in pools:
        raise ConfigError("connection_pool", type(pool).__name__, "ConnectionPool or BlockingConnectionPool")
    if getattr(pool, "cache", None) is not None:
        raise ConfigError("cache", "client-side caching", "a client that asks the server each time")
    if isinstance(pool.connection_kwargs.get("credential_provider"), StreamingCredentialProvider):
        raise ConfigError("credential_provider", "a streaming one", "credentials that last as long as a connection")
    # What was handed out before the gate would lead past it. These names are redis-py's own; one of them must be there.
    held = [getattr(pool, name) for name in ("_available_connections", "_connections") if hasattr(pool, name)]
    held += [getattr(client, "connection", None), getattr(pool, "_in_use_connections", None)]
    if len(held) < 3 or any(held):
        raise ConfigError("client", "a client with connections", "a client that was not used yet")
