"""Says which user model gives no name that a policy could be asked about. Nothing of the application's is called."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final

from starlette.authentication import AuthCredentials, BaseUser
from starlette.middleware.authentication import AuthenticationMiddleware

from ...middleware.actors import NAMES
from ...model import ACTORS
from .defect import Defect
from .gate_place import GatePlace

_NO_USERS: Final = (AuthCredentials, BaseUser, *ACTORS)
_AUTHENTICATED: Final = "is_authenticated"


def nameless_users(place: GatePlace) -> Iterator[Defect]:
    """Yield the classes that authentication makes users of, and that have no name; and a wrong ``actor``."""
    actor = place.gate.given().actor
    if actor is not None:
        yield from _wrong_actor(actor)
        return
    for outer in place.outside:
        if isinstance(outer, AuthenticationMiddleware):
            for user in dict.fromkeys(_users_of(getattr(type(outer.backend), "authenticate", None))):
                yield from _problem_of(user)


def _wrong_actor(actor: Any) -> Iterator[Defect]:
    returned = _hints(actor).get("return")
    if isinstance(returned, type) and returned not in ACTORS:
        name = getattr(actor, "__qualname__", type(actor).__name__)
        problem = f"it returns {returned.__name__}, which is no actor, so every question is denied"
        yield Defect("actor_of_other_type", name, problem, "return capgate.User(name)", "all")


def _users_of(function: Any) -> Iterator[type]:
    """Yield the classes that ``function`` says that it returns, and those like users that its code names."""
    yield from filter(_may_be_user, _classes_in(_hints(function).get("return")))
    if isinstance(function, FunctionType):
        for name in function.__code__.co_names:
            used = function.__globals__.get(name)
            if _may_be_user(used) and (issubclass(used, BaseUser) or hasattr(used, _AUTHENTICATED)):
                yield used


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # a name that is there for type checkers only: then nothing is known
        return {}


def _classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from _classes_in(part)


def _may_be_user(value: Any) -> typing.TypeGuard[type]:
    return isinstance(value, type) and value not in _NO_USERS and value.__module__ != "builtins"


def _problem_of(user: type) -> Iterator[Defect]:
    if not _may_have(user, _AUTHENTICATED):
        problem = f"it has no {_AUTHENTICATED}, so nobody can tell whether somebody is logged in"
        yield Defect("user_without_name", user.__qualname__, problem, f"{_AUTHENTICATED} = True", "all")
    elif not any(_may_have(user, name) for name in NAMES):
        problem = f"it has none of {', '.join(NAMES)}, so every question of a user is denied"
        write = "identity = property(lambda self: str(self.id))"
        yield Defect("user_without_name", user.__qualname__, problem, write, "all")


def _may_have(cls: type, name: str) -> bool:
    """Say whether instances of ``cls`` may have that attribute: only where not, nothing else is possible."""
    for base in cls.__mro__[:-1]:
        if base is BaseUser:  # whose own raise NotImplementedError
            continue
        own = vars(base)
        if name in own or "__getattr__" in own or "__getattribute__" in own:
            return True
        if name in getattr(base, "__annotations__", {}) or name in own.get("__slots__", ()):
            return True
        functions = (member for member in own.values() if inspect.isfunction(member))
        if any(name in function.__code__.co_names or _sets_by_name(function) for function in functions):
            return True
    return False


def _sets_by_name(function: FunctionType) -> bool:
    return not {"setattr", "__dict__", "__setattr__"}.isdisjoint(function.__code__.co_names)
