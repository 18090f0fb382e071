"""Proposes the declaration of a route that has none, for whoever has a gate that only monitors.

It is made from the path as declared and the methods, and is no more than a start: what an endpoint does is not in them.

- ``read`` where GET and HEAD are all that the route answers, else ``write``. A route that does not say its methods goes
  by the method of the request. At start-up there is none: ``read`` for what is mounted, else ``write``.
- Where the path ends with a parameter that takes several segments, ``fs`` on ``path:{parameter}``; else ``db`` on
  ``sql_query:`` and the path, with its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from ..errors import ConfigError
from .declare import Requirement, escape
from .framework import FRONTENDS, REST, template

_PARAMETER: Final = re.compile(r"{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?}", re.ASCII)
_READING: Final = frozenset({"GET", "HEAD"})


def fitting_declaration(path: str, methods: Collection[str]) -> str | None:
    """Return the line that would declare the route of ``path``, as it is declared, with those of the mounts around it.

    ``None`` where no line would: what FastAPI serves where no route matches, a path with quotes, and one of which no
    resource can be named.
    """
    path = path.rpartition("\0")[2]  # what is before has no name, and no parameters that are known
    if path.endswith(FRONTENDS) or '"' in path:
        return None
    reads = _READING.issuperset(methods) if methods else path.endswith(REST)
    parts = _PARAMETER.split(path)  # text, then name, converter and text of each parameter
    names = parts[1::3]
    if names and parts[-2] == "path" and not parts[-1]:
        group, resource = "fs", f"path:{{{names[-1]}}}"
    else:
        texts = [escape(text) for text in parts[::3]]
        id = texts[0] + "".join(f"{{{name}}}{text}" for name, text in zip(names, texts[1:], strict=True))
        group, resource = "db", f"sql_query:{id.lstrip('/') or 'index'}"
    action = f"{group}.{'read' if reads else 'write'}"
    try:
        Requirement.parse(action, resource=resource)
    except ConfigError:  # of "/\n", for one
        return None
    return f'@requires("{action}", resource="{resource}")'


def fitting_for(route: Any, prefix: str, method: str | None) -> str | None:
    """Return the line for ``route``, below ``prefix``, where a request with ``method`` reached it."""
    methods = getattr(route, "methods", None) or (() if method is None else (method,))
    return fitting_declaration(template(route, prefix), methods)
