"""The table of Redis commands, held against what a Redis server itself says about keys: they share no code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from capgate.capabilities.cache.gated_redis import parse
from capgate.capabilities.cache.redis_commands import (
    _COMMANDS,
    _HARMLESS,
    _LOCK_DIGESTS,
    _LOCK_SCRIPTS,
    Access,
    NotUnderstood,
    accesses,
)

from ..support.redis_server import RedisServer, redis_server
from ..support.tools import ROOT, examples


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


#: Invocations of commands whose keys are not simply at fixed positions.
SAMPLES = """
LMPOP 2 k1 k2 LEFT
BLMPOP 0 2 k1 k2 RIGHT COUNT 3
ZMPOP 2 k1 k2 MIN
BZMPOP 0 1 k1 MAX
SINTERCARD 2 k1 k2 LIMIT 1
ZUNION 2 k1 k2 WEIGHTS 1 2
ZINTER 1 k1 WITHSCORES
ZDIFF 2 k1 k2
ZINTERCARD 2 k1 k2
ZUNIONSTORE k0 2 k1 k2 AGGREGATE MAX
ZINTERSTORE k0 1 k1
ZDIFFSTORE k0 2 k1 k2
BLPOP k1 k2 0
BRPOP k1 0
BZPOPMIN k1 k2 0
BZPOPMAX k1 0
BITOP AND k0 k1 k2
XREAD COUNT 1 BLOCK 2 STREAMS k1 k2 0 0
XREAD STREAMS k1 0
XREADGROUP GROUP STREAMS c COUNT 1 NOACK STREAMS k1 k2 > >
SORT k1 LIMIT 0 1 DESC ALPHA
SORT k1 STORE k0
SORT_RO k1 ASC
EXPIRE k1 10
PEXPIRE k1 10
EXPIREAT k1 10
PEXPIREAT k1 10
SET k1 v
SET k1 v EX 10 NX
SET k1 v GET
SET k1 v px 10 get
ZADD k1 1 m
MSET k1 v k2 v
MSETNX k1 v k2 v
COPY k1 k2
COPY k1 k2 REPLACE
LCS k1 k2 LEN
GEOSEARCHSTORE k0 k1 FROMMEMBER m BYRADIUS 1 m
GEORADIUS_RO k1 1 1 1 m
GEORADIUSBYMEMBER_RO k1 m 1 m
SINTERSTORE k0 k1 k2
SDIFFSTORE k0 k1
SUNIONSTORE k0 k1 k2
PFMERGE k0 k1 k2
WATCH k1 k2
XGROUP CREATE k1 g $
XGROUP DELCONSUMER k1 g c
XINFO STREAM k1
XINFO CONSUMERS k1 g
OBJECT FREQ k1
MEMORY USAGE k1 SAMPLES 5
DEL k1 k2 k3
object encoding k1
mGeT k1 k2
""".strip().splitlines()


def described(server: RedisServer, command: list[bytes]) -> list[Access] | None:
    """What the server says about the keys of ``command``; ``None`` where it does not know that command."""
    try:
        keys: list[Any] = server.plain.execute_command("COMMAND GETKEYSANDFLAGS", *command)
    except redis.ResponseError as error:
        if "Invalid command specified" in str(error):
            return None
        raise
    found = []
    for key, flags in keys:
        words = {flag.decode() for flag in flags}
        reads = "access" in words or ("RO" in words)
        found.append((("r" if reads else "") + ("" if "RO" in words else "w"), key))
    return found


#: Where the table says something else than the flags of the server, and why.
DIFFERENT = {
    b"XREADGROUP": ("r", "rw", "what was read counts as delivered, so the group changes"),
    b"XCLAIM": ("w", "rw", "the reply has the messages"),
    b"XAUTOCLAIM": ("w", "rw", "the reply has the messages"),
    b"PFCOUNT": ("rw", "r", "all it may write is the count that it computed, next to what was counted"),
}


def expected_of(server: RedisServer, command: list[bytes]) -> list[Access]:
    found = described(server, command)
    assert found is not None
    if command[0].upper() in TELLING_MORE or b".".join(command[:2]).upper() in TELLING_MORE:
        found = [("rw", key) for _, key in found]
    if command[0].upper() in DIFFERENT:
        theirs, ours, _ = DIFFERENT[command[0].upper()]
        assert {mode for mode, _ in found} == {theirs}
        found = [(ours, key) for _, key in found]
    return sorted(found)


@pytest.mark.parametrize("line", SAMPLES)
def test_irregular_commands_as_the_server_sees_them(line: str, server: RedisServer) -> None:
    command = line.encode().split()
    assert sorted(accesses(command)) == expected_of(server, command)


def regular() -> list[bytes]:
    """The commands of the table that the samples leave out, but for channels and scripts, which have no keys."""
    others = {line.upper().encode().split()[0] for line in SAMPLES}
    others |= {b"SUBSCRIBE", b"SSUBSCRIBE", b"PUBLISH", b"SPUBLISH", b"EVALSHA", b"SCRIPT"}
    return [name for name in _COMMANDS if name.partition(b".")[0] not in others]


def test_regular_commands_as_the_server_sees_them(server: RedisServer) -> None:
    """Each with as many arguments as it takes, and one more where it takes any number: all could be keys."""
    known = 0
    for name in regular():
        info = server.plain.execute_command("COMMAND INFO", name)[0]
        if info is None:
            continue  # of a later release
        arity = int(info[1])
        command = [name, *(b"a%d" % n for n in range(arity - 1 if arity > 0 else -arity))]
        assert sorted(accesses(command)) == expected_of(server, command), name
        known += 1
    assert known > 100


def test_each_command_of_the_server_is_classified(server: RedisServer) -> None:  # P-11
    """What the server calls a write is one here, or is not understood. What it calls a read writes nothing here."""
    listed: list[Any] = server.plain.execute_command("COMMAND INFO")
    infos = [(info, subcommand) for info in listed for subcommand in info[9] or [info]]
    classified: dict[str, set[bytes]] = {"w": set(), "r": set(), "": set()}
    for _, info in infos:
        name = info[0].upper().replace(b"|", b".")
        flags = {flag.decode() for flag in info[2]}
        locate = None if name in BY_DIGEST else _COMMANDS.get(name)
        modes = "" if locate is None else "".join(mode for mode, _ in locate(LONG.get(name, DEFAULT).split()))
        kind = "w" if "w" in modes else "r" if "r" in modes else ""
        classified[kind].add(name)
        if "write" in flags:
            assert kind == "w" or name in NOT_UNDERSTOOD, name
        elif kind == "w":
            assert name in (b"PUBLISH", b"SPUBLISH"), name  # no key to the server
    assert len(classified["w"]) > 90
    assert len(classified["r"]) > 60
    for name in classified[""] - {*BY_DIGEST, *_HARMLESS}:
        with pytest.raises(NotUnderstood):
            accesses([*name.split(b"."), *DEFAULT.split()[1:]])


#: A command of many keys, and those that it does not fit.
DEFAULT = b"NAME k1 1 k2 1 k3"
LONG = {
    **dict.fromkeys((b"XREAD", b"XREADGROUP"), b"NAME STREAMS k1 0"),
    b"SORT": b"SORT k1 STORE k2",
    b"SORT_RO": b"SORT_RO k1",
    b"COPY": b"NAME k1 k2",
    **dict.fromkeys(
        (b"LMPOP", b"ZMPOP", b"ZDIFF", b"ZINTER", b"ZUNION", b"SINTERCARD", b"ZINTERCARD"), b"NAME 1 k1 LEFT"
    ),
    **dict.fromkeys((b"BLMPOP", b"BZMPOP"), b"NAME 0 1 k1 LEFT"),
}
#: Known for the scripts of locks alone.
BY_DIGEST = (b"EVALSHA", b"SCRIPT.LOAD")
#: What the server calls a write and capgate does not understand, for the reasons in ``REFUSED``.
NOT_UNDERSTOOD = set(
    b"FLUSHALL FLUSHDB FUNCTION.DELETE FUNCTION.FLUSH FUNCTION.LOAD FUNCTION.RESTORE GEORADIUS GEORADIUSBYMEMBER"
    b" MIGRATE MOVE PFDEBUG RESTORE RESTORE-ASKING SWAPDB".split()
)


#: What the server's flags call a write alone, although its reply tells a member, a field or how long a key was to live.
TELLING_MORE = set(
    b"SADD SREM HSET HSETNX HDEL LREM LINSERT ZADD ZREM ZREMRANGEBYSCORE ZREMRANGEBYLEX GEOADD PFADD PERSIST"
    b" XDEL XTRIM XACK XACKDEL XDELEX HPERSIST HSETEX HEXPIRE HPEXPIRE HEXPIREAT HPEXPIREAT DELEX"
    b" XGROUP.DESTROY XGROUP.CREATECONSUMER XGROUP.DELCONSUMER".split()
)

#: Writes whose reply tells what was stored: two things that may be stored, of the same size, and the command whose
#: replies differ then.
TELLING = {
    "SADD": ("SADD k a", "SADD k b", "SADD k a"),
    "SREM": ("SADD k a", "SADD k b", "SREM k a"),
    "HSET": ("HSET k a 1", "HSET k b 1", "HSET k a 2"),
    "HSETNX": ("HSET k a 1", "HSET k b 1", "HSETNX k a 2"),
    "HDEL": ("HSET k a 1", "HSET k b 1", "HDEL k a"),
    "LREM": ("RPUSH k a", "RPUSH k b", "LREM k 0 a"),
    "LINSERT": ("RPUSH k a", "RPUSH k b", "LINSERT k BEFORE a x"),
    "ZADD": ("ZADD k 1 a", "ZADD k 1 b", "ZADD k 1 a"),
    "ZREM": ("ZADD k 1 a", "ZADD k 1 b", "ZREM k a"),
    "ZREMRANGEBYSCORE": ("ZADD k 1 a", "ZADD k 2 a", "ZREMRANGEBYSCORE k 1 1"),
    "ZREMRANGEBYLEX": ("ZADD k 0 a", "ZADD k 0 b", "ZREMRANGEBYLEX k [a [a"),
    "GEOADD": ("GEOADD k 1 1 a", "GEOADD k 1 1 b", "GEOADD k 1 1 a"),
    "PFADD": ("PFADD k a", "PFADD k b", "PFADD k a"),
    "PERSIST": ("SET k v", "SET k v EX 100", "PERSIST k"),
    "EXPIRE": ("SET k v EX 10", "SET k v EX 1000", "EXPIRE k 100 GT"),
    "XDEL": ("XADD k 1-1 a 1", "XADD k 2-1 a 1", "XDEL k 1-1"),
    "XTRIM": ("XADD k 1-1 a 1", "XADD k 2-1 a 1", "XTRIM k MINID 2"),
    "XGROUP DESTROY": ("XGROUP CREATE k a $ MKSTREAM", "XGROUP CREATE k b $ MKSTREAM", "XGROUP DESTROY k a"),
    "SET": ("SET k a", "SET k b", "SET k x GET"),
    "GETSET": ("SET k a", "SET k b", "GETSET k x"),
    "SETBIT": ("SET k a", "SET k b", "SETBIT k 7 0"),
    "INCR": ("SET k 1", "SET k 2", "INCR k"),
    "SMOVE": ("SADD k a", "SADD k b", "SMOVE k k2 a"),
}


def reply_after(server: RedisServer, stored: str, line: str) -> object:
    """What the server replies to ``line``, as it is on the wire, where ``stored`` was all that it was told before."""
    server.forget()
    with server.client() as client:
        client.response_callbacks.clear()
        client.execute_command(*stored.split())
        reply: object = client.execute_command(*line.split())
    return reply


@pytest.mark.parametrize("name", TELLING)
def test_a_write_that_tells_what_was_stored_is_a_read(server: RedisServer, name: str) -> None:
    one, other, line = TELLING[name]
    assert reply_after(server, one, line) != reply_after(server, other, line)
    assert ("rw", b"k") in accesses(line.encode().split())


#: Writes alone, each with two things that are stored, alike but for what they are.
SILENT = {
    "SET k x": ("SET k a", "SET k b"),
    "SET k x NX EX 5": ("SET k a", "SET k b"),
    "SET k x XX KEEPTTL": ("SET k a", "SET k b"),
    "SETNX k x": ("SET k a", "SET k b"),
    "SETEX k 5 x": ("SET k a", "SET k b"),
    "PSETEX k 5000 x": ("SET k a", "SET k b"),
    "MSET k x k2 y": ("SET k a", "SET k b"),
    "MSETNX k x k2 y": ("SET k a", "SET k b"),
    "APPEND k x": ("SET k a", "SET k b"),
    "SETRANGE k 0 a": ("SET k a", "SET k b"),
    "DEL k k2": ("SET k a", "RPUSH k b"),
    "UNLINK k": ("SET k a", "RPUSH k b"),
    "EXPIRE k 100": ("SET k a EX 10", "RPUSH k a"),
    "PEXPIRE k 100": ("SET k a EX 10", "RPUSH k a"),
    "EXPIREAT k 9000000000": ("SET k a EX 10", "RPUSH k a"),
    "PEXPIREAT k 9000000000000": ("SET k a EX 10", "RPUSH k a"),
    "HMSET k a 1": ("HSET k a 1", "HSET k b 1"),
    "LPUSH k a": ("RPUSH k a", "RPUSH k b"),
    "RPUSH k a": ("RPUSH k a", "RPUSH k b"),
    "LPUSHX k a": ("RPUSH k a", "RPUSH k b"),
    "RPUSHX k a": ("RPUSH k a", "RPUSH k b"),
    "LSET k 0 a": ("RPUSH k a", "RPUSH k b"),
    "LTRIM k 0 0": ("RPUSH k a", "RPUSH k b"),
    "ZREMRANGEBYRANK k 0 0": ("ZADD k 1 a", "ZADD k 2 b"),
    "XADD k 9-1 a 1": ("XADD k 1-1 a 1", "XADD k 2-1 b 2"),
    "XSETID k 9-1": ("XADD k 1-1 a 1", "XADD k 2-1 b 2"),
    "XGROUP CREATE k g $": ("XADD k 1-1 a 1", "XADD k 2-1 b 2"),
    "PUBLISH k x": ("SET k a", "SET k b"),
}


@pytest.mark.parametrize("line", SILENT)
def test_a_write_alone_tells_nothing(server: RedisServer, line: str) -> None:
    one, other = SILENT[line]
    assert reply_after(server, one, line) == reply_after(server, other, line)
    assert {mode for mode, _ in accesses(line.encode().split())} == {"w"}


CODE = re.compile("`([^`]+)`")


def test_no_other_command_is_a_write_alone() -> None:
    """But for those that write to one key what they read from another. The documentation lists the same ones."""
    alone = set()
    for name, locate in _COMMANDS.items():
        if name in BY_DIGEST:
            continue
        accessed = list(locate(LONG.get(name, DEFAULT).split()))
        if {mode for mode, _ in accessed} == {"w"}:
            alone.add(name.decode().replace(".", " "))
    tried = {" ".join(line.split()[: 2 if line.startswith("XGROUP") else 1]) for line in SILENT}
    assert alone - tried == {"XGROUP SETID", "SPUBLISH"}
    _, _, section = (ROOT / "docs/resource_kinds.md").read_text("utf-8").partition("## Redis")
    listed = {name for line in section.splitlines() if line.startswith("- ") for name in CODE.findall(line)}
    assert listed == {*alone, *tried, "NX", "XX", "KEEPTTL"}


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("SET k v IFEQ x", "rw"),
        ("SET k v EX 10 ifne x", "rw"),
        ("SET k v IFDEQ x", "rw"),
        ("SET k v EX 10 unheard", "rw"),
        ("SET k v EXAT 10 NX", "w"),
        ("SET k GET", "w"),
        ("set k IFEQ pxat 10", "w"),
        ("EXPIRE k 10 nx", "rw"),
        ("DELEX k IFEQ v", "rw"),
    ],
)
def test_options_that_tell(line: str, mode: str) -> None:
    assert accesses(line.encode().split()) == [(mode, b"k")]


def test_scripts_of_locks_touch_the_keys_that_they_are_given() -> None:
    (digest, *_) = sorted(_LOCK_DIGESTS)
    for name in (digest.encode(), digest.upper().encode()):
        assert accesses([b"evalsha", name, b"1", b"orders:lock", b"token"]) == [("rw", b"orders:lock")]
        assert accesses([b"EVALSHA", name, b"2", b"a", b"b"]) == [("rw", b"a"), ("rw", b"b")]
        for rest in ([b"0", b"orders:lock"], [b"2", b"a"], []):
            with pytest.raises(NotUnderstood):
                accesses([b"EVALSHA", name, *rest])
    for script in _LOCK_SCRIPTS:
        assert accesses([b"SCRIPT", b"LOAD", script]) == []
        with pytest.raises(NotUnderstood):
            accesses([b"SCRIPT", b"LOAD", script + b" "])


#: Commands that are not understood, each with the reason.
REFUSED = {
    "EVAL return(1) 0": "a script may do anything",
    "EVAL return(1) 1 k1": "also to other keys than it names",
    "EVALSHA 0000000000000000000000000000000000000000 1 k1": "not a script of redis-py's locks",
    "EVALSHA_RO 0000000000000000000000000000000000000000 1 k1": "likewise",
    "FCALL f 1 k1": "likewise",
    "SCRIPT LOAD return(1)": "likewise",
    "SCRIPT FLUSH": "the scripts of others",
    "FUNCTION LOAD x": "likewise",
    "KEYS *": "all keys",
    "SCAN 0": "all keys",
    "RANDOMKEY": "any key",
    "DBSIZE": "all keys",
    "FLUSHDB": "all keys",
    "FLUSHALL": "all keys",
    "SELECT 1": "another database",
    "SWAPDB 0 1": "another database",
    "MOVE k1 1": "another database",
    "COPY k1 k2 DB 1": "another database",
    "COPY k1 k2 REPLACE db 1": "another database",
    "COPY k1": "no destination",
    "MIGRATE 127.0.0.1 1 k1 0 100": "another server",
    "REPLICAOF 127.0.0.1 1": "another server",
    "RESTORE k1 0 x": "a payload that the server trusts",
    "SORT k1 BY w*": "keys by a pattern",
    "SORT k1 GET w*": "keys by a pattern",
    "SORT_RO k1 get #": "keys by a pattern",
    "SORT_RO k1 STORE k2": "it stores nothing",
    "SORT k1 STORE": "no destination",
    "SORT k1 LIMIT 1": "incomplete",
    "SORT k1 STORE k2 UNHEARD": "an option that is not known",
    "GEORADIUS k1 1 1 1 m STORE k2": "replaced by GEOSEARCHSTORE",
    "GEORADIUSBYMEMBER k1 m 1 m": "replaced by GEOSEARCH",
    "PSUBSCRIBE k*": "channels by a pattern",
    "CLIENT SETNAME x": "the connection exists",
    "CLIENT TRACKING ON": "messages about all keys",
    "CLIENT KILL x": "the connections of others",
    "AUTH x": "another user",
    "HELLO 3 AUTH a b": "another user",
    "RESET": "the state of a connection that others use next",
    "QUIT": "likewise",
    "MONITOR": "the commands of others",
    "CONFIG SET dir /": "the server",
    "DEBUG SLEEP 0": "the server",
    "SHUTDOWN": "the server",
    "MODULE LOAD x": "the server",
    "ACL SETUSER x": "the server",
    "CLUSTER RESET": "the server",
    "XREAD k1": "no STREAMS",
    "XREAD STREAMS k1": "no id",
    "XREAD STREAMS k1 k2 0": "an odd number",
    "XREAD STREAMS": "no key",
    "XREAD UNHEARD 1 STREAMS k1 0": "an option that is not known",
    "XGROUP HELP": "no key",
    "XGROUP": "no subcommand",
    "XGROUP.CREATE x k1": "our own way to write it",
    "OBJECT HELP": "no key",
    "ZUNION 3 k1 k2": "fewer keys than it says",
    "ZUNION 0 k1": "no keys",
    "ZUNION -1 k1": "no keys",
    "ZUNION +1 k1": "not how numbers are written",
    "ZUNION 01 k1": "not how numbers are written",
    "ZUNION": "no number",
    "BLPOP 0": "no key",
    "GET": "no key",
    "SET k1": "no value",
    "MGET": "no key",
    "GETT k1": "unheard of",
    "JSON.SET k1 $ 1": "a module",
    "HIMPORT SET k1 f v": "one of redis-py's own making",
    "EXEC.": "a name that begins like one that passes",
}


@pytest.mark.parametrize("line", REFUSED)
def test_not_understood(line: str) -> None:
    command = line.encode().split()
    with pytest.raises(NotUnderstood) as error:
        accesses(command)
    assert error.value.command.split(b".")[0].upper() == command[0].split(b".")[0].upper()


@pytest.mark.parametrize("line", ["HELLO 3", "AUTH x", "SELECT 2", "client setinfo LIB-NAME x", "CLIENT SETNAME x"])
def test_introductions_pass_only_while_connecting(line: str) -> None:
    command = line.encode().split()
    assert accesses(command, connecting=True) == []
    with pytest.raises(NotUnderstood):
        accesses(command)


@pytest.mark.parametrize("line", ["FLUSHALL", "CLIENT TRACKING ON", "CLIENT", "CONFIG SET dir /", "EVAL return(1) 0"])
def test_nothing_else_passes_while_connecting(line: str) -> None:
    with pytest.raises(NotUnderstood):
        accesses(line.encode().split(), connecting=True)


#: Untyped in redis-py.
Connection: Any = redis.Connection


def packed(commands: list[list[bytes]]) -> bytes:
    return b"".join(Connection().pack_commands(commands))


words = st.binary(max_size=40)


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.lists(st.lists(words, min_size=1, max_size=6).filter(lambda one: b" " not in one[0]), max_size=5))
def test_what_is_parsed_is_what_redis_py_packed(commands: list[list[bytes]]) -> None:
    assert parse(packed(commands)) == commands


@pytest.mark.sampled
@settings(max_examples=examples(200))
@given(st.binary(max_size=200))
def test_parse_gives_commands_or_raises_one_error(data: bytes) -> None:
    try:
        commands = parse(data)
    except NotUnderstood:
        return
    assert packed(commands) == data


@pytest.mark.parametrize(
    "data",
    [
        b"FLUSHALL\r\n",  # an inline command
        b"*1\r\n$8\r\nFLUSHALL\r\nFLUSHALL\r\n",
        b"*1\r\n$8\r\nFLUSHALL",
        b"*1\r\n$7\r\nFLUSHALL\r\n",
        b"*2\r\n$3\r\nGET\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*1\n$4\nPING\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n:1\r\n",
        b"\r\n*1\r\n$4\r\nPING\r\n",
        b"*99999999999\r\n",
        b"*1\r\n$99999999999999999999\r\nx\r\n",
        "*1\r\n$\u0664\r\nPING\r\n".encode(),
    ],
)
def test_other_bytes_are_not_understood(data: bytes) -> None:
    with pytest.raises(NotUnderstood):
        parse(data)


def test_a_name_with_a_space_is_split_before_it_is_judged() -> None:
    """redis-py splits it; what counts is what is sent."""
    (command,) = parse(b"".join(Connection().pack_command("CONFIG SET", "dir", "/")))
    assert command == [b"CONFIG", b"SET", b"dir", b"/"]
