"""Gated redis with a real server: what is denied changes nothing there, and connections stay in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio
from redis.credentials import StreamingCredentialProvider
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from capgate.capabilities import Capabilities, CapabilityDenied, capabilities_for, using
from capgate.capabilities.cache import gate_redis
from capgate.errors import ConfigError
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult, Resource, User

from ..support.asgi import Call, http_scope
from ..support.gates import KINDS, Recording, events, gated, make_checker, read
from ..support.redis_server import RedisServer, redis_server
from .test_redis_commands import REFUSED

POLICY: dict[str, Any] = {"cache": ["orders", "locks"], "sql": ["good"]}
#: One key for each namespace, of the type that its name says; "secret" is denied.
SEED = {"orders:s": "seven", "secret:s": "hidden"}


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows no other."""
    return "asyncio"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """With a little in it, and no command counted."""
    running.forget()
    running.plain.mset(SEED)
    for name in ("orders", "secret"):
        running.plain.rpush(f"{name}:l", "a", "b", "c")
        running.plain.sadd(f"{name}:set", "m")
        running.plain.zadd(f"{name}:z", {"m": 1})
        running.plain.hset(f"{name}:h", "f", "v")
        running.plain.xadd(f"{name}:x", {"f": "v"}, id="1-1")
    running.plain.config_resetstat()
    return running


def admitting(kind: str = "local") -> Capabilities:
    return capabilities_for(make_checker(kind, POLICY), User("ann"))


def client(server: RedisServer, **options: Any) -> Any:
    """A gated client. Much of redis-py is untyped."""
    return gate_redis(server.client(**options))


def async_client(server: RedisServer, **options: Any) -> Any:
    return gate_redis(server.async_client(**options))


def refusal(error: pytest.ExceptionInfo[CapabilityDenied]) -> tuple[str, str | None, str]:
    """What was asked, about which namespace, and the reason."""
    decision = error.value.decision
    assert decision.input.resource.kind == "namespace"
    return decision.input.action, decision.input.resource.id, decision.result.reason


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


# -- attempts to get round it: commands


#: Each does something to what is not ours, or to everything; with what the server is asked to do in the end.
ATTEMPTS = [
    "DEL secret:s",
    "UNLINK orders:s secret:s",
    "MSET orders:s x secret:s x",
    "mset orders:s x secret:s x",
    "RENAME secret:s orders:mine",
    "RENAME orders:s secret:s",
    "COPY secret:s orders:mine",
    "COPY orders:s secret:s REPLACE",
    "COPY orders:s orders:s DB 1",
    "MOVE orders:s 1",
    "SORT secret:l STORE orders:mine ALPHA",
    "SORT orders:l STORE secret:mine ALPHA",
    "SORT orders:l BY secret:* GET secret:*",
    "SORT orders:set ALPHA GET secret:s STORE orders:mine",
    "SUNIONSTORE orders:mine secret:set",
    "ZUNIONSTORE orders:mine 1 secret:z",
    "ZRANGESTORE orders:mine secret:z 0 -1",
    "LMOVE secret:l orders:l LEFT LEFT",
    "RPOPLPUSH orders:l secret:l",
    "SMOVE secret:set orders:set m",
    "LMPOP 2 orders:none secret:l LEFT",
    "BLPOP orders:none secret:l 1",
    "BITOP NOT orders:mine secret:s",
    "PFMERGE orders:mine secret:none",
    "XGROUP CREATE secret:x g $",
    "XREAD STREAMS orders:x secret:x 0 0",
    "EXPIRE secret:s 1",
    "PERSIST secret:s",
    "GETDEL secret:s",
    "APPEND secret:s x",
    "SETRANGE secret:s 0 x",
    "INCR secret:n",
    "FLUSHDB",
    "FLUSHALL ASYNC",
    "SWAPDB 0 1",
    "SELECT 1",
    "EVAL return(redis.call('del','secret:s')) 0",
    "EVAL return(redis.call('del','secret:s')) 1 orders:s",
    "SCRIPT LOAD return(redis.call('flushall'))",
    "FCALL anything 0",
    "DEBUG SET-ACTIVE-EXPIRE 0",
    "CONFIG SET maxmemory 1",
    "CONFIG RESETSTAT",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "DUMP secret:s",
    "OBJECT ENCODING secret:s",
    "MEMORY USAGE secret:s",
    "GETRANGE secret:s 0 -1",
    "SUBSTR secret:s 0 -1",
    "LCS orders:s secret:s",
    "MGET orders:s secret:s",
    "EXISTS orders:s secret:s",
    "TYPE secret:s",
    "CLIENT SETNAME other",
    "CLIENT KILL TYPE normal SKIPME no",
    "RESET",
    "QUIT",
    "MONITOR",
    "PSUBSCRIBE *",
    "SUBSCRIBE secret:news",
    "SUBSCRIBE orders:news __keyspace@0__:secret:s",
    "PUBLISH secret:news x",
]


