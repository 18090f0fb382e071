"""The reference is held to what it says: its tables are complete, its commands and documents work."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert

from capgate import Anonymous, Environment, PolicyInput, Resource, RuntimePolicy, User
from capgate.actions import BUILTIN_ACTIONS, SECTIONS
from capgate.cli.policy.diff import change_text
from capgate.events import DecisionEvent
from capgate.limits import RANGES, Limits
from capgate.model import REASONS
from capgate.policy.analysis.difference import difference
from capgate.runtime.abi.lowering import lower, record
from capgate.settings.settings import VARIABLES, Settings
from capgate.store import PolicyStore
from capgate.testing.golden import Fixture, run_fixtures

from ..support.command import environment
from ..support.tools import ROOT
from .pages import Text, names
from .site import DOCS

pytestmark = pytest.mark.slow


def page(name: str) -> Text:
    return Text(DOCS / "reference" / f"{name}.md")


def test_the_declarations_compile_and_apply() -> None:
    from capgate import requires
    from capgate.routes.declare import declared

    lines = [line for line in page("declarations").blocks("python")[0].splitlines() if line]
    for line in lines:
        decorator: Callable[[Any], Any] = eval(line.removeprefix("@"), {"requires": requires})
        assert len(declared(decorator(lambda: None))) == 1
    assert len(lines) == 3


def test_the_policy_document_is_one() -> None:
    policy = RuntimePolicy.from_document(page("document").blocks("json")[0])
    assert (policy.name, policy.version) == ("orders", "3")
    (text,) = page("document").blocks("toml")
    closed = RuntimePolicy.from_document(text, format="toml")
    changes = difference(RuntimePolicy.from_document(text.split("[[rules]]")[0], format="toml"), closed).changes
    assert page("document").blocks("diff")[0].strip() in {f"- {change_text(change)}" for change in changes}


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
    for offsets, text in page("abi").under("Layout").rows():
        at, what = [int(number) for number in offsets.split(",")], text.split(":")[0]
        if len(at) == 2:
            seen[what] = tuple(int.from_bytes(written[start : start + 4], "little") for start in at)
        elif what == "timestamp":
            assert int.from_bytes(written[at[0] : at[0] + 8], "little") == question.timestamp
        else:
            assert int.from_bytes(written[at[0] : at[0] + 4], "little") == 1
    assert seen == expected
    absent = record(lower(PolicyInput("db.read", Anonymous()), 65_536), (0,) * 7)
    flags = [int(row[0]) for row in page("abi").under("Layout").rows() if "0 a" in row[1]]
    assert flags == [0, 20, 32, 44]
    assert [absent[at] for at in flags] == [0, 0, 0, 0]


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
    (text,) = page("fixtures").blocks("json")
    document = page("document").blocks("json")[0]
    outcomes = run_fixtures(json.loads(document), [convert(one, Fixture) for one in json.loads(text)])
    assert [outcome.kind for outcome in outcomes] == ["passed", "passed"]
