"""What a route needs, declared where the route is written: :func:`requires`.

A declaration is an attribute of the endpoint, which itself stays as it is: the order relative to ``@app.get(...)``
does not matter, and FastAPI sees the signature that was written. An endpoint without one is undeclared, and
undeclared is denied.
"""

from __future__ import annotations

import functools
import inspect
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeGuard, TypeVar, Union
from uuid import UUID

import msgspec
from starlette.endpoints import HTTPEndpoint

from .actions import VOCABULARY
from .errors import ConfigError
from .model import Resource

#: The attribute that holds the declarations of an endpoint: a tuple of :class:`Requirement`.
ATTRIBUTE: Final = "__capgate_requires__"

_KIND: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_RESOURCE: Final = "'kind' or 'kind:id', the id with {path_parameters} and literal braces doubled"
_T = TypeVar("_T")


class Parameter(msgspec.Struct, frozen=True):
    """A place in a resource id that a path parameter fills."""

    name: str


class Requirement(msgspec.Struct, frozen=True):
    """One action that a policy has to allow before an endpoint runs. Made by :meth:`parse`.

    ``fixed`` is the resource where no path parameter takes part in it; else ``kind`` and ``template`` make one per
    request. ``args_hash`` is ``"body"`` where the policy is to be given the SHA-256 of the request body.
    """

    action: str
    fixed: Resource | None = None
    kind: str = ""
    template: tuple[Union[str, Parameter], ...] = ()
    args_hash: str | None = None

    @classmethod
    def parse(cls, action: str, *, resource: str | None = None, args_hash: str | None = None) -> Requirement:
        """Raises :class:`ConfigError` for an unknown action, a malformed resource, or one of a kind that is not the
        action's."""
        known = VOCABULARY.get(action) if isinstance(action, str) else None
        if known is None:
            raise ConfigError("action", action, f"a registered action: {', '.join(sorted(VOCABULARY.names))}")
        if args_hash not in (None, "body"):
            raise ConfigError("args_hash", args_hash, "None or 'body'")
        if resource is None:
            return cls(action, args_hash=args_hash)
        kind, template = _parse_resource(resource)
        if known.kind not in (None, kind):
            raise ConfigError("resource", resource, f"a resource of kind {known.kind!r}, which {action} acts on")
        if any(type(part) is Parameter for part in template):
            return cls(action, None, kind, template, args_hash)
        return cls(action, Resource(kind, "".join(map(str, template)) or None), args_hash=args_hash)

    @property
    def parameters(self) -> frozenset[str]:
        """The path parameters that the resource id is made with."""
        return frozenset(part.name for part in self.template if isinstance(part, Parameter))

    def resource(self, path_params: Mapping[str, Any]) -> Resource | None:
        """The resource of one request. Raises :class:`LookupError` or :class:`TypeError` where a parameter will not
        do."""
        if not self.template:
            return self.fixed
        first, *others = self.template
        if not others and isinstance(first, Parameter):  # "kind:{parameter}", which most are
            return Resource(self.kind, _fill(first, path_params))
        return Resource(self.kind, "".join([p if isinstance(p, str) else _fill(p, path_params) for p in self.template]))


Requirements = tuple[Requirement, ...]


def requires(action: str, *, resource: str | None = None, args_hash: str | None = None) -> Callable[[_T], _T]:
    """Declare that a policy has to allow ``action`` on ``resource`` before the decorated endpoint runs.

    ``resource`` is ``"kind"`` or ``"kind:id"``; the id may use path parameters, ``"sql_query:{name}"``. The value is
    the one that the route's converter made: declare ``/{number:int}`` where ``007`` and ``7`` are to be the same.
    With ``args_hash="body"`` the policy is given the SHA-256 of the body, up to ``Settings.body_bytes``.

    For functions, classes, methods of :class:`~starlette.endpoints.HTTPEndpoint` and ASGI applications in a
    ``Mount``; stacked, or on a class and its method, all of them have to be allowed, in the order written from the
    inside out. Subclasses inherit it. Raises :class:`ConfigError` where it is applied.
    """
    requirement = Requirement.parse(action, resource=resource, args_hash=args_hash)

    def declare(endpoint: _T) -> _T:
        if not callable(endpoint):
            raise ConfigError("endpoint", endpoint, "a function, a class or an ASGI application")
        _refuse_declared_methods(endpoint)
        try:
            setattr(endpoint, ATTRIBUTE, (*declared(endpoint), requirement))
        except (AttributeError, TypeError):
            raise ConfigError("endpoint", endpoint, "an object that takes attributes; declare its function") from None
        return endpoint

    return declare


