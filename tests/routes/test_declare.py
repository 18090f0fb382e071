from __future__ import annotations

import functools
import inspect
import uuid
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from capgate.actions import VOCABULARY
from capgate.errors import ConfigError
from capgate.model import Resource
from capgate.routes.declare import ATTRIBUTE, Requirement, declared, declared_for_method, requires

from ..support.gates import read
from .applications import fresh


def actions(endpoint: object) -> list[str]:
    return [requirement.action for requirement in declared(endpoint)]


async def endpoint(request: object) -> None:
    """An endpoint."""


class Everything:
    """Has every attribute, as proxies and mocks do."""

    def __getattr__(self, name: str) -> Any:
        return Everything()

    def __call__(self) -> None: ...


# -- what may be declared


@pytest.mark.parametrize("action", ["db.wirte", "", "db", "DB.WRITE", "db.write ", None, 5, ["db.write"]])
def test_an_unknown_action_is_refused_where_it_is_written(action: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        requires(action)
    assert (caught.value.setting, caught.value.seen) == ("action", action)
    assert "db.write" in caught.value.valid


def test_a_registered_action_is_known() -> None:
    VOCABULARY.register("declaretest.send", kind="invoice")
    assert Requirement.parse("declaretest.send", resource="invoice:{id}").kind == "invoice"


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("sql_query", Resource("sql_query")),
        ("sql_query:upsert_user", Resource("sql_query", "upsert_user")),
        ("sql_query:a:b", Resource("sql_query", "a:b")),
        ("sql_query:a b", Resource("sql_query", "a b")),
        ("sql_query:{{name}}", Resource("sql_query", "{name}")),
        ("sql_query:{{{name}}}", Resource("sql_query", "{ada}")),
        ("sql_query:{name}", Resource("sql_query", "ada")),
        ("sql_query:{name}{name}/{number}", Resource("sql_query", "adaada/7")),
        ("sql_query:{number}-{fraction}-{key}", Resource("sql_query", "7-0.5-00000000-0000-0000-0000-000000000001")),
    ],
)
def test_resources(resource: str, expected: Resource) -> None:
    params = {"name": "ada", "number": 7, "fraction": 0.5, "key": uuid.UUID(int=1)}
    assert Requirement.parse("db.write", resource=resource).resource(params) == expected


