"""The README is held to what it says: its first program runs, its tables are complete, its commands are there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from msgspec import convert
from starlette.types import ASGIApp

from capgate import RuntimePolicy
from capgate.actions import BUILTIN_ACTIONS, SECTIONS
from capgate.cli.policy.diff import change_text
from capgate.limits import RANGES, Limits
from capgate.model import REASONS
from capgate.policy.analysis.difference import difference
from capgate.settings.settings import VARIABLES, Settings
from capgate.store import PolicyStore
from capgate.testing.golden import Fixture, run_fixtures

from ..support.command import environment
from ..support.tools import ROOT

pytestmark = pytest.mark.slow

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, under: str = "") -> list[str]:
    """The fenced blocks of that language, of the whole README or under one heading."""
    text = README if not under else README.split(f"\n## {under}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def rows(under: str) -> list[list[str]]:
    """The cells of the table under a heading, without its first two lines."""
    text = README.split(f"\n## {under}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_the_commands_make_their_own_environment(heading: str) -> None:
    lines = blocks("", heading)[0].splitlines()
    assert lines[0] == "python3 -m venv .venv"
    assert all(shlex.split(line)[0].startswith(".venv/bin/") for line in lines[1:])


async def test_the_first_program_answers_as_shown() -> None:
    scope: dict[str, Any] = {"__name__": "readme"}
    exec(compile(blocks("python")[0], "README.md", "exec"), scope)
    app: ASGIApp = scope["app"]
    transcript = blocks("console")[0].splitlines()
    commands = [line.removeprefix("$ curl ").split() for line in transcript if line.startswith("$ curl ")]
    answers = [line for line in transcript if not line.startswith("$")]
    assert len(commands) == len(answers) == 2
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
        for arguments, shown in zip(commands, answers, strict=True):
            method = arguments[1] if arguments[0] == "-X" else "GET"
            response = await client.request(method, "/" + arguments[-1].partition("/")[2])
            answer, expected = response.json(), json.loads(shown)
            if isinstance(expected, dict):
                assert re.fullmatch("[0-9a-f]{32}", answer.pop("decision_id"))
                assert re.fullmatch("[0-9a-f]{32}", expected.pop("decision_id"))
                assert response.status_code == 403
            assert answer == expected


def test_the_declarations_compile_and_apply() -> None:
    from capgate import requires
    from capgate.routes.declare import declared

    lines = [line for line in blocks("python", "Declarations")[0].splitlines() if line]
    for line in lines:
        decorator: Callable[[Any], Any] = eval(line.removeprefix("@"), {"requires": requires})
        assert len(declared(decorator(lambda: None))) == 1
    assert len(lines) == 3


def test_the_policy_document_is_one() -> None:
    policy = RuntimePolicy.from_document(blocks("json", "A policy document")[0])
    assert (policy.name, policy.version) == ("orders", "3")
    (text,) = blocks("toml", "A policy document")
    closed = RuntimePolicy.from_document(text, format="toml")
    changes = difference(RuntimePolicy.from_document(text.split("[[rules]]")[0], format="toml"), closed).changes
    assert blocks("diff", "A policy document")[0].strip() in {f"- {change_text(change)}" for change in changes}


def test_every_section_and_action_is_listed() -> None:
    table = {names(row[0])[0]: row for row in rows("A policy document")}
    assert tuple(table) == SECTIONS
    listed = {name: section for section, row in table.items() if section != "actions" for name in names(row[1])}
    assert listed == {action.name: action.section for action in BUILTIN_ACTIONS}
    for action in BUILTIN_ACTIONS:
        assert names(table[action.section][2])[0].partition(":")[0] == action.kind


def test_every_setting_is_listed_with_its_default() -> None:
    table = rows("Settings")
    variables = {names(row[1])[0]: row for row in table if row[1]}
    assert set(variables) == set(VARIABLES)
    assert {names(row[0])[0] for row in table if row[0]} == set(Settings.__struct_fields__)
    defaults, limits = Settings(), Limits()
    for variable, row in variables.items():
        name = variable.removeprefix("CAPGATE_").lower()
        value = getattr(limits if name in RANGES else defaults, name)
        shown = row[2].strip("`")
        assert shown == ("" if value in (None, ()) else str(value).lower()) or float(shown) == value, variable


def test_every_reason_is_listed() -> None:
    listed = [names(row[0])[0] for row in rows("Why it was denied")]
    assert sorted(listed) == sorted(REASONS)


def test_every_file_that_is_named_exists() -> None:
    for name in set(re.findall(r"`((?:capgate|examples|fixtures|docs|\.ci|\.github)/[^` ]*|CHANGELOG\.md)`", README)):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`([\w/]+\.py)`", README):
        assert (ROOT / name).exists() or (ROOT / "capgate" / name).exists() or name == "__init__.py", name


def test_the_way_from_source_to_rollback(tmp_path: Path) -> None:
    """Each line as it stands there, but for the folder of the store, and the yes that a terminal would be asked for."""
    (tmp_path / "policy.json").write_text(blocks("json", "A policy document")[0])
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "orders.json").write_text(blocks("json", "Golden fixtures")[0])

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

    lines = blocks("console", "From source to rollback")[0].splitlines()
    assert [line.split()[2] for line in lines] == ["build", "keygen", "sign", "publish", "activate", "rollback"]
    for line in lines[:-1]:
        run(line)
    assert list(tmp_path.rglob("fixtures.json"))
    for line in lines[2:-1]:  # the next release, which there has to be to go back from
        run(line.replace("--version 7", "--version 8 --replace").replace("orders 7", "orders 8"))
    run(lines[-1])
    assert PolicyStore(tmp_path / "policies").read_active("orders").version == 7


def test_the_golden_fixtures_pass() -> None:
    (text,) = blocks("json", "Golden fixtures")
    document = blocks("json", "A policy document")[0]
    outcomes = run_fixtures(json.loads(document), [convert(one, Fixture) for one in json.loads(text)])
    assert [outcome.kind for outcome in outcomes] == ["passed", "passed"]
