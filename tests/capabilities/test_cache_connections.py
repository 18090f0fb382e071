"""Connections of a gated Redis client: they stay in step, are made again, and introduce themselves."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.capabilities.cache import gate_redis
from capgate.model import ALLOW, PolicyInput, PolicyResult, User

from ..support.gates import make_checker
from ..support.redis_server import RedisServer
from .redis_clients import admitting, async_client, client


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows no other."""
    return "asyncio"


def test_connections_stay_in_step(server: RedisServer) -> None:
    before = server.plain.info("stats")["total_connections_received"]
    with using(admitting()), client(server, max_connections=1, decode_responses=True) as cache:
        for number in range(50):
            with pytest.raises(CapabilityDenied):
                cache.set("secret:s", number)
            assert cache.set(f"orders:{number}", number)
            with pytest.raises(CapabilityDenied):
                cache.pipeline().get("orders:s").get("secret:s").execute()
            assert cache.get(f"orders:{number}") == str(number)
            assert cache.mget("orders:s", f"orders:{number}") == ["seven", str(number)]
    assert server.plain.info("stats")["total_connections_received"] == before + 1, "one connection did all of it"


async def test_a_task_that_is_cancelled_while_it_asks_sends_nothing(server: RedisServer) -> None:
    asked = anyio.Event()

    class Waiting:
        async def check(self, input: PolicyInput) -> PolicyResult:
            asked.set()
            await anyio.sleep_forever()
            raise AssertionError("nobody wakes it")

    async def store(cache: Any) -> None:
        with using(capabilities_for(Waiting(), User("ann"), deadline=60.0)):
            await cache.set("orders:s", "changed")

    async with async_client(server, max_connections=1) as cache:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store, cache)
            await asked.wait()
            tasks.cancel_scope.cancel()
        with using(admitting()):
            assert await cache.get("orders:s") == b"seven"
    assert "set" not in server.commands()


def test_threads_that_share_a_client_are_judged_each_by_its_own(server: RedisServer) -> None:
    nothing = capabilities_for(make_checker("local", {}), User("bob"))
    found: dict[int, list[object]] = {}

    def get() -> object:
        try:
            return cache.get("orders:s")
        except CapabilityDenied as error:
            return error.decision.input.actor.id

    def work(number: int) -> None:
        with using(nothing if number % 2 else admitting()):
            found[number] = [get() for _ in range(20)]

    with client(server) as cache:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [("bob" if number % 2 else b"seven")] * 20 for number in range(4)}


def test_a_lost_connection_is_made_again_as_it_was(server: RedisServer) -> None:
    options = {"db": 2, "client_name": "orders-worker", "max_connections": 1, "decode_responses": True}
    with using(admitting()), client(server, **options) as cache:
        cache.set("orders:1", "x")
        for _ in range(3):
            server.plain.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(CapabilityDenied):
                cache.set("secret:1", "x")
            assert cache.get("orders:1") == "x"
            assert "orders-worker" in {one["name"] for one in server.plain.client_list()}
    assert (2, b"orders:1") in server.contents()
    assert (2, b"secret:1") not in server.contents()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_authentication_and_health_checks(protocol: int, server: RedisServer) -> None:
    server.plain.acl_setuser("shop", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"])
    options = {"username": "shop", "password": "pw", "protocol": protocol, "health_check_interval": 600, "db": 1}
    try:
        with using(admitting()):
            with client(server, **options) as cache:
                assert cache.set("orders:1", "x")
                make_health_check_due(cache)
                with pytest.raises(CapabilityDenied):
                    cache.get("secret:1")
                assert cache.get("orders:1") == b"x"
            async with async_client(server, **options) as cache:
                assert await cache.get("orders:1") == b"x"
                make_health_check_due(cache)
                with pytest.raises(CapabilityDenied):
                    await cache.get("secret:1")
                assert await cache.get("orders:1") == b"x"
    finally:
        server.plain.acl_deluser("shop")
    assert server.commands()["ping"] >= 2


def make_health_check_due(cache: Any) -> None:
    (connection,) = cache.connection_pool._available_connections
    connection.next_health_check = 0


def test_nobody_else_may_introduce_a_connection(server: RedisServer) -> None:
    """A function that runs while the connection is made is judged like any other code, but for the introduction."""

    def on_connect(connection: Any) -> None:
        connection.on_connect()
        connection.send_command("SET", "secret:s", "x")
        connection.read_response()

    with using(admitting()), client(server, redis_connect_func=on_connect, db=1) as cache:
        for _ in range(2):
            with pytest.raises(CapabilityDenied):
                cache.get("orders:s")
        assert all(one._sock is None for one in cache.connection_pool._available_connections)
    assert server.plain.get("secret:s") == b"hidden"


async def test_nobody_else_may_introduce_a_connection_async(server: RedisServer) -> None:
    async def on_connect(connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("SELECT", 0)
        await connection.read_response()

    with using(admitting()):
        async with async_client(server, redis_connect_func=on_connect, db=1) as cache:
            for _ in range(2):
                with pytest.raises(CapabilityDenied):
                    await cache.get("orders:s")
            assert not any(one.is_connected for one in cache.connection_pool._available_connections)


async def test_what_is_sent_is_what_was_asked_about(server: RedisServer) -> None:
    """A value in a buffer that somebody changes while the policy is asked; big enough not to be copied by redis-py."""
    buffer = bytearray(b"x" * 20_000)

    class Changing:
        async def check(self, input: PolicyInput) -> PolicyResult:
            buffer[:] = b"y" * 20_000
            return ALLOW

    with using(capabilities_for(Changing(), User("ann"), deadline=20.0)):
        async with async_client(server) as cache:
            await cache.set("orders:1", memoryview(buffer))
    assert server.plain.get("orders:1") == b"x" * 20_000


@pytest.mark.parametrize("kind", ["blocking", "unix", "url", "shared", "single"])
async def test_ways_to_make_a_client(kind: str, server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"

    def make(library: Any) -> Any:
        if kind == "blocking":
            pool = library.BlockingConnectionPool(host="127.0.0.1", port=server.port, max_connections=1)
            return library.Redis.from_pool(pool)
        if kind == "unix":
            return library.Redis(unix_socket_path=str(server.socket))
        if kind == "shared":
            return library.Redis(connection_pool=library.ConnectionPool.from_url(url))
        return library.Redis.from_url(url)

    with using(admitting()):
        given = make(redis)
        cache: Any = gate_redis(given)
        assert cache is given
        others = [cache.client()] if kind == "single" else []
        if kind == "shared":
            others = [redis.Redis(connection_pool=cache.connection_pool)]
        for one in (cache, *others):
            for _ in range(3):
                assert one.get("orders:s") == b"seven"
                with pytest.raises(CapabilityDenied):
                    one.get("secret:s")
            one.close()
        cache.connection_pool.disconnect()
        async with gate_redis(make(redis.asyncio)) as async_cache:
            for _ in range(3):
                assert await async_cache.get("orders:s") == b"seven"
                with pytest.raises(CapabilityDenied):
                    await async_cache.get("secret:s")
        await async_cache.connection_pool.disconnect()
