"""The reference is held to what it says: its tables are complete, its commands and documents work."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from fastapi import FastAPI
from msgspec import convert
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount

from capgate import Anonymous, Environment, PolicyInput, Resource, RuntimePolicy, User, requires
from capgate.actions import BUILTIN_ACTIONS, SECTIONS
from capgate.capabilities import capabilities_for
from capgate.capabilities.cache import gate_redis
from capgate.capabilities.http import gated_async_client
from capgate.capabilities.mcp import GatedMCP
from capgate.capabilities.sql import gate_engine
from capgate.cli.policy.diff import change_text
from capgate.events import DecisionEvent
from capgate.limits import RANGES, Limits
from capgate.model import REASONS
from capgate.policy.analysis.difference import difference
from capgate.routes.declare import declared
from capgate.runtime.abi.lowering import lower, record
from capgate.settings.settings import VARIABLES, Settings
from capgate.store import PolicyStore
from capgate.testing import RecordedGate
from capgate.testing.golden import Fixture, run_fixtures

from ..support.command import capgate, environment
from ..support.opa_guest import ALLOW as ALLOWED
from ..support.opa_guest import opa_guest
from ..support.packing import pack
from ..support.tools import ROOT
from .newcomer import here
from .pages import Text, names
from .site import DOCS

pytestmark = pytest.mark.slow


def page(name: str) -> Text:
    return Text(DOCS / "reference" / f"{name}.md")


def test_the_declarations_compile_and_apply() -> None:
    stacked, dependency, typed = page("declarations").blocks("python")
    lines = [line for line in stacked.splitlines() if line]
    for line in lines:
        decorator: Callable[[Any], Any] = eval(line.removeprefix("@"), {"requires": requires})
        assert len(declared(decorator(lambda: None))) == 1
    assert len(lines) == 3
    app = FastAPI()
    exec(dependency, {"app": app, "current_user": lambda: "ada"})
    (route,) = [route for route in app.routes if getattr(route, "path", "") == "/users/{name}"]
    assert route.dependencies  # type: ignore[attr-defined]
    scope: dict[str, Any] = {}
    exec(typed, scope)
    assert len(declared(scope["requires"]("db.read", resource="sql_query:x")(lambda: None))) == 1


async def run(code: str, scope: dict[str, Any]) -> None:
    """Run a block that awaits where it stands."""
    pending = eval(compile(code, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
    if pending is not None:
        await pending


async def test_a_handler_asks_as_shown() -> None:
    (asks,) = page("capabilities").under("Inside a handler").blocks("python")
    gate = RecordedGate()
    scope = {"gate": capabilities_for(gate, User("ada"))}
    await run(asks, scope)
    assert gate.questions == [
        *("cache.read namespace:orders", "http.outbound host:api.payments.example"),
        *("db.read sql_query:a", "db.read sql_query:b", "fs.read path:reports/2026.csv"),
    ]


async def test_the_clients_are_gated_as_shown() -> None:
    (gated,) = page("capabilities").under("Gated clients").blocks("python")
    scope: dict[str, Any] = {"redis": redis, "create_async_engine": create_async_engine, "Mount": Mount}
    scope |= {"gated_async_client": gated_async_client, "gate_engine": gate_engine, "gate_redis": gate_redis}
    await run(gated, {**scope, "GatedMCP": GatedMCP, "mcp_app": Starlette()})


@pytest.mark.parametrize("name", ["document.md", "../conditions.md"])
def test_the_policy_documents_are_documents(name: str) -> None:
    text = Text(DOCS / "reference" / name)
    for block in text.blocks("json"):
        raw = json.loads(block)
        RuntimePolicy.from_document(raw if "effect" not in raw else {"rules": [raw]})
    for block in text.blocks("toml"):
        if not block.startswith("[[assert]]"):  # which is about another document, see below
            RuntimePolicy.from_document(block, format="toml")


def test_the_assertion_is_proven_of_the_rules_with_conditions(tmp_path: Path) -> None:
    (asserted,) = page("document").under("Assertions").blocks("toml")
    (rules,) = page("document").under("Conditions").blocks("toml")
    path = tmp_path / "policy.toml"
    for text, code in ((rules, 0), (rules.replace("when", "# when", 1), 1)):  # the second allows it to anybody
        path.write_text(f"{text}\n{asserted}")
        assert capgate("check", str(path)).returncode == code


def test_the_difference_is_as_shown() -> None:
    (text,) = page("document").under("TOML, and checking").blocks("toml")
    closed = RuntimePolicy.from_document(text, format="toml")
    changes = difference(RuntimePolicy.from_document(text.split("[[rules]]")[0], format="toml"), closed).changes
    (shown,) = page("document").blocks("diff")
    assert shown.strip() in {f"- {change_text(change)}" for change in changes}


def test_the_contract_is_compared_as_shown(tmp_path: Path) -> None:
    with here(tmp_path) as newcomer:
        newcomer.follow(DOCS / "how_to/ci.md")
        newcomer.follow(DOCS / "reference/contract.md")
        contract = newcomer.home / "contract.json"
        contract.write_text(contract.read_text().replace("list_orders", "list_all"))
        assert newcomer.run("capgate contract diff old.json contract.json")[0] == 1


def test_a_bundle_is_inspected_and_served_as_shown(tmp_path: Path) -> None:
    """Each command as it stands, but that OPA's compiler is not there: what it makes is."""
    with here(tmp_path) as newcomer:
        compiler = tmp_path / "bin/opa"
        compiler.write_text(f"#!/bin/sh\ncp {tmp_path}/made.tar.gz bundle.tar.gz\n")
        compiler.chmod(0o755)
        manifest = {"roots": [""], "wasm": [{"entrypoint": "orders/decision", "module": "/policy.wasm"}]}
        module = opa_guest({"orders/decision": ALLOWED})
        bundle = pack({"/policy.wasm": module, "/.manifest": json.dumps(manifest).encode(), "/data.json": b"{}"})
        (tmp_path / "made.tar.gz").write_bytes(bundle)
        newcomer.follow(DOCS / "how_to/docker.md")  # an application that takes its settings from the environment
        newcomer.run("unset CAPGATE_ARTIFACT_SHA256; mkdir fixtures")
        fixture = {"input": {"action": "cache.read", "resource": {"kind": "namespace", "id": "a"}}}
        text = json.dumps([{"description": "Anything.", **fixture, "expected": {"kind": "allow"}}])
        (newcomer.home / "fixtures/orders.json").write_text(text)
        assert newcomer.follow(DOCS / "reference/rego.md") == 1


