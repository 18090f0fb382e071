"""Declares what a route needs, where the route is written: :func:`requires`.

A declaration is an attribute of the endpoint, which itself stays as it is: the order relative to ``@app.get(...)``
does not matter, and FastAPI sees the signature that was written. An endpoint without one is undeclared, and
undeclared is denied.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import string
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, Final, TypeGuard, TypeVar, Union
from uuid import UUID

import msgspec
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Host, Mount, Router

from ..actions import VOCABULARY
from ..errors import ConfigError, MalformedInput
from ..model import Resource
from ..spelling import SPELLINGS
from .arguments import ArgumentSource, parse_arguments

#: The attribute that holds the declarations of an endpoint: a tuple of :class:`Requirement`.
ATTRIBUTE: Final = "__capgate_requires__"
#: The attribute of what asks a policy by itself: ``True``, and nothing else.
ASKS_ITSELF: Final = "__capgate_asks_itself__"

#: The methods that an :class:`~starlette.endpoints.HTTPEndpoint` may have, by the names of their functions.
_VERBS: Final = frozenset({"get", "head", "post", "put", "patch", "delete", "options", "query"})
_KIND: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_RESOURCE: Final = "'kind' or 'kind:id', the id with {path_parameters} and literal braces doubled"
_T = TypeVar("_T")


#: Gives the attributes of a resource, or an awaitable of them, for a request.
FactsOf = Callable[[Any], Any]


class Parameter(msgspec.Struct, frozen=True):
    """A place in a resource id that a path parameter fills."""

    name: str


class Requirement(msgspec.Struct, frozen=True):
    """One action that a policy has to allow before an endpoint runs. Made by :meth:`parse`.

    ``fixed`` is the resource where no path parameter takes part in it; else ``kind`` and ``template`` make one per
    request. ``args_hash`` is ``"body"`` where the policy is given the SHA-256 of the request body.

    ``facts`` gives the attributes of the resource, and ``args`` say where the arguments are. ``always`` matters on
    routers and mounts only: see :func:`requires`.
    """

    action: str
    fixed: Resource | None = None
    kind: str = ""
    template: tuple[Union[str, Parameter], ...] = ()
    args_hash: str | None = None
    always: bool = False
    #: The parameter that is the whole id, as in ``"kind:{parameter}"``: said once more, for most templates are so.
    sole: str | None = None
    facts: FactsOf | None = None
    args: tuple[ArgumentSource, ...] = ()
    #: Whether something has to be read or looked up before it can be asked.
    reads: bool = False

    def __post_init__(self) -> None:
        if self.args_hash is not None or self.facts is not None or self.args:
            msgspec.structs.force_setattr(self, "reads", True)

    @classmethod
    def parse(
        cls,
        action: str,
        *,
        resource: str | None = None,
        args_hash: str | None = None,
        always: bool = False,
        facts: FactsOf | None = None,
        args: Mapping[str, str] | None = None,
    ) -> Requirement:
        """Return the requirement that is written like this.

        Raises :class:`ConfigError` for an unknown action, a malformed resource, or one of a kind that is not the
        action's; and for facts or arguments that are none.
        """
        known = VOCABULARY.get(action) if isinstance(action, str) else None
        if known is None:
            close = difflib.get_close_matches(str(action), VOCABULARY.names, 1)
            valid = f"a registered action: {', '.join(sorted(VOCABULARY.names))}"
            raise ConfigError("action", action, valid, nearest=close[0] if close else None)
        if args_hash not in (None, "body"):
            raise ConfigError("args_hash", args_hash, "None or 'body'")
        if always is not True and always is not False:
            raise ConfigError("always", always, "True or False")
        if facts is not None and not (callable(facts) and resource is not None):
            raise ConfigError("facts", facts, "a function of the request, together with a resource")
        sources = () if args is None else parse_arguments(args)
        if resource is None:
            return cls(action, args_hash=args_hash, always=always, args=sources)
        try:
            kind, template = parse_resource(resource)
        except ValueError:
            raise ConfigError("resource", resource, _RESOURCE) from None
        if known.kind not in (None, kind):
            raise ConfigError("resource", resource, f"a resource of kind {known.kind!r}, which {action} acts on")
        example = "".join(part if isinstance(part, str) else "x" for part in template)
        if example and Resource(kind, example).id is None:  # which no policy would ever be asked about
            spelling = SPELLINGS[kind]
            meant = spelling.meant(example) if "{" not in resource else None
            raise ConfigError(
                "resource", resource, spelling.valid, nearest=None if meant is None else f"{kind}:{meant}"
            )
        if any(type(part) is Parameter for part in template):
            first, *others = template
            sole = first.name if isinstance(first, Parameter) and not others else None
            return cls(action, None, kind, template, args_hash, always, sole, facts, sources)
        fixed = Resource(kind, "".join(map(str, template)) or None)
        return cls(action, fixed, args_hash=args_hash, always=always, facts=facts, args=sources)

    @property
    def parameters(self) -> frozenset[str]:
        """The path parameters that the resource id is made with."""
        return frozenset(part.name for part in self.template if isinstance(part, Parameter))

    @property
    def in_path(self) -> frozenset[str]:
        """The path parameters that the question is made with: those, and arguments."""
        return self.parameters.union(source.key for source in self.args if source.place == "path")

    def resource(self, path_params: Mapping[str, Any]) -> Resource | None:
        """Return the resource of one request.

        Raises :class:`LookupError` where a parameter is missing, and :class:`TypeError` or
        :class:`~capgate.errors.MalformedInput` where it has no agreed text.
        """
        if not self.template:
            return self.fixed
        sole = self.sole
        if sole is not None:
            value = path_params[sole]
            return Resource(self.kind, value if type(value) is str else _text(sole, value))
        return Resource(self.kind, "".join([p if isinstance(p, str) else _fill(p, path_params) for p in self.template]))


Requirements = tuple[Requirement, ...]


def requires(
    action: str,
    *,
    resource: str | None = None,
    args_hash: str | None = None,
    always: bool = False,
    facts: FactsOf | None = None,
    args: Mapping[str, str] | None = None,
) -> Callable[[_T], _T]:
    """Declare that a policy has to allow ``action`` on ``resource`` before the decorated endpoint runs.

    ``resource`` is ``"kind"`` or ``"kind:id"``; the id may use path parameters, ``"sql_query:{name}"``. The value is
    the one that the endpoint sees: of ``/{number:int}``, or FastAPI's ``number: int``, ``007`` and ``7`` are the same.
    With ``args_hash="body"`` the policy is given the SHA-256 of the body, up to ``Settings.body_bytes``.

    ``facts`` is a function that gives the attributes of the resource as a mapping, or an async one. It is given the
    request (of a websocket, the connection), with path parameters as the endpoint sees them, and without a body. It
    runs before anything is allowed, in a worker thread if it is not async, for ``limits.actor_seconds``. Whatever goes
    wrong denies ``facts_unavailable``. ``args`` say where arguments are: ``{"amount": "json:/amount", "page":
    "query:page", "id": "path:id", "tenant": "header:x-tenant"}``. One that is not there is absent from the question.

    It is for functions, classes, methods of :class:`~starlette.endpoints.HTTPEndpoint` and ASGI applications in a
    ``Mount``. Stacked, or on a class and its method, all of them have to be allowed, in the order written from the
    inside out. Subclasses inherit it.

    On a router, a ``Mount``, a ``Host`` or a whole application, ``requires(...)(router)`` is the default of the routes
    below that declare nothing themselves; the nearest one counts. With ``always=True`` it is asked for all routes
    below, in addition to what they declare. Raises :class:`ConfigError` where it is applied.
    """
    requirement = Requirement.parse(
        action, resource=resource, args_hash=args_hash, always=always, facts=facts, args=args
    )

    def declare(endpoint: _T) -> _T:
        from .dispatch import install  # which knows declarations, and is known by everything that makes one

        if not callable(endpoint) or _is_leaf(endpoint):
            valid = "a function, a class, a router, a Mount or an ASGI application; of another route, its endpoint"
            raise ConfigError("endpoint", endpoint, valid)
        if always and not is_around(endpoint):
            raise ConfigError("always", True, "a declaration of a router, a Mount, a Host or an application")
        _check_methods(endpoint)
        try:
            setattr(endpoint, ATTRIBUTE, (*declared(endpoint), requirement))
        except (AttributeError, TypeError):
            raise ConfigError("endpoint", endpoint, "an object that takes attributes; declare its function") from None
        install()  # so that the log says where it runs and there is no gate
        return endpoint

    return declare


def is_around(endpoint: object) -> bool:
    """Say whether there are routes below ``endpoint``, for which its declarations are defaults."""
    return isinstance(endpoint, (Router, Mount, Host, Starlette))


def _is_leaf(endpoint: object) -> bool:
    return isinstance(endpoint, BaseRoute) and not isinstance(endpoint, (Mount, Host))


def inherit(own: Requirements, always: Requirements, default: Requirements) -> tuple[Requirements, Requirements]:
    """Return what routes below are always asked for, and their default.

    ``own`` is what the next router inside declares; the others were so further outside.
    """
    if not own:
        return always, default
    for requirement in own:
        if requirement.always and requirement not in always:
            always = (*always, requirement)
    return always, tuple(requirement for requirement in own if not requirement.always) or default


def asks_itself(endpoint: _T) -> _T:
    """Declare that ``endpoint`` asks the policy itself before it does anything.

    The gate lets requests reach it unasked. It is for ASGI applications that are enforcement points of their own, and
    to be used as sparingly as public routes.
    """
    try:
        setattr(endpoint, ASKS_ITSELF, True)
    except (AttributeError, TypeError):
        raise ConfigError("endpoint", endpoint, "an object that takes attributes") from None
    return endpoint


def does_ask_itself(endpoint: object) -> bool:
    """Say whether :func:`asks_itself` was said of ``endpoint``, or of its class."""
    return getattr(endpoint, ASKS_ITSELF, None) is True


def declared(endpoint: object) -> Requirements:
    """Return what ``endpoint`` declares, seen through :func:`functools.partial` and :func:`functools.wraps`.

    Of an object that is called, what its ``__call__`` declares counts. Raises :class:`TypeError` if the attribute holds
    something else, as it does on objects that have every attribute.
    """
    for _ in range(32):
        requirements = getattr(endpoint, ATTRIBUTE, None)
        if requirements is not None:
            if type(requirements) is not tuple:
                raise TypeError(f"{ATTRIBUTE} is a {type(requirements).__name__}, which requires() does not make")
            return requirements
        inner = endpoint.func if isinstance(endpoint, functools.partial) else getattr(endpoint, "__wrapped__", None)
        if inner is None:
            called = getattr(type(endpoint), "__call__", None)  # noqa: B004  # the function is wanted, if it is one
            return declared(called) if isinstance(called, FunctionType) else ()
        endpoint = inner
    return ()


def declared_for_method(endpoint: type[HTTPEndpoint], method: str) -> Requirements:
    """Return what a class-based endpoint declares for ``method``: on the class, and on the function for the method.

    Raises :class:`TypeError` if methods are declared and the class has a dispatch of its own, which may call any of
    them. Raises it too if something else than a method of HTTP is declared, which nobody would look at.
    """
    view: type = endpoint  # a type can be a key, for whatever mypy thinks of one of HTTPEndpoint
    for stray in declaring_methods(view) - _VERBS:
        raise TypeError(f"{endpoint!r} declares {stray}, which is no method of HTTP; declare the class")
    handler = declared(getattr(endpoint, handler_name(endpoint, method), None))
    if handler and endpoint.dispatch is not HTTPEndpoint.dispatch:
        raise TypeError(f"{endpoint!r} declares methods and overrides dispatch; declare the class")
    return (*declared(endpoint), *handler)


def handler_name(endpoint: type[HTTPEndpoint], method: str) -> str:
    """Return the name of the function to which a class-based endpoint dispatches ``method``, if it has it."""
    return "get" if method == "HEAD" and not hasattr(endpoint, "head") else method.lower()


def is_class_based(endpoint: object) -> TypeGuard[type[HTTPEndpoint]]:
    """Say whether ``endpoint`` is a class whose methods are chosen by the method of the request."""
    return isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint)


@functools.lru_cache(maxsize=1_024)
def declaring_methods(cls: type) -> frozenset[str]:
    """Return the names of the methods of ``cls`` that declare something, but for ``__call__``."""
    names = set()
    for name in dir(cls):
        member = inspect.getattr_static(cls, name, None)
        function = getattr(member, "__func__", member)  # of a staticmethod or a classmethod
        if name != "__call__" and isinstance(function, FunctionType) and declared(function):
            names.add(name)
    return frozenset(names)


def _check_methods(endpoint: object) -> None:
    """Raise if ``endpoint`` is a class that dispatches in its own way, and one of its methods declares something.

    It would run that method, and nobody looks at the declaration.
    """
    if not isinstance(endpoint, type) or is_class_based(endpoint):
        return
    for name, member in inspect.getmembers(endpoint, inspect.isfunction):
        if declared(member):
            raise ConfigError("endpoint", f"{endpoint.__name__}.{name}", "methods of HTTPEndpoint, or the class alone")


# -- resources as they are written


def parse_resource(text: str) -> tuple[str, tuple[Union[str, Parameter], ...]]:
    """Return the kind and the parts of the id in ``kind`` or ``kind:id``. Raises :class:`ValueError` for other text."""
    kind, colon, template = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not _KIND.fullmatch(kind) or bool(colon) != bool(template):
        raise ValueError(text)
    parts: list[Union[str, Parameter]] = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        if literal:
            parts.append(literal)
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(text)
        parts.append(Parameter(name))
    return kind, tuple(parts)


def write_resource(kind: str, parts: Iterable[str | Parameter]) -> str:
    """Return the text of which :func:`parse_resource` gives ``kind`` and the parts of the id."""
    id = "".join(escape(part) if isinstance(part, str) else f"{{{part.name}}}" for part in parts)
    return f"{kind}:{id}" if id else kind


def escape(literal: str) -> str:
    """Return ``literal`` with its braces doubled, as it stands in a resource that takes path parameters."""
    return literal.replace("{", "{{").replace("}", "}}")


def as_written(requirement: Requirement) -> dict[str, Any]:
    """Return ``requirement`` as :func:`requires` was given it, with ``resource`` as one string, but for ``facts``."""
    written: dict[str, Any] = {"action": requirement.action}
    if requirement.template:
        written["resource"] = write_resource(requirement.kind, requirement.template)
    elif requirement.fixed is not None:
        id = requirement.fixed.id
        written["resource"] = write_resource(requirement.fixed.kind, () if id is None else (id,))
    if requirement.args_hash is not None:
        written["argsHash"] = requirement.args_hash
    if requirement.args:
        written["args"] = {source.name: source.text for source in requirement.args}
    return written


# -- resources of one request


def _fill(parameter: Parameter, path_params: Mapping[str, Any]) -> str:
    value = path_params[parameter.name]
    return value if type(value) is str else _text(parameter.name, value)


def _text(name: str, value: Any) -> str:
    if type(value) in (int, float, UUID):
        return str(value)
    if isinstance(value, MalformedInput):
        raise value  # what stands in place of a value that is not certain
    raise TypeError(f"path parameter {name!r} is a {type(value).__name__}, which has no agreed text")
