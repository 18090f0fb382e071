"""``capgate doctor``: it finds what is wrong in each broken application, and nothing where nothing is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from capgate import CapabilityMiddleware, Settings, requires
from capgate.cli.contract import contract_here
from capgate.cli.doctor.defect import CODES
from capgate.cli.doctor.examine import examine, examine_named
from capgate.cli.doctor.policies import failed_start
from capgate.errors import EngineUnavailable

from ..docs.pages import Text
from ..support.asgi import Call, http_scope
from ..support.command import Command, capgate
from ..support.tools import ROOT
from . import broken_applications


class Case(NamedTuple):
    """What is to be found in an application: each code with a pattern for its place, and for the line to write.

    ``request`` is what is denied because of it, where that can be tried: method and path.
    """

    name: str
    code: str
    place: str
    write: str | None = None
    request: tuple[str, str] | None = None
    also: tuple[str, ...] = ()


#: Nothing is found besides, but the codes in ``also``.
CASES = [
    Case("cors_inside", "cors_inside", "CORSMiddleware", "CORSMiddleware", ("OPTIONS", "/orders")),
    Case("authentication_inside", "authentication_inside", "AuthenticationMiddleware", None, ("GET", "/orders")),
    Case("method_override_inside", "middleware_inside", "MethodOverride", "after"),
    Case("middleware_inside_of_a_mount", "middleware_inside", "MethodOverride", "after"),
    Case("a_cache_outside", "cache_outside", "ResponseCache"),
    Case("no_gate", "no_gate", "FastAPI", "add_middleware"),
    Case("a_gate_in_a_mount_alone", "no_gate", "FastAPI", "add_middleware"),
    Case("a_middleware_that_cannot_be_made", "broken_middleware", "CapabilityMiddleware"),
    Case("no_policy", "policy_missing", "policy", "policy.toml", ("GET", "/orders")),
    Case("a_missing_policy", "policy_missing", "absent.toml", None, ("GET", "/orders")),
    Case("a_mistyped_section", "policy_rejected", "section.toml:2", "sql", ("GET", "/orders")),
    Case("a_misspelt_action_in_the_policy", "policy_rejected", "action.toml:8", "db.write", ("GET", "/orders")),
    Case("a_resource_that_is_never_asked", "policy_rejected", "host.toml:4", "host:x", ("GET", "/orders")),
    Case("a_component", "policy_rejected", "component.wasm", None, ("GET", "/orders")),
    Case("another_module_than_the_pinned", "policy_unverified", "policy.wasm", "artifact_sha256", ("GET", "/orders")),
    Case("an_unsigned_policy", "policy_unverified", "manifest.json", None, ("GET", "/orders")),
    Case("an_unpinned_module", "policy_unpinned", "policy.wasm", 'artifact_sha256="[0-9a-f]{64}"'),
    Case("an_expired_policy", "policy_expired", "policy.wasm", "expires", ("GET", "/orders")),
    Case("two_policies", "wrong_setting", "checker", "not both", ("GET", "/orders")),
    Case("an_unknown_variable", "wrong_setting", "CAPGATE_POLCY", "CAPGATE_POLICY", ("GET", "/orders")),
    Case("only_monitored", "only_monitored", "enforce", "always"),
    Case("a_contract_that_is_not_there", "policy_missing", "contract.json", None, ("GET", "/orders")),
    Case("users_without_a_name", "user_without_name", "Nameless", "identity", ("GET", "/orders")),
    Case("users_without_a_name_in_unannotated_code", "user_without_name", "Nameless", "identity", ("GET", "/orders")),
    Case(
        "users_that_do_not_say_whether_they_are_logged_in",
        *("user_without_name", "Unsaid", "is_authenticated", ("GET", "/orders")),
    ),
    Case("an_actor_that_is_text", "actor_of_other_type", "actor_as_text", "User", ("GET", "/orders")),
    Case("strict_with_an_undeclared_route", "undeclared", "GET /reports/{name}", "db.read.*reports/{name}"),
    Case("docs_pages", "docs_page_denied", "/openapi.json", "public=", ("GET", "/openapi.json")),
    Case("a_health_check", "health_route_denied", "/internal/healthz", "public=", ("GET", "/internal/healthz")),
    Case("a_websocket", "undeclared_websocket", "/live/{room}", "requires.*live/{room}"),
    Case("a_parameter_that_is_not_in_the_path", "missing_parameter", "/items/", "tool:{item_id}", ("GET", "/items/7")),
    Case("a_parameter_without_a_text", "unknown_parameter", "/items/{item}", "item: str", ("GET", "/items/7")),
    Case("a_route_that_matches_in_its_own_way", "unresolvable", "/own", None, ("GET", "/own")),
    Case("a_misspelt_action", "rejected_at_import", "broken_applications.py:", "db.read"),
    Case("a_misspelt_resource", "rejected_at_import", "broken_applications.py:", "host:shop.example"),
    Case("a_query_that_the_policy_does_not_know", "never_allowed", "GET /x", "list_order", ("GET", "/x")),
    Case("a_public_route_that_declares", "public_declares", "/orders", "public="),
    Case(
        "a_misspelt_public_route",
        "public_not_found",
        "/helthz",
        "/healthz",
        ("GET", "/healthz"),
        ("health_route_denied",),
    ),
    Case("a_public_mount_of_routes", "public_below", "/static", "/static/a", ("GET", "/static/a"), ("undeclared",)),
    Case("a_public_route_with_its_method", "rejected_at_import", "broken_applications.py:", "/healthz"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the applications are made."""
    for name, content in broken_applications.FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAPGATE_POLCY", raising=False)
    return tmp_path