def test_every_section_and_action_is_listed() -> None:
    table = {names(row[0])[0]: row for row in page("document").under("Sections").rows()}
    assert tuple(table) == SECTIONS
    listed = {name: section for section, row in table.items() if section != "actions" for name in names(row[1])}
    assert listed == {action.name: action.section for action in BUILTIN_ACTIONS}
    for action in BUILTIN_ACTIONS:
        assert names(table[action.section][2])[0].partition(":")[0] == action.kind


def test_every_setting_is_listed_with_its_default() -> None:
    table = page("settings").rows()
    variables = {names(row[1])[0]: row for row in table if row[1]}
    assert set(variables) == set(VARIABLES)
    assert {names(row[0])[0] for row in table if row[0]} == set(Settings.__struct_fields__)
    defaults, limits = Settings(), Limits()
    for variable, row in variables.items():
        name = variable.removeprefix("CAPGATE_").lower()
        value = getattr(limits if name in RANGES else defaults, name)
        shown = row[2].strip("`")
        assert shown == ("" if value in (None, ()) else str(value).lower()) or float(shown) == value, variable


def test_every_reason_has_a_cause_and_a_remedy() -> None:
    reasons = page("reasons")
    assert sorted(names(heading)[0] for heading in reasons.headings(3)) == sorted(REASONS)
    for heading in reasons.headings(3):
        paragraphs = [part for part in reasons.under(heading).text.split("\n\n") if part.strip()]
        assert [part.strip().split(" ")[0] for part in paragraphs[:2]] == ["**Cause.**", "**Remedy.**"], heading


def test_every_field_of_an_event_is_listed() -> None:
    listed = [name for row in page("events").rows() for name in names(row[0])]
    assert listed == list(DecisionEvent.__struct_fields__)


def test_the_layout_of_a_question_is_as_the_host_writes_it() -> None:
    question = PolicyInput(
        "db.read", User("u"), Resource("sql_query", "abc"), "f" * 64, Environment("shop!", "staging"), 2**40 + 7
    )
    # Addresses and lengths that tell the strings apart.
    lowered = lower(question, 65_536)
    written = record(lowered, tuple(1_000 + number for number in range(7)))
    named = ("actor id", "action", "resource kind", "resource id", "args-hash", "service", "mode")
    expected = {name: (1_000 + number, len(lowered[0][number])) for number, name in enumerate(named)}
    seen = {}
    for offsets, text in page("abi").under("Layout of 0.1.0").rows():
        at, what = [int(number) for number in offsets.split(",")], text.split(":")[0]
        if len(at) == 2:
            seen[what] = tuple(int.from_bytes(written[start : start + 4], "little") for start in at)
        elif what == "timestamp":
            assert int.from_bytes(written[at[0] : at[0] + 8], "little") == question.timestamp
        else:
            assert int.from_bytes(written[at[0] : at[0] + 4], "little") == 1
    assert seen == expected
    absent = record(lower(PolicyInput("db.read", Anonymous()), 65_536), (0,) * 7)
    flags = [int(row[0]) for row in page("abi").under("Layout of 0.1.0").rows() if "0 a" in row[1]]
    assert flags == [0, 20, 32, 44]
    assert [absent[at] for at in flags] == [0, 0, 0, 0]