@pytest.mark.parametrize(
    "resource",
    [
        "", ":", ":x", "sql_query:", "SQL_query:x", "{kind}:x", "sql query:x", "sql_query:{", "sql_query:}",
        "sql_query:{}", "sql_query:{0}", "sql_query:{a.b}", "sql_query:{a[0]}", "sql_query:{a!r}", "sql_query:{a:>9}",
        "sql_query:{a b}", 5, b"sql_query:x",
    ],
)  # fmt: skip
def test_malformed_resources(resource: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        requires("db.write", resource=resource)
    assert (caught.value.setting, caught.value.seen) == ("resource", resource)


def test_a_resource_of_another_kind_than_the_actions() -> None:
    with pytest.raises(ConfigError) as caught:
        requires("db.write", resource="host:example.com")
    assert caught.value.setting == "resource"


@pytest.mark.parametrize("args_hash", ["query", True, "", 1])
def test_only_the_body_is_hashed(args_hash: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        requires("db.write", args_hash=args_hash)
    assert caught.value.setting == "args_hash"


def test_a_parameter_that_is_not_there() -> None:
    with pytest.raises(LookupError):
        Requirement.parse("db.write", resource="sql_query:{name}").resource({"nam": "x"})


@pytest.mark.parametrize("value", [None, True, b"x", ["a"], object()])
def test_a_parameter_without_an_agreed_text(value: object) -> None:
    with pytest.raises(TypeError):
        Requirement.parse("db.write", resource="sql_query:{name}").resource({"name": value})


def test_a_fixed_resource_is_made_once() -> None:
    requirement = Requirement.parse("db.write", resource="sql_query:a")
    assert requirement.resource({}) is requirement.resource({})
    assert requirement.parameters == frozenset()
    assert Requirement.parse("db.write", resource="sql_query:{a}{b}").parameters == {"a", "b"}


# -- where it may be declared


def test_the_endpoint_stays_what_it_is() -> None:
    def endpoint(a: int, *, b: str = "x") -> float:
        return float(a)

    before = inspect.signature(endpoint)
    assert requires("db.read")(endpoint) is endpoint
    assert inspect.signature(endpoint) == before


def test_stacked_declarations_all_count_from_the_inside_out() -> None:
    @requires("db.write")
    @requires("cache.write")
    @requires("db.read")
    async def endpoint() -> None: ...

    assert actions(endpoint) == ["db.read", "cache.write", "db.write"]


def test_nothing_declared() -> None:
    class Class:
        pass

    for undeclared in (endpoint, Class, Class(), lambda: None, functools.partial(endpoint), print, None, 5):
        assert declared(undeclared) == ()


def test_seen_through_partial_and_wraps() -> None:
    @requires("db.read")
    async def inner(request: object) -> None: ...

    @functools.wraps(inner)
    async def wrapper(request: object) -> None: ...

    @functools.wraps(inner, updated=())
    async def bare_wrapper(request: object) -> None: ...

    async def forgetful(request: object) -> None: ...

    assert actions(functools.partial(functools.partial(inner, 1), 2)) == ["db.read"]
    assert actions(wrapper) == actions(bare_wrapper) == ["db.read"]
    assert actions(forgetful) == []
    assert actions(requires("db.write")(functools.partial(inner))) == ["db.read", "db.write"]
    assert actions(requires("db.write")(wrapper)) == ["db.read", "db.write"]
    assert actions(inner) == ["db.read"]


def test_a_circle_of_wrappers_ends() -> None:
    async def one() -> None: ...

    one.__wrapped__ = one  # type: ignore[attr-defined]
    assert declared(one) == ()


def test_bound_methods_show_the_declaration_of_their_function() -> None:
    class Views:
        @requires("db.read")
        async def show(self, request: object) -> None: ...

    assert actions(Views().show) == ["db.read"]
    with pytest.raises(ConfigError) as caught:
        requires("db.read")(Views().show)
    assert caught.value.setting == "endpoint"


@pytest.mark.parametrize("target", [None, 5, "endpoint", print, Everything()])
def test_what_cannot_carry_a_declaration(target: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        requires("db.read")(target)
    assert caught.value.setting == "endpoint"


def test_an_object_that_has_every_attribute_declares_nothing() -> None:
    with pytest.raises(TypeError):
        declared(Everything())


def test_asgi_applications() -> None:
    static = requires("fs.read", resource="path:static")(StaticFiles(directory="."))
    assert actions(static) == ["fs.read"]
    assert actions(requires("db.read")(Starlette())) == ["db.read"]
    assert actions(StaticFiles(directory=".")) == []


# -- classes


def test_classes_and_subclasses() -> None:
    @requires("db.read")
    class View(WebSocketEndpoint): ...

    @requires("cache.read")
    class Below(View): ...

    assert actions(View) == ["db.read"]
    assert actions(Below) == ["db.read", "cache.read"]


class Methods(HTTPEndpoint):
    @requires("db.read")
    async def get(self, request: object) -> None: ...

    @requires("db.write")
    async def post(self, request: object) -> None: ...

    async def delete(self, request: object) -> None: ...


def by_method(view: type[HTTPEndpoint], method: str) -> list[str]:
    return [requirement.action for requirement in declared_for_method(view, method)]


def test_methods_of_a_class() -> None:  # S11
    expected = {"GET": ["db.read"], "HEAD": ["db.read"], "POST": ["db.write"], "DELETE": [], "FOO": [], "__INIT__": []}
    assert {method: by_method(Methods, method) for method in expected} == expected


def test_class_and_method_both_count() -> None:
    view = requires("cache.read")(type("Both", (Methods,), {}))
    assert by_method(view, "GET") == ["cache.read", "db.read"]
    assert by_method(view, "DELETE") == ["cache.read"]


def test_head_has_its_own_method_where_the_class_has_one() -> None:  # S11
    class View(Methods):
        async def head(self, request: object) -> None: ...

    assert by_method(View, "HEAD") == []


def test_a_class_that_dispatches_by_itself_cannot_declare_methods() -> None:
    class View(Methods):
        async def dispatch(self) -> None: ...

    with pytest.raises(TypeError):
        declared_for_method(View, "GET")
    assert by_method(View, "DELETE") == []

    with pytest.raises(ConfigError) as caught:

        @requires("db.read")
        class Other(WebSocketEndpoint):
            @requires("db.write")
            async def on_receive(self, websocket: object, data: object) -> None: ...

    assert caught.value.seen == "Other.on_receive"


def test_the_attribute_is_a_tuple_of_requirements() -> None:
    @requires("db.read", resource="sql_query:a", args_hash="body")
    async def endpoint() -> None: ...

    assert getattr(endpoint, ATTRIBUTE) == (Requirement("db.read", Resource("sql_query", "a"), args_hash="body"),)


def test_what_cannot_be_declared() -> None:
    for endpoint in (Route("/x", fresh()), 5, None):
        with pytest.raises(ConfigError) as caught:
            read("x")(endpoint)
        assert caught.value.setting == "endpoint"
    for always in (None, 1, "yes"):
        with pytest.raises(ConfigError) as caught:
            read("x", always=always)
        assert caught.value.setting == "always"
    with pytest.raises(ConfigError) as caught:
        read("x", always=True)(fresh())
    assert caught.value.setting == "always"