@pytest.mark.parametrize("line", ATTEMPTS)
def test_commands_that_are_denied_change_nothing(line: str, server: RedisServer) -> None:
    before, command = server.contents(), line.split()
    server.plain.config_resetstat()
    with using(admitting()), client(server, max_connections=1) as cache:
        with pytest.raises(CapabilityDenied):
            cache.execute_command(*command)
        with pytest.raises(CapabilityDenied):
            cache.execute_command(" ".join(command[:2]), *command[2:])  # split by redis-py, before it is sent
        with pytest.raises(CapabilityDenied):
            cache.execute_command(*(word.encode() for word in command))
        assert cache.get("orders:s") == b"seven"
    ran = server.commands()
    assert {name.partition("|")[0] for name in ran} <= {"hello", "client", "get", "config", "info"}
    assert {name: calls for name, calls in ran.items() if name.startswith("config")} == {"config|resetstat": 1}
    assert server.contents() == before


async def test_commands_that_are_denied_change_nothing_async(server: RedisServer) -> None:
    before = server.contents()
    server.plain.config_resetstat()
    with using(admitting()):
        async with async_client(server, max_connections=1) as cache:
            for line in ATTEMPTS:
                with pytest.raises(CapabilityDenied):
                    await cache.execute_command(*line.split())
                assert await cache.get("orders:s") == b"seven", line
    ran = server.commands()
    assert {name.partition("|")[0] for name in ran} <= {"hello", "client", "get", "config", "info"}
    assert server.contents() == before


def test_what_is_not_understood_is_asked_without_an_id(server: RedisServer) -> None:
    with using(admitting()), client(server, max_connections=1) as cache:
        for line in REFUSED:
            with pytest.raises(CapabilityDenied) as error:
                cache.execute_command(*line.split())
            assert refusal(error) == ("cache.write", None, "missing_resource"), line
            assert error.value.decision.input.resource.attributes == {"command": line.split()[0]}
    assert server.contents().keys() >= {(0, b"secret:s"), (0, b"orders:s")}


