"""Outcomes in words, as JSON and as JUnit's XML: the facts are in them, and nothing that a terminal would obey."""

from __future__ import annotations

import json
import sys
from typing import Any, Final
from xml.etree import ElementTree

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.model import ALLOW, CompilerTool, Deny, Environment, PolicyInput, Resource, Service, User
from capgate.policy import RuntimePolicy
from capgate.testing.golden import DocumentPart, Fixture, Outcome, PolicyUnderTest, coverage_of, run_fixtures
from capgate.testing.golden.report import (
    SHOWN,
    answer,
    as_data,
    describe_part,
    describe_rule,
    details,
    difference,
    junit,
    printable,
    question,
    title,
)

from ...support.engines import EXPECTED_ENGINES
from ...support.guests import artifact, denies, guest

HOSTILE: Final = "\x1b[2J\x9b\0\u202e\u2028<&>\"'\ud800\ufffe\U0010ffff]]>é\n"
DOCUMENT: Final[dict[str, Any]] = {
    "name": "orders",
    "sql": ["audit"],
    "rules": [
        {"effect": "deny", "actions": ["db.write"], "actors": ["user:bob", "service:ci/*"], "modes": ["dev"]},
        {"effect": "allow", "actions": ["fs.*"], "resources": ["path:a/*", "path"]},
    ],
}
RUNTIMES: Final = ("local", *EXPECTED_ENGINES)


def outcomes(*fixtures: Fixture, policy: Any = DOCUMENT) -> list[Outcome]:
    return run_fixtures(policy, fixtures)


def hostile() -> Fixture:
    return Fixture(
        input=PolicyInput(
            HOSTILE,
            User(HOSTILE),
            Resource(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}),
            HOSTILE,
            Environment(HOSTILE, HOSTILE),
            2**64 - 1,
        ),
        expected=Deny(HOSTILE.replace("\ud800", "")),
        description=HOSTILE,
        name=HOSTILE,
        path=HOSTILE,
    )


@pytest.mark.slow
def test_every_character_prints() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert shown.isprintable()
    shown.encode()
    # As escapes that say which character it was.
    assert json.loads(f'"{printable(HOSTILE.replace(chr(34), ""))}"') == HOSTILE.replace('"', "")
    assert printable("schön …") == "schön …"


def test_questions() -> None:
    assert question(PolicyInput("compute.long")) == "compute.long by anonymous in mode prod"
    full = PolicyInput(
        "db.write", User("bob"), Resource("sql_query", "audit"), "ab", Environment("shop", "dev"), timestamp=7
    )
    assert question(full) == "db.write on sql_query:audit by user:bob in mode dev of shop with ab at 7"
    assert question(PolicyInput("a.b", CompilerTool(""), Resource("x"))) == "a.b on x by compiler_tool: in mode prod"
    long = question(PolicyInput("db.read", Service("x" * 10_000), Resource("k", "y" * 10_000)))
    assert len(long) < 3 * SHOWN


def test_rules_and_parts() -> None:
    policy = RuntimePolicy.from_document(DOCUMENT)
    assert [describe_rule(rule) for rule in policy.rules] == [
        "deny db.write for user:bob, service:ci/* in mode dev",
        "allow fs.* on path:a/*, path",
    ]
    assert describe_part(DocumentPart("rules[1]"), policy) == "rules[1]: allow fs.* on path:a/*, path"
    assert describe_part(DocumentPart("sql", HOSTILE), policy).isprintable()
    assert describe_part(DocumentPart("sql"), policy) != describe_part(DocumentPart("sql", "audit"), policy)
    assert describe_part(DocumentPart("sql", "a", "read"), policy) != describe_part(DocumentPart("sql", "a"), policy)


def test_a_diff_says_who_answered_what() -> None:
    subject = PolicyUnderTest(DOCUMENT)
    subject.__dict__["artifact"] = WasmArtifact.from_bytes(guest_that_denies("no"))
    fixture = Fixture(input=PolicyInput("db.read", resource=Resource("sql_query", "audit")), expected=ALLOW)
    (outcome,) = outcomes(fixture, policy=subject)
    assert outcome.kind == "disagreement"
    signs = [(sign, text.split()) for sign, text in difference(outcome)]
    assert signs == [
        ("-", ['{"kind":"allow"}', "expected"]),
        (" ", ['{"kind":"allow"}', "local"]),
        ("+", ['{"kind":"deny","reason":"no"}', *", ".join(EXPECTED_ENGINES).split()]),
    ]


def guest_that_denies(text: str) -> bytes:
    return guest(extra=denies(text))


