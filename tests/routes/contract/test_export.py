"""From real applications to their contracts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthenticationBackend
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from capgate import HandlerContract, RuntimePolicy, Settings, build_policy, requires
from capgate.actions import VOCABULARY, Vocabulary, policy_hash
from capgate.errors import ArtifactNotFound, ConfigError, DigestMismatch
from capgate.middleware.contract import contract_of, digests_of
from capgate.routes.contract import ZEROS
from examples.fastapi_orders.app import create_app as fastapi_orders
from examples.starlette_orders.app import POLICY as ORDERS_POLICY
from examples.starlette_orders.app import create_app as starlette_orders

from ...support.gates import KINDS, POLICY, Answering, Ran, make_checker, plain, read

Declared = dict[tuple[str, tuple[str, ...]], Any]


def declared(contract: HandlerContract) -> Declared:
    """Path and methods of each route, with what it needs, or with its status."""
    return {
        (one.path, one.methods): [(need.action, need.resource, need.args_hash) for need in one.requirements]
        or one.status
        for one in contract.routes
    }


def test_the_starlette_example() -> None:
    settings = Settings(policy=ORDERS_POLICY, service="orders", public=("/health",))
    contract = contract_of(starlette_orders(), settings)
    get = ("GET", "HEAD")
    assert declared(contract) == {
        ("/health", get): "public",
        ("/internal/dump", get): "undeclared",
        ("/orders", get): [("db.read", "sql_query:list_orders", None)],
        ("/orders", ("POST",)): [("db.write", "sql_query:insert_order", None)],
        ("/orders/{number:int}", ("DELETE",)): [("db.write", "sql_query:delete_order", None)],
    }
    assert contract.service == "orders"
    assert contract.policy_hash == policy_hash()
    assert contract.wasm_policy_hash == ZEROS
    assert contract.artifact_sha256 == hashlib.sha256(ORDERS_POLICY.read_bytes()).hexdigest()
    assert contract.sections["sql"].static == ("delete_order", "insert_order", "list_orders")
    assert HandlerContract.from_json(contract.to_json()) == contract


def test_the_fastapi_example(tmp_path: Path) -> None:
    path = tmp_path / "policy.wasm"
    path.write_bytes(build_policy(POLICY))
    contract = contract_of(fastapi_orders(), Settings(artifact=path))
    found = declared(contract)
    assert found["/orders/{number}/payment/{host}", ("POST",)] == [("http.outbound", "host:{host}", None)]
    assert found["/orders", ("GET",)] == [("db.read", "sql_query:list_orders", None)]
    assert found["/openapi.json", ("GET", "HEAD")] == "undeclared"
    assert (contract.sections["egress"].static, contract.sections["egress"].dynamic) == ((), True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (contract.wasm_policy_hash, contract.artifact_sha256, contract.service) == (digest, digest, None)
    assert HandlerContract.from_json(contract.to_json()) == contract


class Thing(HTTPEndpoint):
    @read("of-get")
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("")

    @requires("db.write", resource="sql_query:of-post", args_hash="body")
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("")


def test_what_routes_can_be(tmp_path: Path) -> None:
    ran = Ran()
    inner = Starlette(routes=[Route("/deep/{id}", read("deep-{id}")(ran.endpoint("deep")))])
    app = Starlette(
        routes=[
            WebSocketRoute("/ws", read("good")(ran.websocket("ws"))),
            Route("/thing", Thing),
            Route("/both", read("one")(read("two")(read("one")(ran.endpoint("both")))), methods=["POST"]),
            Route("/braces", requires("fs.read", resource="path:srv/{{x}}")(ran.endpoint("braces"))),
            Route("/kind", requires("db.read", resource="sql_query")(ran.endpoint("kind"))),
            Route("/bare", requires("compute.long")(ran.endpoint("bare"))),
            Mount("/inner", inner),
            Mount("/static", StaticFiles(directory=tmp_path)),
            Host("api.example.com", Starlette(routes=[Route("/", ran.endpoint("host"))])),
        ]
    )
    contract = contract_of(app, Settings(public=("/static/{path:path}",)))
    get = ("GET", "HEAD")
    assert declared(contract) == {
        ("/ws", ()): [("db.read", "sql_query:good", None)],
        ("/thing", get): [("db.read", "sql_query:of-get", None)],
        ("/thing", ("POST",)): [("db.write", "sql_query:of-post", "body")],
        ("/both", ("POST",)): [("db.read", "sql_query:one", None), ("db.read", "sql_query:two", None)],
        ("/braces", get): [("fs.read", "path:srv/{{x}}", None)],
        ("/kind", get): [("db.read", "sql_query", None)],
        ("/bare", get): [("compute.long", None, None)],
        ("/inner/deep/{id}", get): [("db.read", "sql_query:deep-{id}", None)],
        ("/static/{path:path}", ()): "public",
        ("api.example.com/", get): "undeclared",
    }
    sections = {name: (one.static, one.dynamic) for name, one in contract.sections.items()}
    assert sections == {
        "compute": ((), True),
        "fs": (("srv/{x}",), False),
        "sql": (("good", "of-get", "of-post", "one", "two"), True),
    }
    assert HandlerContract.from_json(contract.to_json()) == contract


def test_routers_of_fastapi() -> None:
    router = APIRouter(prefix="/v1")

    @router.get("/things/{name}")
    @requires("cache.read", resource="namespace:{name}")
    async def things(name: str) -> str:
        return name

    app = FastAPI(openapi_url=None)
    app.include_router(router, prefix="/api")
    contract = contract_of(app)
    assert declared(contract) == {("/api/v1/things/{name}", ("GET",)): [("cache.read", "namespace:{name}", None)]}


def test_an_application_without_routes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await plain(scope, receive, send)

    assert contract_of(app).routes == ()
    assert declared(contract_of(read("good")(app))) == {("/{path:path}", ()): [("db.read", "sql_query:good", None)]}


def test_the_order_in_which_routes_are_written_does_not_matter_but_where_one_shadows_another() -> None:
    ran = Ran()
    routes = [Route(path, read(name)(ran.endpoint(name))) for path, name in (("/b", "1"), ("/a", "2"), ("/b", "3"))]
    there, back = contract_of(Starlette(routes=routes)), contract_of(Starlette(routes=routes[::-1]))
    assert [one.requirements[0].resource for one in there.routes] == ["sql_query:2", "sql_query:1", "sql_query:3"]
    assert [one.requirements[0].resource for one in back.routes] == ["sql_query:2", "sql_query:3", "sql_query:1"]
    swapped = contract_of(Starlette(routes=[routes[1], routes[0], routes[2]]))
    assert swapped == there != back


@pytest.fixture
def vocabulary(monkeypatch: pytest.MonkeyPatch) -> Vocabulary:
    """The default one, which forgets afterwards what was registered meanwhile."""
    monkeypatch.setattr(VOCABULARY, "_actions", VOCABULARY._actions)
    monkeypatch.setattr(VOCABULARY, "names", VOCABULARY.names)
    return VOCABULARY


def test_an_action_of_the_application(vocabulary: Vocabulary) -> None:
    vocabulary.register("invoice.send", kind="invoice")
    app = Starlette(routes=[Route("/{id}", requires("invoice.send", resource="invoice:{id}")(Ran().endpoint("send")))])
    (action,) = contract_of(app).actions
    assert (action.name, action.section, action.kind, action.resource_required, action.operations) == (
        *("invoice.send", "actions", "invoice", True),
        (),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_digests_of_a_checker(kind: str) -> None:
    checker = make_checker(kind)
    wasm, artifact = digests_of(checker)
    assert artifact == checker.policy.sha256
    assert wasm == (ZEROS if kind == "local" else artifact)
    settings = Settings(policy=ORDERS_POLICY)  # which are not looked at for a policy, where there is a checker
    assert contract_of(Starlette(), settings, checker=checker).artifact_sha256 == artifact


def test_of_another_checker_nothing_is_known() -> None:
    contract = contract_of(Starlette(), checker=Answering(None))
    assert (contract.wasm_policy_hash, contract.artifact_sha256) == (ZEROS, ZEROS)


def test_the_digest_of_a_document_given_as_a_dict() -> None:
    contract = contract_of(Starlette(), Settings(policy=POLICY))
    assert contract.artifact_sha256 == RuntimePolicy.from_document(POLICY).sha256


def test_settings_that_lead_to_no_policy(tmp_path: Path) -> None:  # A22
    with pytest.raises(ArtifactNotFound):
        contract_of(Starlette(), Settings(artifact=tmp_path / "absent.wasm"))
    (tmp_path / "policy.wasm").write_bytes(build_policy(POLICY))
    with pytest.raises(DigestMismatch):
        contract_of(Starlette(), Settings(artifact=tmp_path / "policy.wasm", artifact_sha256=ZEROS))
    (tmp_path / "policy.json").write_text(json.dumps({"nonsense": 1}))
    with pytest.raises(ConfigError):
        contract_of(Starlette(), Settings(policy=tmp_path / "policy.json"))


def test_an_application_that_cannot_be_seen_into() -> None:
    app: Any = plain
    for _ in range(40):
        app = AuthenticationMiddleware(app, backend=AuthenticationBackend())
    strange: Any = Ran().endpoint("strange")
    strange.__capgate_requires__ = "anything"
    for one in (app, strange):
        with pytest.raises(ConfigError) as caught:
            contract_of(one)
        assert caught.value.setting == "app"


def test_what_no_contract_can_hold_is_refused_by_name() -> None:
    app = Starlette(routes=[Route("/", read("\ud800")(Ran().endpoint("x")))])
    with pytest.raises(ConfigError) as caught:
        contract_of(app)
    assert caught.value.setting == "routes[0].requirements[0].resource"


def test_a_policy_in_toml_is_pinned_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_bytes(b"sql = 'any' # everything\n")
    assert (
        contract_of(Starlette(), Settings(policy=path)).artifact_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    )
