"""Tells who is asking, from what the application's authentication left in the scope."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope

from ..errors import ActorUnknown
from ..model import ACTORS, ANONYMOUS, Actor, User

#: Where the name of a user is looked for, in this order.
NAMES: Final = ("identity", "display_name", "username")


def actor_from_user(scope: Scope) -> Actor:
    """Return ``scope["user"]`` as an actor. The middleware's default.

    No user, or one whose ``is_authenticated`` is false, is :class:`Anonymous`. Otherwise it is :class:`User` with the
    ``identity`` of the user, or with ``display_name`` or ``username`` where the class has none. An :data:`Actor` is
    taken as it is.

    Raises :class:`~capgate.errors.ActorUnknown` for anything else, a user without a name included: who is not known for
    certain is denied rather than taken for nobody.
    """
    user = scope.get("user")
    if user is None:
        return ANONYMOUS
    try:  # what nearly every user has; whatever else there is, and why something is wrong, is found out below
        if user.is_authenticated is True:
            name = user.identity
            if type(name) is str and name:
                return User(name)
    except (AttributeError, NotImplementedError):
        pass
    return _actor_of(user)


def actor_of(value: Any) -> Actor:
    """Return ``value`` as an actor: as :func:`actor_from_user` takes a user, or text as the name of one."""
    return User(value) if type(value) is str and value else _actor_of(value, optional=True)


def _actor_of(user: Any, *, optional: bool = False) -> Actor:
    if user is None:
        return ANONYMOUS
    if type(user) in ACTORS:
        actor: Actor = user
        return actor
    authenticated = getattr(user, "is_authenticated", True if optional else None)
    if authenticated is False:
        return ANONYMOUS
    if authenticated is not True:
        seen = "no is_authenticated"
        if authenticated is not None:
            seen = f"an is_authenticated that is a {type(authenticated).__name__}, not True or False"
        raise ActorUnknown(user, f"has {seen}", ("is_authenticated",))
    return User(_name(user))


def _name(user: Any) -> str:
    for attribute in NAMES:
        try:
            name = getattr(user, attribute)
        except NotImplementedError:
            continue  # starlette's BaseUser, where a class does not override it
        except AttributeError:
            if hasattr(type(user), attribute):
                raise  # it is there and failed; a name that people choose for themselves must not step in
            continue
        if type(name) is str and name:
            return name
        problem = "is empty" if type(name) is str else f"is a {type(name).__name__}, not a str"
        raise ActorUnknown(user, f"has an attribute {attribute} that {problem}", (attribute,))
    raise ActorUnknown(user, f"has no {', no '.join(NAMES)}", NAMES)
