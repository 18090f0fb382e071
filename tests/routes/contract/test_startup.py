"""A gate with a contract starts if what runs is what the contract says, and denies everything if it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from capgate import CapabilityMiddleware, HandlerContract, Settings, build_policy
from capgate.actions import VOCABULARY, policy_hash
from capgate.checker.local import LocalPolicyChecker
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ArtifactError, ArtifactNotFound, CapgateError, ConfigError, ContractDrift, ManifestError
from capgate.limits import Limits
from capgate.middleware.contract import contract_of, read_contract
from capgate.middleware.startup import Startup
from capgate.routes.contract import ZEROS
from capgate.routes.declare import Requirement

from ...support.asgi import Call, http_scope
from ...support.gates import KINDS, PATIENT, POLICY, Answering, Ran, events, make_checker, read
from ...support.lifespan import serving

OTHER_POLICY = {**POLICY, "version": "8"}


class Case:
    """An application that has a policy in ``folder``, and what its contract is."""

    def __init__(self, folder: Path, kind: str, framework: type[Starlette] = Starlette) -> None:
        self.ran = Ran()
        self.folder = folder
        self.kind = kind
        self.framework = framework
        self.routes = [
            Route("/good", read("good")(self.ran.endpoint("good"))),
            Route("/health", self.ran.endpoint("health")),
            Route("/by-name/{name}", read("{name}")(self.ran.endpoint("by-name"))),
        ]
        self.path = folder / "contract.json"
        self.write_policy(POLICY)
        self.contract = contract_of(self.app(Settings()), self.settings())
        self.write(self.contract)

    def write_policy(self, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode() if self.kind == "local" else build_policy(document)
        (self.folder / "policy").write_bytes(data)

    def write(self, contract: HandlerContract) -> None:
        self.path.write_bytes(contract.to_json())

    def settings(self, **more: Any) -> Settings:
        policy = {"policy": self.folder / "policy"}
        artifact = {"artifact": self.folder / "policy", "engine": self.kind}
        given = policy if self.kind == "local" else artifact
        fixed: dict[str, Any] = {"service": "orders", "public": ("/health",), "limits": PATIENT, "contract": self.path}
        return Settings(**{**fixed, **given, **more})

    def app(self, settings: Settings, **options: Any) -> Starlette:
        app = self.framework(routes=self.routes)
        app.add_middleware(CapabilityMiddleware, settings=settings, **options)
        return app

    async def starts(self, settings: Settings | None = None, **options: Any) -> None:
        """That the application starts, and answers as it does without a contract."""
        app = self.app(settings or self.settings(), **options)
        async with serving(app) as lifespan:
            assert lifespan.types == ["startup.complete"]
            for path, status in (("/good", 200), ("/health", 200), ("/by-name/good", 200), ("/by-name/x", 403)):
                assert (await Call(http_scope(path)).to(app)).status == status

    async def refusal(self, settings: Settings | None = None, **options: Any) -> BaseException:
        """Why it does not start: with a lifespan, which fails, and without, where every request is denied."""
        settings = settings or self.settings()
        app = self.app(settings, **options)
        async with serving(app) as lifespan:
            assert lifespan.types == ["startup.failed"]
        for served in (app, self.app(settings, **options)):
            with events() as found:
                for path in ("/good", "/health"):
                    assert (await Call(http_scope(path)).to(served)).status == 403
            assert {event["reason"] for event in found} == {"policy_unavailable"}
        assert self.ran.names == []
        startup = Startup(CapabilityMiddleware, app.router, settings, **{**NOTHING, **options})
        with pytest.raises(CapgateError) as caught:
            await startup._start(http_scope())
        return caught.value


NOTHING: dict[str, Any] = {"checker": None, "actor": None, "resolver": None, "router": None}


@pytest.fixture(params=[(kind, Starlette) for kind in KINDS] + [("local", FastAPI)], ids=lambda one: str(one[0]))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    kind, framework = request.param
    return Case(tmp_path, kind, framework)


async def test_what_is_as_the_contract_says_starts(case: Case) -> None:
    await case.starts()
    case.routes.reverse()
    await case.starts()  # the order of routes does not count
    without_service = msgspec.structs.replace(case.contract, service=None)
    case.write(without_service)
    await case.starts()


async def test_from_the_environment(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "CAPGATE_POLICY" if case.kind == "local" else "CAPGATE_ARTIFACT"
    monkeypatch.setenv(variable, str(case.folder / "policy"))
    monkeypatch.setenv("CAPGATE_CONTRACT", str(case.path))
    monkeypatch.setenv("CAPGATE_PUBLIC", "/health")
    monkeypatch.setenv("CAPGATE_SERVICE", "orders")
    await case.starts(Settings.from_env(limits=PATIENT))


async def test_another_policy_is_refused_with_both_digests(case: Case) -> None:  # A13
    before = case.contract
    case.write_policy(OTHER_POLICY)
    after = contract_of(case.app(Settings()), case.settings())
    error = await case.refusal()
    assert isinstance(error, ContractDrift)
    assert isinstance(error, ArtifactError)
    field = "artifactSha256" if case.kind == "local" else "wasmPolicyHash"
    assert (error.field, error.expected, error.actual) == (field, before.artifact_sha256, after.artifact_sha256)
    assert error.path == str(case.path)


async def test_zeros_mean_that_there_is_no_wasm_policy(case: Case) -> None:
    digest = case.contract.artifact_sha256
    if case.kind == "local":
        assert case.contract.wasm_policy_hash == ZEROS
        case.write(msgspec.structs.replace(case.contract, wasm_policy_hash=digest))
        expected = ("wasmPolicyHash", digest, ZEROS)
    else:
        case.write(msgspec.structs.replace(case.contract, wasm_policy_hash=ZEROS))
        expected = ("wasmPolicyHash", ZEROS, digest)
    error = await case.refusal()
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected, error.actual) == expected


async def test_no_artifact_is_not_any_artifact(case: Case) -> None:
    case.write(msgspec.structs.replace(case.contract, artifact_sha256=ZEROS))
    error = await case.refusal()
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected) == ("artifactSha256", ZEROS)
    assert error.actual == case.contract.artifact_sha256


@pytest.fixture
def local(tmp_path: Path) -> Case:
    return Case(tmp_path, "local")


async def test_another_vocabulary_is_refused_with_both_hashes(local: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = policy_hash()
    monkeypatch.setattr(VOCABULARY, "_actions", VOCABULARY._actions)
    monkeypatch.setattr(VOCABULARY, "names", VOCABULARY.names)
    VOCABULARY.register("contract.test")
    error = await local.refusal()
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected, error.actual) == ("policyHash", before, policy_hash())
    assert before != policy_hash()


async def test_another_service_is_refused_by_name(local: Case) -> None:
    error = await local.refusal(local.settings(service="payments"))
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected, error.actual) == ("service", "orders", "payments")


def added(case: Case) -> None:
    case.routes.append(Route("/new", read("other")(case.ran.endpoint("new"))))


def removed(case: Case) -> None:
    case.routes.pop()


def undeclared(case: Case) -> None:
    case.routes[0] = Route("/good", case.ran.endpoint("good"))


def another_resource(case: Case) -> None:
    case.routes[0] = Route("/good", read("other")(case.ran.endpoint("good")))


def another_method(case: Case) -> None:
    case.routes[0] = Route("/good", read("good")(case.ran.endpoint("good")), methods=["POST"])


def hashed(case: Case) -> None:
    case.routes[0] = Route("/good", read("good", args_hash="body")(case.ran.endpoint("good")))


def shadowed(case: Case) -> None:
    case.routes.insert(0, Route("/good", read("other")(case.ran.endpoint("good"))))


@pytest.mark.parametrize(
    ("change", "expected", "actual"),
    [
        (added, (), ("GET|HEAD /new: db.read on sql_query:other",)),
        (removed, ("GET|HEAD /by-name/{name}: db.read on sql_query:{name}",), ()),
        (undeclared, ("GET|HEAD /good: db.read on sql_query:good",), ("GET|HEAD /good: undeclared",)),
        (
            another_resource,
            ("GET|HEAD /good: db.read on sql_query:good",),
            ("GET|HEAD /good: db.read on sql_query:other",),
        ),
        (another_method, ("GET|HEAD /good: db.read on sql_query:good",), ("POST /good: db.read on sql_query:good",)),
        (
            hashed,
            ("GET|HEAD /good: db.read on sql_query:good",),
            ("GET|HEAD /good: db.read on sql_query:good with the hash of its body",),
        ),
        (shadowed, (), ("GET|HEAD /good: db.read on sql_query:other",)),
    ],
)
async def test_other_routes_are_refused_and_named(
    local: Case, change: Callable[[Case], None], expected: tuple[str, ...], actual: tuple[str, ...]
) -> None:  # C10
    change(local)
    error = await local.refusal()
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected, error.actual) == ("routes", expected, actual)


async def test_a_route_that_is_opened_by_settings_is_refused(local: Case) -> None:
    local.routes.append(Route("/more", local.ran.endpoint("more")))
    local.write(contract_of(local.app(Settings()), local.settings()))
    await local.starts()
    local.ran.names.clear()
    error = await local.refusal(local.settings(public=("/health", "/more")))
    assert isinstance(error, ContractDrift)
    assert (error.field, error.expected, error.actual) == (
        "routes",
        ("GET|HEAD /more: undeclared",),
        ("GET|HEAD /more: public",),
    )


async def test_the_order_of_routes_that_shadow_each_other_counts(local: Case) -> None:
    shadowed(local)
    local.write(contract_of(local.app(Settings()), local.settings()))
    local.routes[0], local.routes[1] = local.routes[1], local.routes[0]
    error = await local.refusal()
    assert isinstance(error, ContractDrift)
    assert error.field == "routes"
    assert sorted(error.expected) == sorted(error.actual)  # type: ignore[call-overload]
    assert error.expected != error.actual


async def test_metadata_of_actions_that_were_edited_are_refused(local: Case) -> None:
    raw = json.loads(local.path.read_bytes())
    raw["actions"][0]["operations"] = ["read"]
    local.path.write_text(json.dumps(raw))
    error = await local.refusal()
    assert isinstance(error, ContractDrift)
    assert error.field == "actions"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_digest_is_compared_before_the_pool_is_filled(kind: str, tmp_path: Path) -> None:
    case = Case(tmp_path, kind)
    checker = make_checker(kind, OTHER_POLICY)
    error = await case.refusal(case.settings().without_checker(), checker=checker)
    assert isinstance(error, ContractDrift)
    assert (error.expected, error.actual) == (case.contract.artifact_sha256, checker.policy.sha256)
    if isinstance(checker, WasmPolicyChecker):
        assert checker.pool.statistics().made == 0
    await checker.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_checker_that_was_passed_in_is_held_to_the_contract(kind: str, tmp_path: Path) -> None:
    case = Case(tmp_path, kind)
    checker = make_checker(kind)
    contract = contract_of(case.app(Settings()), case.settings(), checker=checker)
    case.write(contract)
    settings = case.settings().without_checker()
    async with checker:
        await case.starts(settings, checker=checker)
        case.ran.names.clear()
        error = await case.refusal(settings, checker=Answering(None))
    assert isinstance(error, ContractDrift)
    assert (error.field, error.actual) == ("artifactSha256" if kind == "local" else "wasmPolicyHash", ZEROS)
    assert isinstance(checker, (LocalPolicyChecker, WasmPolicyChecker))


async def test_a_resolver_cannot_be_held_to_a_contract(local: Case) -> None:
    requirement = Requirement.parse("db.read", resource="sql_query:good")
    error = await local.refusal(resolver=lambda scope: requirement)
    assert isinstance(error, ConfigError)
    assert error.setting == "resolver"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format": 1}'], ids=repr)
async def test_a_file_that_is_no_contract(local: Case, content: bytes) -> None:  # A2
    local.path.write_bytes(content)
    error = await local.refusal()
    assert isinstance(error, ManifestError)
    assert error.path == str(local.path)
    assert isinstance(error.__cause__, ConfigError)


async def test_a_file_that_cannot_be_read(local: Case) -> None:  # A14, A18
    local.path.unlink()
    assert isinstance(await local.refusal(), ArtifactNotFound)
    os.mkfifo(local.path)
    assert isinstance(await local.refusal(), ArtifactNotFound)
    local.path.unlink()
    local.path.mkdir()
    assert isinstance(await local.refusal(), ArtifactNotFound)
    local.path.rmdir()
    local.path.write_bytes(local.contract.to_json() + b" " * 4_096)
    error = await local.refusal(local.settings(limits=Limits(module_bytes=4_096)))
    assert isinstance(error, ArtifactError)
    assert not isinstance(error, ManifestError)


def test_reading_a_contract(local: Case) -> None:
    assert read_contract(local.path) == local.contract
    assert read_contract(str(local.path)) == local.contract
