"""What is known of an actor: roles and scopes of a user, claims of a token, and whom they act for."""

from __future__ import annotations

import enum
from typing import Any

import jwt
import pytest
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.types import Scope

from capgate import actor_from_claims
from capgate.errors import ActorUnknown, ConfigError
from capgate.middleware.actors import actor_from_user, on_behalf_of_header
from capgate.model import Actor, Anonymous, CompilerTool, Service, User

from ..support.asgi import Call, http_scope
from ..support.gates import Ran, Recording, events, example

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Holder:
    """A user with whatever attributes."""

    is_authenticated = True

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update({"identity": "ada", **attributes})


class Role(str, enum.Enum):
    EDITOR = "editor"


class Slotted:
    __slots__ = ("identity", "is_authenticated", "roles")

    def __init__(self) -> None:
        self.identity, self.is_authenticated, self.roles = "ada", True, ("editor",)


class Computed(Holder):
    @property
    def roles(self) -> list[str]:
        return ["editor"]


class Failing(Holder):
    @property
    def roles(self) -> list[str]:
        return self.record.roles  # type: ignore[attr-defined,no-any-return]


class Forwarding:
    """A user that is around another one."""

    def __init__(self, inner: Holder) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def asked_about(scope: Scope, **options: Any) -> Actor | None:
    """The actor of the question that a request causes; ``None`` where it was denied before one."""
    ran, checker = Ran(), Recording()
    call = await Call(scope).to(example(ran, checker, **options))
    assert len(checker.asked) == len(ran.names) == (call.status == 200)
    return checker.asked[0][0].actor if checker.asked else None


ROLES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "none": (Holder(), ()),
    "a list": (Holder(roles=["b", "a", "b"]), ("b", "a")),
    "a tuple": (Holder(roles=("editor",)), ("editor",)),
    "a set": (Holder(roles={"b", "a"}), ("a", "b")),
    "a frozen set": (Holder(roles=frozenset(("a",))), ("a",)),
    "an enumeration": (Holder(roles=[Role.EDITOR]), ("editor",)),
    "groups": (Holder(groups=["staff"]), ("staff",)),
    "roles before groups": (Holder(roles=[], groups=["staff"]), ()),
    "a slot": (Slotted(), ("editor",)),
    "a property": (Computed(), ("editor",)),
    "behind another object": (Forwarding(Holder(roles=["editor"])), ("editor",)),
}


@pytest.mark.parametrize("name", ROLES)
async def test_roles_of_a_user(name: str) -> None:
    user, roles = ROLES[name]
    assert await asked_about(http_scope("/good", user=user)) == User("ada", roles)
    assert type(roles) is tuple


