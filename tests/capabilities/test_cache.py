"""Gated redis with a real server: what is denied changes nothing there, and connections stay in step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.credentials import StreamingCredentialProvider
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.cache import gate_redis
from capgate.errors import ConfigError
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult, Resource, User

from ..support.asgi import Call, http_scope
from ..support.gates import events, gated, make_checker, read
from ..support.redis_server import RedisServer
from .kinds import KINDS
from .redis_clients import POLICY, admitting, async_client, client, refusal


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows no other."""
    return "asyncio"


# -- the plain way


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_sync_client_reaches_its_namespaces_and_no_other(kind: str, protocol: int, server: RedisServer) -> None:
    with using(admitting(kind)), client(server, protocol=protocol, decode_responses=True) as cache:
        assert cache.set("orders:1", "paid")
        assert cache.get("orders:1") == "paid"
        before = server.contents()
        with pytest.raises(CapabilityDenied) as error:
            cache.set("secret:s", "changed")
        assert refusal(error) == ("cache.write", "secret", "not_in_allowlist")
        with pytest.raises(CapabilityDenied) as error:
            cache.get("secret:s")
        assert refusal(error) == ("cache.read", "secret", "not_in_allowlist")
    assert server.contents() == before
    assert (server.commands()["set"], server.commands()["get"]) == (1, 1)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
async def test_async_client_reaches_its_namespaces_and_no_other(kind: str, protocol: int, server: RedisServer) -> None:
    with using(admitting(kind)):
        async with async_client(server, protocol=protocol, decode_responses=True) as cache:
            assert await cache.set("orders:1", "paid")
            assert await cache.get("orders:1") == "paid"
            before = server.contents()
            for attempt in (cache.set("secret:s", "changed"), cache.get("secret:s")):
                with pytest.raises(CapabilityDenied) as error:
                    await attempt
                assert refusal(error)[1] == "secret"
    assert server.contents() == before
    assert (server.commands()["set"], server.commands()["get"]) == (1, 1)


def test_nobody_to_ask_is_a_denial(server: RedisServer) -> None:
    with client(server) as cache:
        assert cache.ping()
        with pytest.raises(CapabilityDenied) as error:
            cache.get("orders:s")
    assert error.value.decision.result.reason == "policy_unavailable"
    assert "get" not in server.commands()


def test_capabilities_given_at_the_start_hold_whoever_is_current(server: RedisServer) -> None:
    nothing = capabilities_for(make_checker("local", {}), User("ann"))
    with gate_redis(server.client(), capabilities=admitting()) as cache:
        assert cache.get("orders:s") == b"seven"
        with using(nothing):
            assert cache.get("orders:s") == b"seven"
    judged = gate_redis(server.client(), capabilities=nothing)
    with judged as cache, using(admitting()), pytest.raises(CapabilityDenied):
        cache.get("orders:s")


# -- reading and writing


class OnlyReading:
    async def check(self, input: PolicyInput) -> PolicyResult:
        return ALLOW if input.action == "cache.read" else Deny("read_only")


class OnlyWriting:
    async def check(self, input: PolicyInput) -> PolicyResult:
        return ALLOW if input.action == "cache.write" else Deny("write_only")


READS = ["GET orders:s", "TTL orders:s", "LRANGE orders:l 0 -1", "XREAD STREAMS orders:x 0", "PFCOUNT orders:none"]


WRITES = ["SET orders:s x", "LPUSH orders:l x", "DEL orders:s", "PUBLISH orders:x y", "EXPIRE orders:s 100"]


BOTH = ["INCR orders:n", "LPOP orders:l", "GETDEL orders:s", "SET orders:s x GET", "GETEX orders:s", "SPOP orders:set"]


@pytest.mark.parametrize(("checker", "passes"), [(OnlyReading(), READS), (OnlyWriting(), WRITES)])
async def test_a_reply_that_tells_is_a_read_and_a_change_is_a_write(
    checker: Any, passes: list[str], server: RedisServer
) -> None:
    with using(capabilities_for(checker, User("ann"), deadline=20.0)):
        async with async_client(server) as cache:
            for line in (*READS, *WRITES, *BOTH):
                if line in passes:
                    await cache.execute_command(*line.split())
                    continue
                before = server.contents()
                with pytest.raises(CapabilityDenied):
                    await cache.execute_command(*line.split())
                assert server.contents() == before, line


# -- what is not gated because it is not accepted


class OwnConnection(redis.Connection):
    pass


class OwnPool(redis.ConnectionPool):
    pass


def sentinel() -> redis.Redis:
    library: Any = redis  # untyped there
    watched = library.Sentinel([("127.0.0.1", 1)])
    return redis.Redis(connection_pool=library.sentinel.SentinelConnectionPool("main", watched))