def declared(endpoint: object) -> Requirements:
    """What ``endpoint`` declares, seen through :func:`functools.partial` and :func:`functools.wraps`; empty if nothing.

    Raises :class:`TypeError` if the attribute holds something else, as it does on objects that have every attribute.
    """
    for _ in range(32):
        found = getattr(endpoint, ATTRIBUTE, None)
        if found is not None:
            if type(found) is not tuple:
                raise TypeError(f"{ATTRIBUTE} is a {type(found).__name__}, which requires() does not make")
            return found
        if isinstance(endpoint, functools.partial):
            endpoint = endpoint.func
        else:
            endpoint = getattr(endpoint, "__wrapped__", None)
            if endpoint is None:
                return ()
    return ()


def declared_for_method(endpoint: type[HTTPEndpoint], method: str) -> Requirements:
    """What a class-based endpoint declares for ``method``: on the class, and on the method that the class dispatches
    it to.

    Raises :class:`TypeError` if methods are declared and the class has a dispatch of its own, which may call any of
    them.
    """
    name = "get" if method == "HEAD" and not hasattr(endpoint, "head") else method.lower()
    handler = declared(getattr(endpoint, name, None))
    if handler and endpoint.dispatch is not HTTPEndpoint.dispatch:
        raise TypeError(f"{endpoint!r} declares methods and overrides dispatch; declare the class")
    return (*declared(endpoint), *handler)


def is_class_based(endpoint: object) -> TypeGuard[type[HTTPEndpoint]]:
    """Whether ``endpoint`` is a class whose methods are chosen by the method of the request."""
    return isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)


def methods_declare(endpoint: type[HTTPEndpoint]) -> bool:
    """Whether any method of a class-based endpoint declares something."""
    return any(declared(member) for name, member in inspect.getmembers(endpoint, callable) if name[:2] != "__")


def _refuse_declared_methods(endpoint: object) -> None:
    """A class that dispatches in its own way would run a method whose declaration nobody looks at."""
    if not isinstance(endpoint, type) or is_class_based(endpoint):
        return
    for name, member in inspect.getmembers(endpoint, inspect.isfunction):
        if name != "__call__" and declared(member):
            raise ConfigError("endpoint", f"{endpoint.__name__}.{name}", "methods of HTTPEndpoint, or the class alone")


def _parse_resource(resource: str) -> tuple[str, tuple[Union[str, Parameter], ...]]:
    kind, colon, template = resource.partition(":") if isinstance(resource, str) else ("", "", "")
    if not _KIND.fullmatch(kind) or bool(colon) != bool(template):
        raise ConfigError("resource", resource, _RESOURCE)
    parts: list[Union[str, Parameter]] = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            if literal:
                parts.append(literal)
            if name is None:
                continue
            if not name.isidentifier() or spec or conversion:
                raise ValueError(name)
            parts.append(Parameter(name))
    except ValueError:
        raise ConfigError("resource", resource, _RESOURCE) from None
    return kind, tuple(parts)


def _fill(parameter: Parameter, path_params: Mapping[str, Any]) -> str:
    value = path_params[parameter.name]
    if type(value) is str:
        return value
    if type(value) in (int, float, UUID):
        return str(value)
    raise TypeError(f"path parameter {parameter.name!r} is a {type(value).__name__}, which has no agreed text")