WRONG: dict[str, tuple[Any, tuple[str, ...]]] = {
    "text": (Holder(roles="editor"), ("roles",)),
    "nothing": (Holder(roles=None), ("roles",)),
    "a number": (Holder(groups=7), ("groups",)),
    "a dict": (Holder(roles={"editor": True}), ("roles",)),
    "a list of numbers": (Holder(roles=["editor", 7]), ("roles",)),
    "a generator": (Holder(roles=(text for text in ["editor"])), ("roles",)),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_are_no_roles_is_denied_and_the_log_says_what_was_looked_at(name: str) -> None:
    user, attributes = WRONG[name]
    with pytest.raises(ActorUnknown) as caught:
        actor_from_user({"user": user})
    assert (caught.value.seen, caught.value.attributes) == ("Holder", attributes)
    with events() as written:
        assert await asked_about(http_scope("/good", user=user)) is None
    assert (written[0]["reason"], attributes[0] in written[0]["cause"]) == ("internal_error", True)
    assert "editor" not in written[0]["cause"]  # O4


async def test_roles_that_fail_are_not_taken_for_none() -> None:
    assert await asked_about(http_scope("/good", user=Failing())) is None
    assert await asked_about(http_scope("/good", user=Failing(groups=["staff"]))) is None


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        name = conn.headers.get("authorization")
        return (AuthCredentials(["authenticated", "orders:write"]), SimpleUser(name)) if name else None


async def test_scopes_of_starlettes_authentication() -> None:
    checker = Recording()
    app = example(Ran(), checker)
    app.add_middleware(AuthenticationMiddleware, backend=Tokens())
    for headers in ([("authorization", "ada")], []):
        assert (await Call(http_scope("/good", headers=headers)).to(app)).status == 200
    known = User("ada", scopes=("authenticated", "orders:write"))
    assert [question.actor for question, _ in checker.asked] == [known, Anonymous()]


@pytest.mark.parametrize("scopes", ["orders:write", None, [7]])
async def test_what_are_no_scopes_is_denied(scopes: Any) -> None:
    auth = Holder(scopes=scopes)
    assert await asked_about(http_scope("/good", user=Holder(), auth=auth)) is None
    assert await asked_about(http_scope("/good", user=Holder(), auth=object())) == User("ada")


# -- an actor of the application's

ACTORS: list[Actor] = [
    User("ada", ("editor",), ("a",), {"tenant": "acme", "level": 3, "tags": ["eu"]}),
    Service("agent", on_behalf_of=User("ada", ("editor",))),
    CompilerTool("zig", on_behalf_of=Service("b", on_behalf_of=Service("c", on_behalf_of=User("d")))),
    Service("a", on_behalf_of=Anonymous()),
]


@pytest.mark.parametrize("actor", ACTORS)
async def test_any_actor_of_the_applications_is_asked_about_as_it_is(actor: Actor) -> None:
    assert await asked_about(http_scope("/good"), actor=lambda scope: actor) == actor
    assert await asked_about(http_scope("/good", user=actor)) == actor


# -- claims

SECRET = "0123456789abcdef0123456789abcdef"  # of these tests
CLAIMS: dict[str, Any] = {
    "sub": "ada",
    "tid": "acme",
    "scope": "orders:read  orders:write",
    "realm_access": {"roles": ["editor", "editor", "staff"]},
    "https://acme.example/level": 3,
    "nested": {"deep": {"mail": "ada@acme.example"}},
    "none": None,
    "object": {},
    "big": 2**63,
}


def decoded(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims as they are once a token was made and verified."""
    token = jwt.encode(claims, SECRET, "HS256")
    return jwt.decode(token, SECRET, ["HS256"])


async def test_claims_of_a_token_become_an_actor() -> None:
    token = jwt.encode(CLAIMS, SECRET, "HS256")
    names = {
        **{"tenant": "tid", "level": "https://acme.example/level", "mail": "nested.deep.mail"},
        **{"absent": "nowhere.at.all", "empty": "none", "object": "object", "big": "big", "inside": "tid.of"},
    }

    def actor(scope: Scope) -> Actor:
        bearer = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        verified = jwt.decode(bearer, SECRET, ["HS256"])
        return actor_from_claims(verified, roles="realm_access.roles", attributes=names)

    expected = User(
        "ada",
        ("editor", "staff"),
        ("orders:read", "orders:write"),
        {"tenant": "acme", "level": 3, "mail": "ada@acme.example"},
    )
    signed, forged = (
        http_scope("/good", headers=[("authorization", f"Bearer {text}")]) for text in (token, token[:-2])
    )
    assert await asked_about(signed, actor=actor) == expected
    assert await asked_about(forged, actor=actor) is None


def test_what_is_absent_is_none(anyio_backend: str) -> None:
    assert actor_from_claims({"sub": "ada"}) == User("ada")
    claims = {"client": {"id": "ci"}, "scp": ["a", "b"], "groups": ["staff"]}
    given = actor_from_claims(claims, id="client.id", roles="groups", scopes="scp", kind=Service)
    assert given == Service("ci", ("staff",), ("a", "b"))
    assert actor_from_claims({"sub": "ada", "roles": ["x"], "scope": "y"}, roles=None, scopes=None) == User("ada")
    assert actor_from_claims({"sub": "ada", "a.b": "whole", "a": {"b": "inside"}}, id="a.b") == User("whole")


MALFORMED: dict[str, Any] = {
    "no mapping": "ada",
    "nothing": None,
    "no subject": {"name": "ada"},
    "an empty subject": {"sub": ""},
    "a number": {"sub": 7},
    "roles in a text": {"sub": "ada", "roles": "editor"},
    "roles in an object": {"sub": "ada", "roles": {"editor": 1}},
    "a number among roles": {"sub": "ada", "roles": ["editor", 7]},
    "null for roles": {"sub": "ada", "roles": None},
    "a number for scopes": {"sub": "ada", "scope": 7},
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_claims_are_nobody_and_denied(name: str) -> None:
    with pytest.raises(ActorUnknown):
        actor_from_claims(MALFORMED[name])
    assert await asked_about(http_scope("/good"), actor=lambda scope: actor_from_claims(MALFORMED[name])) is None


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("kind", {"kind": Anonymous}),
        ("acting", {"acting": str}),
        ("attributes", {"attributes": {"Tenant": "tid"}}),
        ("attributes", {"attributes": {"roles": "tid"}}),
    ],
)
def test_arguments_that_are_none(setting: str, options: dict[str, Any], anyio_backend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        actor_from_claims({"sub": "ada"}, **options)
    assert caught.value.setting == setting


# -- who acts for whom


def chain(length: int) -> dict[str, Any]:
    """Claims by which so many have acted: ``agent-1`` acts now."""
    act: dict[str, Any] = {}
    for number in range(length, 0, -1):
        act = {"sub": f"agent-{number}", **({"act": act} if act else {})}
    return {"sub": "ada", "roles": ["editor"], "scope": "a", "tid": "acme", "act": act}


@pytest.mark.parametrize("length", [1, 2, 4])
async def test_the_outermost_act_is_who_acts_now_and_former_ones_do_not_count(length: int) -> None:
    """RFC 8693, section 4.1."""
    claims = decoded(chain(length))

    def actor(scope: Scope) -> Actor:
        return actor_from_claims(claims, delegation="act", attributes={"tenant": "tid"})

    subject = User("ada", ("editor",), (), {"tenant": "acme"})
    assert await asked_about(http_scope("/good"), actor=actor) == Service(
        "agent-1", scopes=("a",), on_behalf_of=subject
    )


async def test_nobody_acts_for_anybody_where_that_is_not_said() -> None:
    for claims, attributes in ((chain(1), ("act",)), ({"sub": "ada", "act": None}, ("act",))):
        with pytest.raises(ActorUnknown) as caught:
            actor_from_claims(claims)
        assert caught.value.attributes == attributes
    assert actor_from_claims({"sub": "ada"}, delegation="act") == User("ada")
    other = {"sub": "ada", "by": {"agent": {"sub": "zig"}}}
    given = actor_from_claims(other, delegation="by.agent", acting=CompilerTool)
    assert given == CompilerTool("zig", on_behalf_of=User("ada"))
    assert await asked_about(http_scope("/good"), actor=lambda scope: actor_from_claims(chain(1))) is None


@pytest.mark.parametrize(
    "act",
    [None, "agent", {}, {"sub": ""}, {"sub": 7}, {"sub": "a", "act": "b"}, {"sub": "a", "act": None}, chain(5)["act"]],
)
def test_a_malformed_act_is_nobody(act: Any, anyio_backend: str) -> None:
    with pytest.raises(ActorUnknown):
        actor_from_claims({"sub": "ada", "act": act}, delegation="act")


async def later(scope: Scope) -> Actor:
    return actor_from_user(scope)


@pytest.mark.parametrize("actor", [actor_from_user, later])
async def test_a_header_names_on_whose_behalf_an_actor_acts(actor: Any) -> None:
    find = on_behalf_of_header("X-On-Behalf-Of", actor=actor)
    named, user = [("x-on-behalf-of", "ada")], Service("agent")
    assert await asked_about(http_scope("/good", headers=named), actor=find) == Anonymous()
    assert await asked_about(http_scope("/good", user=user), actor=find) == user
    given = await asked_about(http_scope("/good", headers=named, user=user), actor=find)
    assert given == Service("agent", on_behalf_of=User("ada"))
    assert await asked_about(http_scope("/good", headers=named, user=user)) == user  # nobody said that it counts
    for headers in (named * 2, [("x-on-behalf-of", " ")]):
        assert await asked_about(http_scope("/good", headers=headers, user=user), actor=find) is None
    acting = Service("agent", on_behalf_of=User("eve"))
    assert await asked_about(http_scope("/good", headers=named, user=acting), actor=find) is None


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("header", {"header": "x on"}),
        ("header", {"header": ""}),
        ("actor", {"header": "x", "actor": "ada"}),
        ("acting_for", {"header": "x", "acting_for": Anonymous}),
    ],
)
def test_headers_that_are_none(setting: str, options: dict[str, Any], anyio_backend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        on_behalf_of_header(**options)
    assert caught.value.setting == setting