class Renewed(StreamingCredentialProvider):
    def get_credentials(self) -> Any:
        return ("ann", "secret")

    def on_next(self, callback: Any) -> None:
        pass

    def on_error(self, callback: Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True


UNSUPPORTED: dict[str, tuple[str, Callable[[], Any]]] = {
    "not a client": ("client", lambda: object()),
    "a pipeline": ("client", lambda: redis.Redis().pipeline()),
    "an async pipeline": ("client", lambda: redis.asyncio.Redis().pipeline()),
    "Sentinel": ("connection_pool", sentinel),
    "another pool": ("connection_pool", lambda: redis.Redis(connection_pool=OwnPool())),
    "a pool of the other kind": (
        "connection_pool",
        lambda: redis.Redis(connection_pool=redis.asyncio.ConnectionPool()),  # type: ignore[arg-type]
    ),
    "another connection": (
        "connection_class",
        lambda: redis.Redis(connection_pool=redis.ConnectionPool(connection_class=OwnConnection)),
    ),
    "gated already": ("connection_class", lambda: gate_redis(redis.Redis())),
    "client-side caching": ("cache", lambda: redis.Redis(protocol=3, cache_config=redis.cache.CacheConfig())),
    "renewed credentials": ("credential_provider", lambda: redis.Redis(credential_provider=Renewed())),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_cannot_be_gated_is_refused(name: str) -> None:
    setting, make = UNSUPPORTED[name]
    with pytest.raises(ConfigError) as error:
        gate_redis(make())
    assert error.value.setting == setting


def test_a_cluster_is_refused() -> None:
    cluster = object.__new__(redis.RedisCluster)  # one that is connected needs a cluster
    with pytest.raises(ConfigError) as error:
        gate_redis(cluster)  # type: ignore[type-var]
    assert error.value.setting == "client"


@pytest.mark.parametrize("options", [{"namespace": "orders"}, {"capabilities": object()}])
def test_options_that_are_not_usable(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as error:
        gate_redis(redis.Redis(), **options)
    assert [error.value.setting] == list(options)


async def test_a_client_with_connections_is_refused(server: RedisServer) -> None:
    """They would go on as they were."""
    used, single = server.client(), server.client(single_connection_client=True)
    library: Any = redis
    blocking = library.BlockingConnectionPool(host="127.0.0.1", port=server.port)
    connection = blocking.get_connection()
    pooled = redis.Redis(connection_pool=blocking)
    used.ping()
    async_used = server.async_client()
    await async_used.ping()
    candidates: tuple[Any, ...] = (used, single, pooled, async_used)
    for one in candidates:
        with pytest.raises(ConfigError) as error:
            gate_redis(one)
        assert error.value.setting == "client"
    blocking.release(connection)
    blocking.disconnect()
    used.close()
    single.close()
    await async_used.aclose()


# -- the whole way: an application that knows nothing of policies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["async", "sync"])
async def test_handlers_without_a_policy_call(kind: str, style: str, server: RedisServer) -> None:
    cache, async_cache = client(server), async_client(server)

    @read("good")
    async def put_async(request: Request) -> PlainTextResponse:
        await async_cache.set(request.query_params["key"], "new")
        return PlainTextResponse("stored")

    @read("good")
    def put_sync(request: Request) -> PlainTextResponse:
        cache.set(request.query_params["key"], "new")
        return PlainTextResponse("stored")

    checker = make_checker(kind, POLICY)
    app = gated([Route("/put", put_async if style == "async" else put_sync)], checker)

    async def call(key: str) -> Call:
        return await Call(http_scope("/put", query_string=f"key={key}".encode())).to(app)

    with events() as found:
        assert (await call("orders:1")).body == b"stored"
        answers = [await call("secret:s"), await call("%FF")]
    assert [answer.status for answer in answers] == [403, 403]
    assert [event["decision_id"] for event in found] == [answer.json["decision_id"] for answer in answers]
    assert (found[0]["action"], found[0]["resource_id"], found[0]["reason"]) == (
        "cache.write",
        "secret",
        "not_in_allowlist",
    )
    assert (await call("orders:2")).status == 200
    assert server.plain.mget("orders:1", "orders:2", "secret:s") == [b"new", b"new", b"hidden"]
    cache.close()
    await async_cache.aclose()
    await checker.aclose()


def test_resources_are_what_policies_see(server: RedisServer) -> None:
    with using(admitting()), client(server) as cache, pytest.raises(CapabilityDenied) as error:
        cache.get("secret:s")
    assert error.value.decision.input.resource == Resource("namespace", "secret")
