"""Whose thread is whose: the instances of a thread end with it, or when it comes by after their pool is gone.

Engine objects are to be dropped on the thread that made them, while the last reference to a pool may go anywhere: one
that was replaced goes on the thread that looks at the store.
"""

from __future__ import annotations

import threading
from collections import deque

from .instantiation import Counters
from .thread_instances import Shard


class Leash:
    """Belongs to a thread, by a ``threading.local``, and so ends with it. Then its shard leaves ``shards``, and is
    dropped, on this thread as engines demand. No lock is taken: this may run in the middle of anything."""

    def __init__(self, shard: Shard, shards: set[Shard], ended: deque[Counters]) -> None:
        self._shard, self._shards, self._ended = shard, shards, ended
        self._thread = threading.get_ident()
        self._orphans = _here().shards
        shards.add(shard)

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            self._shard.close()
            # In this order, somebody who adds up at the same time may miss this shard, but does not count it twice.
            self._shards.discard(self._shard)
            self._ended.append(self._shard.counters)
        else:
            # Another thread let go of the last reference to the pool, while this one goes on: its instances wait until
            # it comes by. In a forked child, where the thread is gone, nobody comes, and `shards` keeps them.
            self._orphans.append(self._shard)


class Orphans:
    """Shards of one thread whose pools are gone: dropped when the thread asks another pool, or ends."""

    def __init__(self) -> None:
        self.shards: deque[Shard] = deque()
        self._thread = threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:
            self.drop()

    def drop(self) -> None:
        """Drop them, on the thread that they belong to."""
        while self.shards:
            self.shards.popleft().close()


_local = threading.local()


def _here() -> Orphans:
    found: Orphans | None = getattr(_local, "orphans", None)
    if found is None:
        found = _local.orphans = Orphans()
    return found


def drop_orphans() -> None:
    """Drop what this thread has of pools that are gone."""
    _here().drop()


def leave_behind() -> object:
    """In the child of a fork: what no destructor may run for, for the caller to keep."""
    global _local
    before, _local = _local, threading.local()
    return before
