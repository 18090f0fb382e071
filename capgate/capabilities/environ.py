"""Gates environment variables: :class:`GatedEnviron`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NoReturn

from ..enforcement.capabilities import BATCH, Capabilities
from ..enforcement.current import current
from ..model import Allow, Resource

ACTION = "env.read"
KIND = "env_var"


class GatedEnviron(Mapping[str, str]):
    """The environment as far as the policy allows: ``env.read`` on ``env_var:<name>``, asked at each look.

    ::

        environ = GatedEnviron()
        region = environ.get("REGION", "eu")                   # CapabilityDenied, not "eu", where REGION is denied
        config = starlette.config.Config(environ=environ)

    To look a variable up, with ``[]``, ``get`` or ``in``, raises :class:`~capgate.errors.CapabilityDenied` where it is
    denied, whether there is such a variable or not. What goes over all of them (iteration, ``len``, ``items``,
    ``dict()``, comparison) sees the allowed ones, as if there were no others; each denial is an event nevertheless.

    ``environ``       where variables come from; ``os.environ`` by default, as it is at the time
    ``capabilities``  whom to ask, in place of the current ones; at import time, say, when there are none

    Not gated: ``os.environ`` and ``os.getenv`` themselves, and what a child process inherits. Values are not read from
    files: those of a starlette ``Config(env_file=...)`` are none of the environment's.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, *, capabilities: Capabilities | None = None) -> None:
        self._environ = environ
        self._capabilities = capabilities

    def __getitem__(self, name: str) -> str:
        (self._capabilities or current()).require_now(ACTION, _variable(name))
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._allowed(tuple(self._environ)))

    def __len__(self) -> int:
        return len(self._allowed(tuple(self._environ)))

    def copy(self) -> dict[str, str]:
        """Return the allowed variables, as a dict."""
        return dict(self)

    def _allowed(self, names: Iterable[str]) -> list[str]:
        capabilities, left, allowed = self._capabilities or current(), iter(names), list[str]()
        while batch := tuple(islice(left, BATCH)):
            results = capabilities.check_many_now((ACTION, _variable(name)) for name in batch)
            allowed += [name for name, result in zip(batch, results, strict=True) if type(result) is Allow]
        return allowed

    def __repr__(self) -> str:
        return "GatedEnviron()"  # neither values nor names

    def __reduce__(self) -> NoReturn:
        raise TypeError("a GatedEnviron is not copied or pickled: that would take the variables that are denied along")


def _variable(name: object) -> Resource:
    return Resource(KIND, name if isinstance(name, str) and name else None)