def test_nothing_that_a_terminal_obeys() -> None:
    for policy in (DOCUMENT, artifact(guest_that_denies(HOSTILE.replace("\ud800", "")))):
        for outcome in outcomes(hostile(), policy=policy):
            document = RuntimePolicy.from_document(DOCUMENT) if policy is DOCUMENT else None
            lines = [title(outcome.fixture), *(text for _, text in details(outcome, document))]
            assert all(line.isprintable() for line in lines)
            assert all(answer(one.result).isprintable() for one in outcome.answers)


def test_the_words_say_what_decided() -> None:
    policy = RuntimePolicy.from_document(DOCUMENT)

    def last(action: str, kind: str | None, id: str | None, **more: Any) -> str:
        resource = None if kind is None else Resource(kind, id)
        fixture = Fixture(input=PolicyInput(action, resource=resource, **more), expected=Deny("x"))
        (outcome,) = run_fixtures(DOCUMENT, [fixture], "local")
        return details(outcome, policy)[-1][1]

    assert "rules[0]" in last("db.write", "sql_query", "x", actor=User("bob"), env=Environment(mode="dev"))
    assert "rules[1]" in last("fs.read", "path", "x")
    assert "section sql" in last("db.read", "sql_query", "audit")
    told = {
        last("no.such", None, None),
        last("db.read", None, None),
        last("db.read", "path", "x"),
        last("db.read", "sql_query", "x"),
        last("db.read", "sql_query", "audit", timestamp=-1),
    }
    assert len(told) == 5


# -- JUnit

ASKED: Final = PolicyInput("db.read", resource=Resource("sql_query", "audit"))


def test_junit_has_every_case_of_every_runtime() -> None:
    found = outcomes(
        Fixture(input=ASKED, expected=ALLOW, name="good", path="f.json", line=3),
        Fixture(input=ASKED, expected=Deny("no"), name="bad"),
        hostile(),
    )
    root = ElementTree.fromstring(junit(PolicyUnderTest(DOCUMENT), RUNTIMES, found, 1.25))
    assert root.tag == "testsuites"
    assert (root.get("tests"), root.get("failures")) == (str(3 * len(RUNTIMES)), str(2 * len(RUNTIMES)))
    assert [suite.get("name") for suite in root] == [f"orders[{name}]" for name in RUNTIMES]
    for suite in root:
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
        good, bad, odd = list(suite)
        assert (good.get("name"), good.get("file"), good.get("line"), list(good)) == ("good", "f.json", "3", [])
        (failure,) = list(bad)
        assert (failure.tag, failure.get("type")) == ("failure", "failed")
        assert '- {"kind":"deny","reason":"no"}' in (failure.text or "")
        assert '+ {"kind":"allow"}' in (failure.text or "")
        assert (odd.get("name") or "").isprintable()
        assert len(list(odd)) == 1


def test_junit_of_runtimes_that_disagree() -> None:
    subject = PolicyUnderTest(DOCUMENT)
    subject.__dict__["artifact"] = artifact(guest_that_denies("no"))
    found = outcomes(Fixture(input=ASKED, expected=ALLOW, name="x"), policy=subject)
    root = ElementTree.fromstring(junit(subject, RUNTIMES, found, 0.0))
    assert [suite.get("failures") for suite in root] == ["0", *["1"] * len(EXPECTED_ENGINES)]
    assert {failure.get("type") for failure in root.iter("failure")} == {"disagreement"}


@pytest.mark.parametrize("policy", [None, PolicyUnderTest(artifact(guest()))])
def test_junit_of_nothing(policy: PolicyUnderTest | None) -> None:
    root = ElementTree.fromstring(junit(policy, ("wasmtime",), [], 0.0))
    assert (root.get("tests"), root.get("failures"), len(root)) == ("0", "0", 1)
    assert root[0].get("name")


# -- JSON


def test_the_data() -> None:
    found = outcomes(Fixture(input=ASKED, expected=ALLOW, name="good"), hostile())
    subject = PolicyUnderTest(DOCUMENT)
    assert subject.document is not None
    covered = coverage_of(subject.document, [ASKED])
    data = json.loads(json.dumps(as_data(subject, RUNTIMES, found, covered)))
    assert data["policy"] == {"name": "orders", "version": "0", "sha256": subject.sha256, "kind": "document"}
    assert (data["total"], data["passed"], data["failed"], data["disagreement"]) == (2, 1, 1, 0)
    assert data["coverage"]["covered"] == 1
    assert data["coverage"]["missing"][0] == {"path": "rules[0]", "entry": None, "operation": None}
    good, odd = data["outcomes"]
    assert good["answers"] == {name: {"kind": "allow"} for name in RUNTIMES}
    assert good["explanation"]["section"] == "sql"
    assert odd["input"]["action"] == HOSTILE
    module = as_data(PolicyUnderTest(artifact(guest())), EXPECTED_ENGINES, [], None)
    assert (module["policy"]["kind"], module["coverage"], module["outcomes"]) == ("module", None, [])
    assert as_data(None, RUNTIMES, [], None)["policy"] is None
