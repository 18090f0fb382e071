"""Tells who is asking, from what the application's authentication left in the scope."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Union

import msgspec
from starlette.types import Scope

from ..errors import ActorUnknown, ConfigError
from ..model import ACTORS, ANONYMOUS, Actor, Anonymous, CompilerTool, Service, User

#: A class of actors who have an id.
ActorClass = Union[type[User], type[Service], type[CompilerTool]]
ACTOR_CLASSES: Final = frozenset({User, Service, CompilerTool})

#: Where the name of a user is looked for, in this order.
NAMES: Final = ("identity", "display_name", "username")
#: Where roles are. The first that there is counts.
_ROLES: Final = ("roles", "groups")
_SEVERAL: Final = frozenset({list, tuple, set, frozenset})
_ABSENT: Final = object()
#: Classes of users that were looked at before. Bounded, since an application may make classes as it goes.
_plain: Final[set[type]] = set()
_PLAIN_LIMIT: Final = 256


def actor_from_user(scope: Scope) -> Actor:
    """Return ``scope["user"]`` as an actor. The middleware's default.

    No user, or one whose ``is_authenticated`` is false, is :class:`Anonymous`. Otherwise it is :class:`User` with the
    ``identity`` of the user, or with ``display_name`` or ``username`` where the class has none. Its roles are the
    ``roles`` of the user, or else the ``groups``, where there are any: texts in a list, a tuple or a set. Its scopes
    are those of ``scope["auth"]``. An :data:`Actor` is taken as it is.

    Raises :class:`~capgate.errors.ActorUnknown` for anything else, a user without a name included: who is not known for
    certain is denied rather than taken for nobody.
    """
    user = scope.get("user")
    if user is None:
        return ANONYMOUS
    try:  # what nearly every user has; whatever else there is, and why something is wrong, is found out below
        if user.is_authenticated is True:
            name = user.identity
            if type(name) is str and name and "auth" not in scope and (type(user) in _plain or _is_plain(type(user))):
                own = user.__dict__
                if "roles" not in own and "groups" not in own:
                    return User(name)
    except (AttributeError, NotImplementedError):
        pass
    return _actor_of(user, scope.get("auth"))


def actor_of(value: Any) -> Actor:
    """Return ``value`` as an actor: as :func:`actor_from_user` takes a user, or text as the name of one."""
    return User(value) if type(value) is str and value else _actor_of(value, optional=True)


def on_behalf_of_header(
    header: str, *, actor: Callable[[Scope], Any] = actor_from_user, acting_for: ActorClass = User
) -> Callable[[Scope], Any]:
    """Return an ``actor`` for :class:`~capgate.CapabilityMiddleware`: who acts on behalf of whom ``header`` names.

    Who acts is whoever ``actor`` says, a function of the scope or an async one. Without the header they act for
    themselves. Any client can send any header: it proves nothing, unless something in front of the application sets
    it, and removes what clients send. What the policy makes of ``actor.on_behalf_of`` is to depend on who acts.

    For nobody the header does not count. Denied are an empty header, a header that comes twice, and an actor who acts
    for somebody already. Raises :class:`~capgate.errors.ConfigError` for what is no name of a header.
    """
    if not isinstance(header, str) or not header.isascii() or not header.replace("-", "a").isalnum():
        raise ConfigError("header", header, "the name of a header: letters, digits and minus signs")
    if not callable(actor):
        raise ConfigError("actor", actor, "a function of the scope")
    require_actor_class("acting_for", acting_for)
    name = header.lower().encode()

    def joined(scope: Scope, acting: Any) -> Any:
        named = [value for key, value in scope.get("headers", ()) if key.lower() == name]
        if not named or type(acting) is Anonymous or type(acting) not in ACTORS:
            return acting
        text = named[0].decode("latin-1").strip()
        if len(named) > 1 or not text:
            raise ActorUnknown(scope, f"has a header {header} that is {'empty' if not text else 'there twice'}")
        if acting.on_behalf_of is not None:
            raise ActorUnknown(acting, f"acts for somebody already, besides whom the header {header} names")
        return msgspec.structs.replace(acting, on_behalf_of=acting_for(text))

    async def joined_later(scope: Scope, acting: Awaitable[Any]) -> Any:
        return joined(scope, await acting)

    def find(scope: Scope) -> Any:
        acting = actor(scope)
        return joined_later(scope, acting) if inspect.isawaitable(acting) else joined(scope, acting)

    return find


def require_actor_class(setting: str, given: object) -> None:
    """Raise :class:`ConfigError` unless ``given`` is a class of actors who have an id."""
    if given not in ACTOR_CLASSES:
        raise ConfigError(setting, given, "User, Service or CompilerTool")


def distinct_texts(holder: object, attribute: str, given: Any) -> tuple[str, ...]:
    """Return the texts in ``given``, each once: in their order, or of a set in that of the alphabet.

    Raises :class:`~capgate.errors.ActorUnknown`, which says that it was an ``attribute`` of ``holder``.
    """
    if type(given) not in _SEVERAL:
        raise ActorUnknown(holder, f"has {attribute} in a {type(given).__name__}, not in a list", (attribute,))
    values: Iterable[Any] = given
    for value in values:
        if not isinstance(value, str):
            raise ActorUnknown(holder, f"has {attribute}, of which one is a {type(value).__name__}", (attribute,))
    texts = map(str.__str__, values)  # also of an enumeration of texts
    return tuple(dict.fromkeys(texts if type(given) in (list, tuple) else sorted(texts)))


def _actor_of(user: Any, auth: Any = None, *, optional: bool = False) -> Actor:
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
    return User(_name(user), _texts(user, _ROLES), () if auth is None else _texts(auth, ("scopes",)))


def _name(user: Any) -> str:
    for attribute in NAMES:
        try:
            name = _looked_up(user, attribute)
        except NotImplementedError:
            continue  # starlette's BaseUser, where a class does not override it
        if name is _ABSENT:
            continue
        if type(name) is str and name:
            return name
        problem = "is empty" if type(name) is str else f"is a {type(name).__name__}, not a str"
        raise ActorUnknown(user, f"has an attribute {attribute} that {problem}", (attribute,))
    raise ActorUnknown(user, f"has no {', no '.join(NAMES)}", NAMES)


def _texts(holder: Any, attributes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts in the first of ``attributes`` that ``holder`` has."""
    for attribute in attributes:
        given = _looked_up(holder, attribute)
        if given is not _ABSENT:
            return distinct_texts(holder, attribute, given)
    return ()


def _looked_up(holder: Any, attribute: str) -> Any:
    try:
        return getattr(holder, attribute)
    except AttributeError:
        if hasattr(type(holder), attribute):
            raise  # it is there and failed; what people choose for themselves must not step in, nor nothing at all
        return _ABSENT


def _is_plain(cls: Any) -> bool:
    """Say whether instances of ``cls`` have roles only if these are their own attributes; and remember if so."""
    if any(hasattr(cls, attribute) for attribute in (*_ROLES, "__getattr__")):
        return False
    if cls.__getattribute__ is not object.__getattribute__:
        return False
    if len(_plain) < _PLAIN_LIMIT:
        _plain.add(cls)
    return True