def where(name: str) -> str:
    return f"{broken_applications.__name__}:{name}"


def prepare(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "an_unknown_variable":
        monkeypatch.setenv("CAPGATE_POLCY", "policy.toml")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_finds_what_is_wrong(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(case.name, monkeypatch)
    finding, *others = examine_named(where(case.name), factory=True)
    assert tuple(other.code for other in others) == case.also
    assert (finding.code, bool(re.search(re.escape(case.place), finding.place))) == (case.code, True), finding
    if case.write is not None:
        assert re.search(case.write, finding.write or ""), finding


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("case", [case for case in CASES if case.request], ids=lambda case: case.name)
async def test_what_it_finds_is_denied(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(case.name, monkeypatch)
    assert case.request is not None
    method, path = case.request
    app = getattr(broken_applications, case.name)()
    headers = [(b"origin", b"https://shop.example"), (b"access-control-request-method", b"GET")]
    scope = {**http_scope(path, method), "headers": headers if method == "OPTIONS" else []}
    assert (await Call(scope).to(app)).status == 403


@pytest.mark.parametrize("name", ["healthy", "application", "an_actor_by_a_function", "a_function_outside"])
def test_where_nothing_is_wrong_it_finds_nothing(name: str) -> None:
    assert examine_named(where(name), factory=True) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("path", "status"), [("/orders", 200), ("/healthz", 200), ("/docs", 200), ("/tools/7", 200)])
async def test_the_healthy_application_answers(path: str, status: int) -> None:
    assert (await Call(http_scope(path, "GET")).to(broken_applications.healthy())).status == status


def test_what_denies_everything_comes_first() -> None:
    app = broken_applications.a_missing_policy()
    app.add_api_route("/x", broken_applications.endpoint())
    assert [finding.denies for finding in examine(app)] == ["all", "here"]


@pytest.mark.parametrize("error", [EngineUnavailable("wasmer", "install it"), RuntimeError("no memory")], ids=repr)
def test_a_start_that_fails_for_another_reason(error: Exception) -> None:
    finding = failed_start(error)
    assert (finding.code, finding.place, finding.denies) == ("cannot_start", type(error).__name__, "all")


def test_each_code_is_known_and_is_tried() -> None:
    tried = {case.code for case in CASES}
    assert tried <= set(CODES)
    assert set(CODES) - tried == {"cannot_start", "contract_drift", "no_router"}  # which have tests of their own
    assert len(CASES) >= 20


def test_an_application_that_cannot_be_seen_into() -> None:
    async def hidden(scope: Any, receive: Any, send: Any) -> None: ...

    (finding,) = examine(CapabilityMiddleware(hidden, settings=Settings(policy="policy.toml")))
    assert (finding.code, finding.denies) == ("no_router", "all")
    resolved = CapabilityMiddleware(hidden, settings=Settings(policy="policy.toml"), resolver=lambda scope: None)
    assert examine(resolved) == []


def test_an_application_that_is_not_the_one_of_its_contract(tmp_path: Path) -> None:
    exported, _ = contract_here(broken_applications.application())
    (tmp_path / "contract.json").write_bytes(exported.to_json())
    app = broken_applications.application(contract="contract.json")
    assert examine(app) == []
    app = broken_applications.application(contract="contract.json")
    app.add_api_route("/more", requires("tool.inspect", resource="tool:x")(broken_applications.endpoint()))
    (finding,) = examine(app)
    assert (finding.code, finding.place, finding.denies) == ("contract_drift", "routes", "all")


# -- the command


def test_exit_codes_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys)
    told = command.json("doctor", "--factory", where("healthy"))
    assert told == {"application": where("healthy"), "findings": []}
    told = command.json("doctor", "--factory", where("cors_inside"), code=1)
    (finding,) = told["findings"]
    assert set(finding) == {"code", "place", "problem", "write", "denies"}
    assert finding["code"] == "cors_inside"
    assert command("doctor", "--factory", where("cors_inside")) == 1
    assert "cors_inside" in command.output
    for application in ("absent:app", where("absent"), "nothing"):
        assert command("doctor", application) == 2
        assert command.output == ""


@pytest.mark.slow
def test_a_new_application_has_nothing_wrong(tmp_path: Path) -> None:
    assert capgate("new", "app", str(tmp_path / "orders")).returncode == 0
    done = capgate("doctor", "app:app", PYTHONPATH=f"{ROOT}:{tmp_path / 'orders'}")
    assert done.returncode == 0, done.stdout


def test_the_page_has_each_code() -> None:
    rows = Text(ROOT / "docs/how_to/doctor.md").rows()
    assert {code.strip("`"): text for code, text in rows} == CODES
