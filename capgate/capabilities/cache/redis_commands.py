"""Lists the keys that a Redis command reads and writes: :func:`accesses`.

Written from the descriptions at https://redis.io/docs/latest/commands/. A command is

``r``   a read, where its reply tells a value, a member or a field that was stored, or whether a given one was
``w``   a write, where it changes what is stored
``rw``  both, as most writes are: SADD and HSET tell whether a member or a field was there, LREM how often a value was

A write alone is one whose reply tells no more than whether a key was there, or how much it holds: DEL, LPUSH, APPEND,
SETNX, SET without GET and IFEQ. What an error tells does not count.

A command that is not in the table is not understood, and neither is one with arguments that fit no description. That is
a denial, never a guess. Not in the table on purpose:

- scripts and functions, except those of redis-py's own locks
- what goes through all keys (KEYS, SCAN, RANDOMKEY, DBSIZE, FLUSHDB …)
- what reaches other databases or servers (SELECT, MOVE, SWAPDB, MIGRATE …)
- patterns that name keys by a wildcard (PSUBSCRIBE, the BY and GET of SORT)
- RESTORE, whose payload the server has to trust
- everything about the server or the connection itself
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from redis.asyncio.lock import Lock as AsyncLock
from redis.lock import Lock

#: One command as it is on the wire: its name and its arguments.
Command = Sequence[bytes]
#: ``r`` (cache.read) or ``w`` (cache.write) or both, and the key.
Access = tuple[str, bytes]


class NotUnderstood(Exception):
    """Nobody can say for certain what ``command`` does, or to which keys. It is the name, as far as there is one."""

    def __init__(self, command: bytes) -> None:
        super().__init__(command)
        self.command = command


#: Commands, each with its name, then ``mode@keys``. The keys are a position, as a Python index or slice of the command
#: with its name at 0, or ``#n`` where the argument at n says how many keys follow it. Sub-commands are joined to their
#: command by a dot.
_TABLE: Final = """
DEL w@1:            UNLINK w@1:         EXISTS r@1:         TOUCH r@1:          TYPE r@1            DUMP r@1
TTL r@1             PTTL r@1            EXPIRETIME r@1      PEXPIRETIME r@1
PERSIST rw@1        RENAME rw@1 w@2     RENAMENX rw@1 w@2   WATCH r@1:
OBJECT.ENCODING r@2 OBJECT.FREQ r@2     OBJECT.IDLETIME r@2 OBJECT.REFCOUNT r@2 MEMORY.USAGE r@2

GET r@1             MGET r@1:           STRLEN r@1          GETRANGE r@1        SUBSTR r@1          LCS r@1:3
SETNX w@1           SETEX w@1           PSETEX w@1          MSET w@1::2         MSETNX w@1::2       APPEND w@1
SETRANGE w@1        GETSET rw@1         GETDEL rw@1         GETEX rw@1          INCR rw@1           INCRBY rw@1
INCRBYFLOAT rw@1    DECR rw@1           DECRBY rw@1         DIGEST r@1          DELEX rw@1

HGET r@1            HMGET r@1           HGETALL r@1         HKEYS r@1           HVALS r@1           HLEN r@1
HEXISTS r@1         HSTRLEN r@1         HRANDFIELD r@1      HSCAN r@1           HTTL r@1            HPTTL r@1
HEXPIRETIME r@1     HPEXPIRETIME r@1    HSET rw@1           HSETNX rw@1         HMSET w@1           HDEL rw@1
HEXPIRE rw@1        HPEXPIRE rw@1       HEXPIREAT rw@1      HPEXPIREAT rw@1     HPERSIST rw@1       HSETEX rw@1
HINCRBY rw@1        HINCRBYFLOAT rw@1   HGETDEL rw@1        HGETEX rw@1

LRANGE r@1          LINDEX r@1          LLEN r@1            LPOS r@1            LPUSH w@1           RPUSH w@1
LPUSHX w@1          RPUSHX w@1          LSET w@1            LINSERT rw@1        LREM rw@1           LTRIM w@1
LPOP rw@1           RPOP rw@1           BLPOP rw@1:-1       BRPOP rw@1:-1       LMPOP rw@#1         BLMPOP rw@#2
LMOVE rw@1 w@2      BLMOVE rw@1 w@2     RPOPLPUSH rw@1 w@2  BRPOPLPUSH rw@1 w@2

SMEMBERS r@1        SISMEMBER r@1       SMISMEMBER r@1      SCARD r@1           SRANDMEMBER r@1     SSCAN r@1
SINTER r@1:         SUNION r@1:         SDIFF r@1:          SINTERCARD r@#1     SADD rw@1           SREM rw@1
SPOP rw@1           SMOVE rw@1 w@2      SINTERSTORE w@1 r@2: SUNIONSTORE w@1 r@2: SDIFFSTORE w@1 r@2:

ZRANGE r@1          ZRANGEBYSCORE r@1   ZRANGEBYLEX r@1     ZREVRANGE r@1       ZREVRANGEBYSCORE r@1
ZREVRANGEBYLEX r@1  ZCARD r@1           ZCOUNT r@1          ZLEXCOUNT r@1       ZSCORE r@1          ZMSCORE r@1
ZRANK r@1           ZREVRANK r@1        ZRANDMEMBER r@1     ZSCAN r@1           ZUNION r@#1         ZINTER r@#1
ZDIFF r@#1          ZINTERCARD r@#1     ZREM rw@1           ZREMRANGEBYRANK w@1 ZREMRANGEBYSCORE rw@1
ZREMRANGEBYLEX rw@1 ZINCRBY rw@1        ZPOPMIN rw@1        ZPOPMAX rw@1        BZPOPMIN rw@1:-1    BZPOPMAX rw@1:-1
ZADD rw@1           ZMPOP rw@#1         BZMPOP rw@#2        ZRANGESTORE w@1 r@2 ZUNIONSTORE w@1 r@#2
ZINTERSTORE w@1 r@#2                    ZDIFFSTORE w@1 r@#2

XRANGE r@1          XREVRANGE r@1       XLEN r@1            XPENDING r@1        XINFO.STREAM r@2    XINFO.GROUPS r@2
XINFO.CONSUMERS r@2 XADD w@1            XDEL rw@1           XTRIM rw@1          XACK rw@1           XSETID w@1
XACKDEL rw@1        XDELEX rw@1
XCLAIM rw@1         XAUTOCLAIM rw@1     XGROUP.CREATE w@2   XGROUP.SETID w@2    XGROUP.DESTROY rw@2
XGROUP.CREATECONSUMER rw@2              XGROUP.DELCONSUMER rw@2

GEOPOS r@1          GEODIST r@1         GEOHASH r@1         GEOSEARCH r@1       GEORADIUS_RO r@1
GEORADIUSBYMEMBER_RO r@1                GEOADD rw@1         GEOSEARCHSTORE w@1 r@2
PFCOUNT r@1:        PFADD rw@1          PFMERGE rw@1 r@2:
GETBIT r@1          BITCOUNT r@1        BITPOS r@1          BITFIELD_RO r@1     SETBIT rw@1         BITFIELD rw@1
BITOP w@2 r@3:

SUBSCRIBE r@1:      SSUBSCRIBE r@1:     PUBLISH w@1         SPUBLISH w@1
"""

#: Options of SET that a number follows.
_TIMES: Final = frozenset(b"EX PX EXAT PXAT".split())
#: They touch no key and tell nothing, and keep a connection usable: for a transaction, what is in it is asked about.
_HARMLESS: Final = frozenset(b"MULTI EXEC DISCARD UNWATCH PING UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE".split())
#: What a connection says about itself while it is made, and at no other time.
_HANDSHAKE: Final = frozenset({b"HELLO", b"AUTH", b"SELECT"})
_HANDSHAKE_CLIENT: Final = frozenset({b"SETNAME", b"SETINFO", b"MAINT_NOTIFICATIONS"})

_COUNT: Final = re.compile(rb"[1-9][0-9]{0,5}", re.ASCII)
_FIELD: Final = re.compile(r"(rw|r|w)@(#?)(\d+)(?:(:)(-?\d+)?(?::(\d+))?)?", re.ASCII)
_LOCK_SCRIPTS: Final = tuple(
    getattr(lock, name).encode()
    for lock in (Lock, AsyncLock)
    for name in ("LUA_RELEASE_SCRIPT", "LUA_EXTEND_SCRIPT", "LUA_REACQUIRE_SCRIPT")
)
#: Redis knows a script by its SHA-1, so that is what these are known by. Each touches the one key that it is given.
_LOCK_DIGESTS: Final = frozenset(hashlib.sha1(script, usedforsecurity=False).hexdigest() for script in _LOCK_SCRIPTS)

Locate = Callable[[Command], Iterator[Access]]


def accesses(command: Command, *, connecting: bool = False) -> list[Access]:
    """Return each access of ``command`` to a key; none for a command that touches no key.

    ``connecting`` says whether the connection is being made, so that it may still introduce itself. Raises
    :class:`NotUnderstood`.
    """
    name = command[0].upper()  # as the server does: A to Z only
    if name in _HARMLESS or (connecting and _introduces(name, command)):
        return []
    locate = _COMMANDS.get(name)
    if locate is None and len(command) > 1:
        locate = _COMMANDS.get(name + b"." + command[1].upper())
    if locate is None or b"." in name:
        raise NotUnderstood(name)
    return list(locate(command))


def _introduces(name: bytes, command: Command) -> bool:
    return name in _HANDSHAKE or (name == b"CLIENT" and len(command) > 1 and command[1].upper() in _HANDSHAKE_CLIENT)


def _counted_keys(command: Command, at: int) -> Command:
    """Return the keys after the argument at ``at``, which is their number."""
    if len(command) <= at or not _COUNT.fullmatch(command[at]):
        raise NotUnderstood(command[0])
    count = int(command[at])
    keys = command[at + 1 : at + 1 + count]
    if len(keys) != count:
        raise NotUnderstood(command[0])
    return keys


def _locate_by(fields: list[str]) -> Locate:
    """Return the function that locates the keys as ``fields`` (such as ``w@1``, ``r@2:``) describe them."""
    parts: list[tuple[str, bool, int, slice]] = []
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise ValueError(field)
        mode, counted, start, colon, stop, step = match.groups()
        first = int(start)
        last = (int(stop) if stop else None) if colon else first + 1
        parts.append((mode, bool(counted), first, slice(first, last, int(step) if step else None)))

    def locate(command: Command) -> Iterator[Access]:
        for mode, counted, first, where in parts:
            keys = _counted_keys(command, first) if counted else command[where]
            if not keys:
                raise NotUnderstood(command[0])
            for key in keys:
                yield mode, key

    return locate


def _set(command: Command) -> Iterator[Access]:
    """``SET key value [NX | XX] [EX seconds | … | KEEPTTL]``; whatever else there is (GET, IFEQ …) tells the value."""
    if len(command) < 3:
        raise NotUnderstood(command[0])
    options = iter(command[3:])
    tells = False
    for option in options:
        word = option.upper()
        if word in _TIMES:
            next(options, None)
        elif word not in (b"NX", b"XX", b"KEEPTTL"):
            tells = True
    yield ("rw" if tells else "w"), command[1]


def _expire(command: Command) -> Iterator[Access]:
    """``EXPIRE key seconds [NX | XX | GT | LT]``: with an option, the reply tells how long the key was to live."""
    if len(command) < 3:
        raise NotUnderstood(command[0])
    yield ("rw" if command[3:] else "w"), command[1]


def _copy(command: Command) -> Iterator[Access]:
    """``COPY source destination [REPLACE]``: not to another database."""
    if len(command) < 3 or any(option.upper() != b"REPLACE" for option in command[3:]):
        raise NotUnderstood(command[0])
    yield "r", command[1]
    yield "w", command[2]


def _sort(command: Command) -> Iterator[Access]:
    """``SORT key [LIMIT offset count] [ASC | DESC] [ALPHA] [STORE destination]``: no BY and no GET, which name keys."""
    options = iter(command[2:])
    if len(command) < 2:
        raise NotUnderstood(command[0])
    yield "r", command[1]
    for option in options:
        word = option.upper()
        values = [next(options, None) for _ in range({b"LIMIT": 2, b"STORE": 1}.get(word, 0))]
        if word not in (b"LIMIT", b"STORE", b"ASC", b"DESC", b"ALPHA") or None in values:
            raise NotUnderstood(command[0])
        if word == b"STORE" and values[0] is not None:
            if command[0].upper() != b"SORT":
                raise NotUnderstood(command[0])
            yield "w", values[0]


def _streams(mode: str, options: dict[bytes, int]) -> Locate:
    """``XREAD`` and ``XREADGROUP``: options with so many values each, then ``STREAMS key … id …``."""

    def locate(command: Command) -> Iterator[Access]:
        at = 1
        while at < len(command) and command[at].upper() in options:
            at += 1 + options[command[at].upper()]
        streams = command[at + 1 :]
        if at >= len(command) or command[at].upper() != b"STREAMS" or not streams or len(streams) % 2:
            raise NotUnderstood(command[0])
        for key in streams[: len(streams) // 2]:
            yield mode, key

    return locate


def _evalsha(command: Command) -> Iterator[Access]:
    if len(command) < 2 or command[1].lower().decode("latin-1") not in _LOCK_DIGESTS:
        raise NotUnderstood(command[0])
    for key in _counted_keys(command, 2):
        yield "rw", key


def _script_load(command: Command) -> Iterator[Access]:
    if len(command) != 3 or command[2] not in _LOCK_SCRIPTS:
        raise NotUnderstood(command[0])
    return iter(())


def _commands() -> dict[bytes, Locate]:
    commands: dict[bytes, Locate] = {
        b"SET": _set,
        b"EXPIRE": _expire,
        b"PEXPIRE": _expire,
        b"EXPIREAT": _expire,
        b"PEXPIREAT": _expire,
        b"COPY": _copy,
        b"SORT": _sort,
        b"SORT_RO": _sort,
        b"XREAD": _streams("r", {b"COUNT": 1, b"BLOCK": 1}),
        b"XREADGROUP": _streams("rw", {b"COUNT": 1, b"BLOCK": 1, b"GROUP": 2, b"NOACK": 0, b"CLAIM": 1}),
        b"EVALSHA": _evalsha,
        b"SCRIPT.LOAD": _script_load,
    }
    name, fields = b"", list[str]()
    for word in (*_TABLE.split(), ""):
        if "@" in word:
            fields.append(word)
            continue
        if name:
            commands[name] = _locate_by(fields)
        name, fields = word.encode(), []
    return commands


_COMMANDS: Final = _commands()
