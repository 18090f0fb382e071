"""Gives each request a state of its own, over that of the server."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

#: Where the capabilities are in the state of a request.
NAME: Final = "capabilities"


class RequestState(MutableMapping[str, Any]):
    """The state of one request: its own ``capabilities``; all else is read from and written to the server's mapping.

    Some servers and wrappers give one mapping to several requests. What is written there is there for all of them, as
    without a gate; what a request may do is not.
    """

    __slots__ = ("_capabilities", "shared")

    def __init__(self, shared: MutableMapping[str, Any], capabilities: Any) -> None:
        self.shared = shared
        self._capabilities = capabilities

    def __getitem__(self, key: str) -> Any:
        return self._capabilities if key == NAME else self.shared[key]

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted(self)})"
