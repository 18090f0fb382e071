"""Attempts to get round the gate of Redis: by other commands, methods and names of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capgate.capabilities import CapabilityDenied, using
from capgate.capabilities.cache import gate_redis

from ..support.redis_server import RedisServer
from .redis_clients import admitting, async_client, client, refusal
from .test_redis_commands import REFUSED


@pytest.fixture
def anyio_backend() -> str:
    """redis.asyncio knows no other."""
    return "asyncio"


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