#: The blocks of code of each page that nobody follows as a whole, each of which a test here runs, or reads.
BLOCKS = {
    "README.md": ["", "", "console", "json", "python"],
    "docs/architecture.md": [""],
    "docs/conditions.md": ["toml"],
    "docs/reference/capabilities.md": ["python", "python"],
    "docs/reference/contract.md": ["console"],
    "docs/reference/declarations.md": ["python", "python", "python"],
    "docs/reference/document.md": ["diff", "json", "json", "json", "toml", "toml", "toml"],
    "docs/reference/fixtures.md": ["json", "json"],
    "docs/reference/rego.md": ["console"],
    "docs/reference/releases.md": ["console"],
}


def test_no_block_of_code_is_left_to_itself() -> None:
    seen = {}
    for path in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        fenced = re.findall(r"^```([^\n]*)\n.*?^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        languages = sorted(name for name in fenced if not name.startswith(("{toctree}", "{eval-rst}", "{include}")))
        languages = [name for name in languages if not name.startswith("{literalinclude}")]
        if languages and path.parent.name not in ("tutorial", "how_to"):
            seen[str(path.relative_to(ROOT))] = languages
    assert seen == BLOCKS


PAGES = sorted([ROOT / "README.md", *ROOT.glob(".github/*.md"), *DOCS.rglob("*.md")])


#: What pages call the files that a reader makes.
FILES_OF_USERS = ("app.py", "test_app.py")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in set(
        re.findall(r"`((?:capgate|examples|fixtures|docs|tests|\.ci|\.github)/[^` ]*|CHANGELOG\.md)`", text)
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`([\w/]+\.py)`", text):
        somewhere = (ROOT / "capgate").rglob(name) if "/" not in name else [(ROOT / "capgate" / name)]
        assert (ROOT / name).exists() or any(path.exists() for path in somewhere) or name in FILES_OF_USERS, name
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / link).exists(), link


def test_the_way_from_source_to_rollback(tmp_path: Path) -> None:
    """Each line as it stands there, but for the folder of the store, and the yes that a terminal would be asked for."""
    (tmp_path / "policy.json").write_text(page("document").blocks("json")[0])
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "orders.json").write_text(page("fixtures").blocks("json")[0])

    def run(line: str) -> None:
        words, _, output = line.removeprefix("$ ").partition("#")[0].replace("/srv/", "").partition(">")
        given = [*shlex.split(words)[1:], *(["--yes"] if "activate" in words or "rollback" in words else [])]
        command = [sys.executable, "-m", "capgate", *given]
        done = subprocess.run(
            command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        if output:
            (tmp_path / output.strip()).write_text(done.stdout)

    lines = page("releases").blocks("console")[0].splitlines()
    assert [line.split()[2] for line in lines] == ["build", "keygen", "sign", "publish", "activate", "rollback"]
    for line in lines[:-1]:
        run(line)
    assert list(tmp_path.rglob("fixtures.json"))
    for line in lines[2:-1]:  # the next release, which there has to be to go back from
        run(line.replace("--version 7", "--version 8 --replace").replace("orders 7", "orders 8"))
    run(lines[-1])
    assert PolicyStore(tmp_path / "policies").read_active("orders").version == 7


def test_the_golden_fixtures_pass() -> None:
    several, with_facts = page("fixtures").blocks("json")
    document = page("document").blocks("json")[0]
    outcomes = run_fixtures(json.loads(document), [convert(one, Fixture) for one in json.loads(several)])
    assert [outcome.kind for outcome in outcomes] == ["passed", "passed"]
    facts = {"actor": {"tenant": "string"}, "resource": {"tenant": "string", "total": "int"}, "args": {"amount": "int"}}
    when = '"support" in actor.roles && resource.tenant == actor.tenant && args.amount <= resource.total'
    rule = {"effect": "allow", "actions": ["order.refund"], "when": when}
    conditional = {"attributes": facts, "actions": {"order.refund": "by_rule"}, "rules": [rule]}
    (outcome,) = run_fixtures(conditional, [convert(json.loads(with_facts), Fixture)])
    assert outcome.kind == "passed"