#: The methods of redis-py that go through many keys, or do their work in a script.
METHODS: dict[str, Callable[[Any], object]] = {
    "keys": lambda cache: cache.keys(),
    "scan_iter": lambda cache: list(cache.scan_iter("orders:*")),
    "flushdb": lambda cache: cache.flushdb(),
    "monitor": lambda cache: cache.monitor().__enter__(),
    "info": lambda cache: cache.info(),
    "config_set": lambda cache: cache.config_set("maxmemory", 1),
    "script": lambda cache: cache.register_script("return redis.call('del', KEYS[1])")(keys=["orders:s"]),
    "eval": lambda cache: cache.eval("return redis.call('del', 'secret:s')", 1, "orders:s"),
    "move": lambda cache: cache.move("orders:s", 1),
    "copy to another database": lambda cache: cache.copy("orders:s", "orders:t", destination_db=1),
    "sort by others": lambda cache: cache.sort("orders:l", by="secret:*", get="secret:*"),
    "hscan_iter": lambda cache: list(cache.hscan_iter("secret:h")),
    "watch": lambda cache: cache.pipeline().watch("secret:s"),
    "transaction": lambda cache: cache.transaction(lambda pipe: pipe.get("secret:s"), "secret:s"),
    "himport": lambda cache: cache.execute_command("HIMPORT SET", "secret:h", "fields", "v"),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_are_denied(name: str, server: RedisServer) -> None:
    before = server.contents()
    with using(admitting()), client(server) as cache:
        with pytest.raises(CapabilityDenied):
            METHODS[name](cache)
        assert cache.get("orders:s") == b"seven"
    assert server.contents() == before


def test_iterators_over_one_key_pass(server: RedisServer) -> None:
    with using(admitting()), client(server, decode_responses=True) as cache:
        assert list(cache.hscan_iter("orders:h")) == [("f", "v")]
        assert list(cache.sscan_iter("orders:set")) == ["m"]
        assert cache.sort("orders:l", alpha=True, desc=True, store="orders:sorted") == 3
        assert cache.zunion(["orders:z"]) == ["m"]
        assert cache.xread({"orders:x": "0"})


def test_raw_bytes_on_a_connection_of_the_pool(server: RedisServer) -> None:
    before = server.contents()
    with using(admitting()), client(server) as cache:
        connection = cache.connection_pool.get_connection()
        inline = "FLUSHALL\r\n"
        followed = b"*2\r\n$3\r\nGET\r\n$8\r\norders:s\r\nFLUSHALL\r\n"
        for data in (inline, inline.encode(), [inline.encode()], [b"FLUSH", b"ALL\r\n"], followed):
            with pytest.raises(CapabilityDenied):
                connection.send_packed_command(data)
        with pytest.raises(CapabilityDenied):
            connection.send_command("FLUSHALL")
        with pytest.raises(CapabilityDenied):
            connection.send_packed_command(connection.pack_commands([("GET", "orders:s"), ("FLUSHALL",)]))
        connection.send_command("GET", "orders:s")
        assert connection.read_response() == b"seven"
        cache.connection_pool.release(connection)
    assert server.contents() == before


# -- attempts to get round it: keys


@pytest.mark.parametrize(
    ("key", "namespace"),
    [
        ("orders:s", "orders"),
        ("orders", "orders"),  # its own namespace
        (b"orders:s", "orders"),
        (memoryview(b"orders:s"), "orders"),
        ("orders:secret:s", "orders"),
        ("Orders:s", "Orders"),  # another one
        ("orders :s", "orders "),
        ("orders\x00:s", "orders\x00"),
        (":orders:s", None),
        ("", None),
        (b"orders\xff:s", None),
        (b"orders:\xff", None),  # of which nobody knows the text
        (17, "17"),
        ("secret:orders:s", "secret"),
        ("o\u0440ders:s", "o\u0440ders"),  # a Cyrillic letter
    ],
)
def test_namespaces_of_keys(key: Any, namespace: str | None, server: RedisServer) -> None:
    before = server.contents()
    with using(admitting()), client(server, max_connections=1) as cache:
        if namespace == "orders":
            assert cache.exists(key) == server.plain.exists(key)
            return
        with pytest.raises(CapabilityDenied) as error:
            cache.set(key, "x")
    assert refusal(error)[:2] == ("cache.write", namespace)
    assert server.contents() == before


def test_a_namespace_of_ones_own(server: RedisServer) -> None:
    def by_slash(key: str) -> str:
        return key.rsplit("/", 1)[0]

    with using(admitting()), gate_redis(server.client(), namespace=by_slash) as cache:
        assert cache.set("orders/1", "x")
        with pytest.raises(CapabilityDenied) as error:
            cache.set("orders/eu/1", "x")
    assert refusal(error)[1] == "orders/eu"


@pytest.mark.parametrize("answer", [None, "", b"orders", 7, LookupError("no")])
def test_a_namespace_that_nobody_knows(answer: Any, server: RedisServer) -> None:
    def namespace(key: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    named = gate_redis(server.client(), namespace=namespace)
    with named as cache, using(admitting()), pytest.raises(CapabilityDenied) as error:
        cache.get("orders:s")
    assert refusal(error) == ("cache.read", None, "missing_resource")


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
        with cache.lock("locks:one", timeout=30) as lock:
            assert server.plain.exists("locks:one")
            assert lock.extend(30)
            assert lock.reacquire()
        assert not server.plain.exists("locks:one")
        with pytest.raises(CapabilityDenied):
            cache.lock("secret:lock", timeout=30).acquire()
        stolen = cache.lock("secret:s", timeout=30)
        stolen.local.token = b"hidden"  # as if it were ours
        with pytest.raises(CapabilityDenied):
            stolen.release()
    assert server.plain.get("secret:s") == b"hidden"
    assert not server.plain.exists("secret:lock")


async def test_locks_async(server: RedisServer) -> None:
    with using(admitting()):
        async with async_client(server) as cache:
            async with cache.lock("locks:one", timeout=30):
                assert server.plain.exists("locks:one")
            assert not server.plain.exists("locks:one")
            with pytest.raises(CapabilityDenied):
                await cache.lock("secret:lock", timeout=30).acquire()
    assert not server.plain.exists("secret:lock")


def test_subscriptions(server: RedisServer) -> None:
    listener = server.plain.pubsub(ignore_subscribe_messages=True)
    listener.subscribe("secret:news", "orders:news")
    assert [listener.get_message(timeout=5) for _ in range(2)] == [None, None]
    with using(admitting()), client(server) as cache:
        with pytest.raises(CapabilityDenied) as error:
            cache.publish("secret:news", "x")
        assert refusal(error)[:2] == ("cache.write", "secret")
        own = cache.pubsub(ignore_subscribe_messages=True)
        own.subscribe("orders:news")
        assert own.get_message(timeout=5) is None
        for names in (("secret:news",), ("orders:news", "secret:news"), ("__keyspace@0__:orders:s",)):
            with pytest.raises(CapabilityDenied):
                own.subscribe(*names)
        with pytest.raises(CapabilityDenied):
            own.psubscribe("orders:*")
        assert server.plain.pubsub_numsub("secret:news") == [(b"secret:news", 1)]
        assert server.plain.pubsub_numpat() == 0
        assert cache.publish("orders:news", "hello") == 2
        assert own.get_message(timeout=5)["data"] == b"hello"
        own.unsubscribe()
        own.close()
    assert listener.get_message(timeout=5)["data"] == b"hello"
    listener.close()


async def test_subscriptions_async(server: RedisServer) -> None:
    with using(admitting()):
        async with async_client(server) as cache, cache.pubsub(ignore_subscribe_messages=True) as own:
            await own.subscribe("orders:news")
            assert await own.get_message(timeout=5) is None
            for attempt in (own.subscribe("secret:news"), own.psubscribe("*"), cache.publish("secret:news", "x")):
                with pytest.raises(CapabilityDenied):
                    await attempt
            assert await cache.publish("orders:news", "hello") == 1
            assert (await own.get_message(timeout=5))["data"] == b"hello"
    assert server.plain.pubsub_numpat() == 0


def test_a_subscription_is_asked_about_again_when_it_is_renewed(server: RedisServer) -> None:
    with client(server) as cache:
        with using(admitting()):
            own = cache.pubsub()
            own.subscribe("orders:news")
            assert own.get_message(timeout=5)["type"] == "subscribe"
            own.connection.disconnect()
            own.connection.connect()
            assert own.get_message(timeout=5)["type"] == "subscribe"
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
        assert cache.blpop(["orders:later"], timeout=30) in ((b"orders:later", b"x"), [b"orders:later", b"x"])
        waiting.join()
    assert server.plain.llen("secret:l") == 3


# -- connections


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
