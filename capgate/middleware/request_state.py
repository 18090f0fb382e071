"""Gives each request a state of its own, over that of the server."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import msgspec

#: Where the capabilities are in the state of a request.
NAME: Final = "capabilities"
#: In place of capabilities that nobody has looked at yet.
_UNSEEN: Final[Any] = object()


class RequestState(msgspec.Struct, eq=False):
    """The state of one request: its own ``capabilities``; all else is read from and written to the server's mapping.

    Some servers and wrappers give one mapping to several requests. What is written there is there for all of them, as
    without a gate; what a request may do is not.

    A mapping in all but its base: a Struct, because that is made in half the time, once for each request. The
    capabilities are those of ``_request``, once somebody looks at them.
    """

    shared: MutableMapping[str, Any]
    _request: Any
    _capabilities: Any = _UNSEEN

    def __getitem__(self, key: str) -> Any:
        if key != NAME:
            return self.shared[key]
        if self._capabilities is _UNSEEN:
            self._capabilities = self._request.capabilities
        return self._capabilities

    def __setitem__(self, key: str, value: Any) -> None:
        if key == NAME:
            self._capabilities = value
        else:
            self.shared[key] = value

    def __delitem__(self, key: str) -> None:
        if key == NAME:
            raise KeyError(key)
        del self.shared[key]

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self.shared if key != NAME)
        yield NAME

    def __len__(self) -> int:
        return len(self.shared) + (NAME not in self.shared)

    __contains__ = MutableMapping.__contains__
    get = MutableMapping.get
    keys = MutableMapping.keys
    values = MutableMapping.values
    items = MutableMapping.items
    pop = MutableMapping.pop
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault
    __eq__ = MutableMapping.__eq__
    __hash__ = None  # type: ignore[assignment]  # as of any mapping

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted(self)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


MutableMapping.register(RequestState)
