"""What takes several commands of Redis: pipelines, transactions, locks, subscriptions."""

from __future__ import annotations

import threading

import pytest

from capgate.capabilities import CapabilityDenied, capabilities_for, using
from capgate.model import User

from ..support.gates import Recording, make_checker
from ..support.redis_server import RedisServer
from .redis_clients import POLICY, admitting, async_client, client, refusal


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows no other."""
    return "asyncio"


# -- pipelines and transactions


@pytest.mark.parametrize("transaction", [True, False])
def test_a_pipeline_with_one_denied_command_sends_nothing(transaction: bool, server: RedisServer) -> None:
    before = server.contents()
    with using(admitting()), client(server, max_connections=1) as cache:
        server.plain.config_resetstat()
        for denied in (("SET", "secret:s", "x"), ("FLUSHALL",), ("EVAL", "return 1", 0), ("GET", b"\xff")):
            pipe = cache.pipeline(transaction=transaction)
            pipe.set("orders:1", "x").set("orders:2", "x").execute_command(*denied)
            with pytest.raises(CapabilityDenied):
                pipe.execute()
        assert set(server.commands()) <= {"hello", "client|setinfo", "info", "config|resetstat"}
        assert server.contents() == before
        pipe = cache.pipeline(transaction=transaction)
        assert pipe.set("orders:1", "x").get("orders:1").incr("orders:n").execute() == [True, b"x", 1]


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_pipeline_is_asked_about_once(transaction: bool, server: RedisServer) -> None:
    recording = Recording(make_checker("local", POLICY))
    with using(capabilities_for(recording, User("ann"), deadline=20.0)):
        async with async_client(server) as cache:
            pipe = cache.pipeline(transaction=transaction)
            pipe.set("orders:1", "x").set("orders:2", "y").get("orders:1").set("locks:1", "z")
            assert await pipe.execute() == [True, True, b"x", True]
            assert recording.questions == [
                ("cache.write", "orders"),
                ("cache.read", "orders"),
                ("cache.write", "locks"),
            ]
            before = server.contents()
            pipe = cache.pipeline(transaction=transaction).set("orders:1", "q").delete("secret:s")
            with pytest.raises(CapabilityDenied):
                await pipe.execute()
    assert server.contents() == before


def test_a_big_pipeline_is_judged_as_a_whole(server: RedisServer) -> None:
    """redis-py sends it in chunks; the denied command is in the last one."""
    before = server.contents()
    with using(admitting()), client(server) as cache:
        pipe = cache.pipeline(transaction=False)
        for number in range(500):
            pipe.set(f"orders:{number}", b"x" * 10_000)
        with pytest.raises(CapabilityDenied):
            pipe.set("secret:s", "x").execute()
        assert server.contents() == before


def test_watched_transactions(server: RedisServer) -> None:
    with using(admitting()), client(server, max_connections=1) as cache:
        with cache.pipeline() as pipe:
            pipe.watch("orders:s")
            with pytest.raises(CapabilityDenied):
                pipe.get("secret:s")
            assert pipe.get("orders:s") == b"seven"
            with pytest.raises(CapabilityDenied):
                pipe.watch("secret:s")
            pipe.multi()
            pipe.set("orders:s", "eight")
            assert pipe.execute() == [True]
        with cache.pipeline() as pipe:
            pipe.watch("orders:s")
            pipe.multi()
            with pytest.raises(CapabilityDenied):
                pipe.set("secret:s", "x").execute()
        assert cache.get("orders:s") == b"eight"
        assert cache.transaction(lambda pipe: pipe.multi() or pipe.incr("orders:n"), "orders:n") == [1]
    assert server.plain.get("secret:s") == b"hidden"


# -- locks, subscriptions, blocking commands


def test_locks(server: RedisServer) -> None:
    with using(admitting()), client(server) as cache:
        with cache.lock("locks:one", timeout=3_000) as lock:
            assert server.plain.exists("locks:one")
            assert lock.extend(30)
            assert lock.reacquire()
        assert not server.plain.exists("locks:one")
        with pytest.raises(CapabilityDenied):
            cache.lock("secret:lock", timeout=3_000).acquire()
        stolen = cache.lock("secret:s", timeout=3_000)
        stolen.local.token = b"hidden"  # as if it were ours
        with pytest.raises(CapabilityDenied):
            stolen.release()
    assert server.plain.get("secret:s") == b"hidden"
    assert not server.plain.exists("secret:lock")


async def test_locks_async(server: RedisServer) -> None:
    with using(admitting()):
        async with async_client(server) as cache:
            async with cache.lock("locks:one", timeout=3_000):
                assert server.plain.exists("locks:one")
            assert not server.plain.exists("locks:one")
            with pytest.raises(CapabilityDenied):
                await cache.lock("secret:lock", timeout=3_000).acquire()
    assert not server.plain.exists("secret:lock")


def test_subscriptions(server: RedisServer) -> None:
    listener = server.plain.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("secret:news", "orders:news")
    assert [listener.get_message(timeout=200) for _ in range(2)] == [None, None]
    with using(admitting()), client(server) as cache:
        with pytest.raises(CapabilityDenied) as error:
            cache.publish("secret:news", "x")
        assert refusal(error)[:2] == ("cache.write", "secret")
        own = cache.pubsub(ignore_subscribe_messages=True)
        own.subscribe("orders:news")
        assert own.get_message(timeout=200) is None
        for names in (("secret:news",), ("orders:news", "secret:news"), ("__keyspace@0__:orders:s",)):
            with pytest.raises(CapabilityDenied):
                own.subscribe(*names)
        with pytest.raises(CapabilityDenied):
            own.psubscribe("orders:*")
        assert server.plain.pubsub_numsub("secret:news") == [(b"secret:news", 1)]
        assert server.plain.pubsub_numpat() == 0
        assert cache.publish("orders:news", "hello") == 2
        assert own.get_message(timeout=200)["data"] == b"hello"
        own.unsubscribe()
        own.close()
    assert listener.get_message(timeout=200)["data"] == b"hello"
    listener.close()


async def test_subscriptions_async(server: RedisServer) -> None:
    with using(admitting()):
        async with async_client(server) as cache, cache.pubsub(ignore_subscribe_messages=True) as own:
            await own.subscribe("orders:news")
            assert await own.get_message(timeout=200) is None
            for attempt in (own.subscribe("secret:news"), own.psubscribe("*"), cache.publish("secret:news", "x")):
                with pytest.raises(CapabilityDenied):
                    await attempt
            assert await cache.publish("orders:news", "hello") == 1
            assert (await own.get_message(timeout=200))["data"] == b"hello"
    assert server.plain.pubsub_numpat() == 0


def test_a_subscription_is_asked_about_again_when_it_is_renewed(server: RedisServer) -> None:
    with client(server) as cache:
        with using(admitting()):
            own = cache.pubsub()
            own.subscribe("orders:news")
            assert own.get_message(timeout=200)["type"] == "subscribe"
            own.connection.disconnect()
            own.connection.connect()
            assert own.get_message(timeout=200)["type"] == "subscribe"
            own.connection.disconnect()
        with using(capabilities_for(make_checker("local", {}), User("ann"))), pytest.raises(CapabilityDenied):
            own.connection.connect()
        assert own.connection._sock is None
        own.close()
    assert server.commands()["subscribe"] == 2


def test_blocking_commands(server: RedisServer) -> None:
    with using(admitting()), client(server) as cache:
        with pytest.raises(CapabilityDenied):
            cache.blpop(["orders:none", "secret:l"], timeout=1)
        waiting = threading.Timer(0.05, server.plain.rpush, ["orders:later", "x"])
        waiting.start()
        assert cache.blpop(["orders:later"], timeout=3_000) in ((b"orders:later", b"x"), [b"orders:later", b"x"])
        waiting.join()
    assert server.plain.llen("secret:l") == 3
