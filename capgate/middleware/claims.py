"""Makes an actor of the claims of a token that the application has verified, such as a decoded JWT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import ActorUnknown, ConfigError
from ..facts import ACTOR_FACTS, DELEGATIONS_LIMIT, weigh_attributes
from ..model import Actor, Attribute, Service, User
from .actors import ActorClass, distinct_texts, require_actor_class

#: The claim that says who acts, by RFC 8693, section 4.1.
ACT: Final = "act"
#: The claim that names somebody, by RFC 7519, section 4.1.2.
SUBJECT: Final = "sub"
_ABSENT: Final = object()


def actor_from_claims(
    claims: Mapping[str, Any],
    *,
    id: str = SUBJECT,
    roles: str | None = "roles",
    scopes: str | None = "scope",
    attributes: Mapping[str, str] | None = None,
    kind: ActorClass = User,
    delegation: str | None = None,
    acting: ActorClass = Service,
) -> Actor:
    """Return whom ``claims`` are about. They are to be those of a token that was verified, and is not expired.

    Each claim is named by itself, or by the way to it: ``realm_access.roles``. A claim whose name has dots of its own
    is found first.

    ``id``          of the actor
    ``roles``       texts in a list; none where the claim is absent
    ``scopes``      texts in a list, or in one text with spaces between them
    ``attributes``  claims by the name of the attribute: ``{"tenant": "tid"}``. One that is absent, or no fact, gives no
                    attribute
    ``kind``        what the subject is
    ``delegation``  the claim that says who acts for the subject, ``act``
    ``acting``      what they are

    By RFC 8693, section 4.1, the outermost ``act`` is who acts now. That is the actor, on behalf of the subject. Those
    further inside acted before, and are not looked at. The scopes are those of the token, thus of who acts; roles and
    attributes are the subject's. Where ``delegation`` does not name it, a token with an ``act`` is denied.

    Raises :class:`~capgate.errors.ActorUnknown` where an id is no text or empty, where roles or scopes are no texts,
    and where more than 4 have acted. Raises :class:`~capgate.errors.ConfigError` for a class or a name of an attribute
    that is none.
    """
    require_actor_class("kind", kind)
    require_actor_class("acting", acting)
    if not isinstance(claims, Mapping):
        raise ActorUnknown(claims, "is no mapping of claims")
    given_roles = _texts(claims, roles)
    given_scopes = _texts(claims, scopes, split=True)
    facts = _attributes(claims, attributes or {})
    subject = _id(claims, claims, id)
    if delegation is None:
        if ACT in claims:
            problem = "says that somebody acts for the subject, and delegation= does not say that this counts"
            raise ActorUnknown(claims, f"has a claim {ACT}, which {problem}", (ACT,))
        return kind(subject, given_roles, given_scopes, facts)
    act = _claim(claims, delegation)
    if act is _ABSENT:
        return kind(subject, given_roles, given_scopes, facts)
    _check_chain(claims, act, delegation)
    return acting(_id(claims, act, SUBJECT), (), given_scopes, {}, kind(subject, given_roles, (), facts))


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def _id(claims: object, holder: Mapping[str, Any], name: str) -> str:
    id = _claim(holder, name)
    if isinstance(id, str) and id:
        return str.__str__(id)
    problem = "no" if id is _ABSENT else "an empty" if isinstance(id, str) else f"a {type(id).__name__} as"
    raise ActorUnknown(claims, f"has {problem} claim {name} that names an actor", (name,))


def _texts(claims: Mapping[str, Any], name: str | None, *, split: bool = False) -> tuple[str, ...]:
    given = _ABSENT if name is None else _claim(claims, name)
    if name is None or given is _ABSENT:
        return ()
    if split and isinstance(given, str):
        given = given.split()
    return distinct_texts(claims, name, given)


def _attributes(claims: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Attribute]:
    try:
        weigh_attributes("actor", dict.fromkeys(names, ""), ACTOR_FACTS)
    except (TypeError, ValueError) as error:
        raise ConfigError("attributes", tuple(names), f"names of attributes: {error}") from None
    facts: dict[str, Attribute] = {}
    for attribute, name in names.items():
        value = _claim(claims, name)
        try:
            weigh_attributes("actor", {attribute: value}, ACTOR_FACTS)
        except (TypeError, ValueError):
            continue  # it is absent, or no fact
        facts[attribute] = [*value] if isinstance(value, list) else value
    return facts


def _check_chain(claims: object, act: Any, delegation: str) -> None:
    """Raise unless who acts, and all who acted before, are objects, and few."""
    for _ in range(DELEGATIONS_LIMIT):
        if not isinstance(act, Mapping):
            raise ActorUnknown(claims, f"has a {type(act).__name__} as claim {delegation}", (delegation,))
        if ACT not in act:
            return
        act = act[ACT]
    raise ActorUnknown(claims, f"says in {delegation} that more than {DELEGATIONS_LIMIT} have acted", (delegation,))
