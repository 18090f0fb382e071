"""Reading fixtures: what is read, under which names, and where an error is said to be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from capgate.errors import ArtifactError, ArtifactNotFound, FixtureError
from capgate.limits import Limits
from capgate.model import ALLOW, Deny, Environment, PolicyInput, Resource, User, canonical
from capgate.testing.golden import read_fixtures

from ...support.tools import ROOT

INPUT: dict[str, Any] = {"action": "db.read", "resource": {"kind": "sql_query", "id": "q"}}
FIXTURE: dict[str, Any] = {"input": INPUT, "expected": {"kind": "allow"}}


def put(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8", newline="")
    return path


def test_every_field(tmp_path: Path) -> None:
    written = {
        "description": "x",
        "input": {
            **INPUT,
            "actor": {"kind": "user", "id": "alice"},
            "args_hash": "00",
            "env": {"service": "s", "mode": "m"},
            "timestamp": 2**64 - 1,
        },
        "policy": {"sql": "any"},
        "register": ["invoice.send"],
        "expected": {"kind": "deny", "reason": "policy_trap"},
    }
    (fixture,) = read_fixtures(put(tmp_path / "one.json", written))
    assert fixture.input == PolicyInput(
        "db.read", User("alice"), Resource("sql_query", "q"), "00", Environment("s", "m"), 2**64 - 1
    )
    assert (fixture.expected, fixture.answer) == (Deny("policy_trap"), b'{"kind":"deny","reason":"policy_trap"}')
    assert (fixture.description, fixture.policy, fixture.register) == ("x", {"sql": "any"}, ("invoice.send",))
    assert (fixture.name, fixture.path, fixture.line) == ("one", str(tmp_path / "one.json"), 1)


def test_defaults(tmp_path: Path) -> None:
    (fixture,) = read_fixtures(put(tmp_path / "one.json", FIXTURE))
    assert fixture.input == PolicyInput("db.read", resource=Resource("sql_query", "q"))
    assert (fixture.expected, fixture.policy, fixture.register) == (ALLOW, None, ())


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.json", "\n\n  {}\n", [3]),
        ("a.json", "[{},{},\n{}\n,\n\n{}]\n", [1, 1, 2, 5]),
        ("a.json", "[\n\t{}\r\n,{}]", [2, 3]),
        ("a.json", "[]", []),
        ("a.json", " [ \n ] ", []),
        ("a.jsonl", "{}\n\n \t\r\n{}\r\n{}", [1, 4, 5]),
        ("a.ndjson", "{}\n", [1]),
        ("a.jsonl", "", []),
        ("a.jsonl", "\n", []),
    ],
)
def test_the_shapes_of_files(name: str, text: str, lines: list[int], tmp_path: Path) -> None:
    found = read_fixtures(put(tmp_path / name, text.replace("{}", json.dumps(FIXTURE))))
    assert [fixture.line for fixture in found] == lines
    single = name == "a.json" and text.strip() == "{}"
    assert [fixture.name for fixture in found] == (["a"] if single else [f"a[{n}]" for n in range(len(lines))])


def test_folders(tmp_path: Path) -> None:
    files = ["b.json", "a.jsonl", "sub/c.json", "sub/deeper/a.json", "sub/b.json"]
    for name in [*files, ".hidden.json", ".git/x.json", "README.md", "policy.toml", "x.json~"]:
        put(tmp_path / "f" / name, FIXTURE)
    (tmp_path / "f" / "loop").symlink_to(tmp_path / "f")
    (tmp_path / "f" / "z.json").symlink_to("b.json")
    found = read_fixtures(tmp_path / "f")
    assert [fixture.name for fixture in found] == ["a[0]", "b", "sub/b", "sub/c", "sub/deeper/a"]
    assert [fixture.path for fixture in found] == [
        str(tmp_path / "f" / name) for name in ("a.jsonl", "b.json", "sub/b.json", "sub/c.json", "sub/deeper/a.json")
    ]
    # Any name is fine where it is given, and nothing is read twice.
    assert len(read_fixtures(tmp_path / "f" / ".hidden.json", tmp_path / "f" / "README.md")) == 2
    assert len(read_fixtures(tmp_path / "f", tmp_path / "f" / "b.json", tmp_path / "f")) == 5


def test_names_tell_fixtures_apart(tmp_path: Path) -> None:
    for name in ("x/same.json", "y/same.json", "y/other.json", "y/same.jsonl"):
        put(tmp_path / name, FIXTURE)
    names = [fixture.name for fixture in read_fixtures(tmp_path / "x", tmp_path / "y")]
    assert len(set(names)) == 4
    assert "other" in names


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.json"
    Path(os.fsdecode(path)).write_text(json.dumps(FIXTURE))
    (fixture,) = read_fixtures(tmp_path)
    assert fixture.name.encode() == b"\\xff"


def test_the_project_s_own() -> None:
    found = read_fixtures(ROOT / "fixtures" / "policy")
    assert len(found) >= 200
    assert all(fixture.policy is not None and fixture.description for fixture in found)


def test_nothing_is_an_answer_too(tmp_path: Path) -> None:
    assert read_fixtures() == read_fixtures(tmp_path) == ()


GOOD = json.dumps(FIXTURE)
EXPECTED = '"expected": {"kind": "allow"}'
BAD: list[tuple[str, str, int | None, int | None, str]] = [
    # name, text, line, column, where
    ("a.json", "", 1, 1, ""),
    ("a.json", "{", 1, 2, ""),
    ("a.json", "\ufeff" + GOOD, 1, 1, ""),
    ("a.json", f"{GOOD}\n{GOOD}", 2, 1, ""),
    ("a.json", f"[{GOOD}", 1, len(GOOD) + 2, ""),
    ("a.json", f"[\n{GOOD},\n]", 3, 1, ""),
    ("a.json", f"[{GOOD}\n{GOOD}]", 2, 1, ""),
    ("a.json", f"[{GOOD}] x", 1, len(GOOD) + 4, ""),
    ("a.json", "[,]", 1, 2, ""),
    ("a.json", f"// a comment\n{GOOD}", 1, 1, ""),
    ("a.jsonl", f"{GOOD}\n{{\n{GOOD}", 2, 2, ""),
    ("a.jsonl", f"{GOOD}\n{GOOD} {GOOD}", 2, len(GOOD) + 2, ""),
    ("a.jsonl", f"[{GOOD}]", 1, None, ""),
    ("a.json", '{"input": {"action": "a", "action": "b"}}', 1, 1, ""),
    ("a.json", f'[{GOOD},\n{{"input": {{}}, "input": {{}}}}]', 2, 1, ""),
    ("a.json", '{"input": NaN}', 1, 1, ""),
    ("a.json", '{"input": -Infinity}', 1, 1, ""),
    ("a.json", "1" * 5_000, 1, None, ""),
    ("a.json", "[" * 100_000, 1, 2, ""),
    ("a.json", '{"input": ' * 100_000, 1, 1, ""),
    ("a.json", '"text"', 1, None, ""),
    ("a.json", "null", 1, None, ""),
    ("a.json", "[null]", 1, None, ""),
    ("a.json", "{}", 1, None, ""),
    ("a.json", f"{{{EXPECTED}}}", 1, None, ""),
    ("a.json", json.dumps({"input": INPUT}), 1, None, ""),
    ("a.json", f'[{GOOD},\n\n{{"input": {{}}, {EXPECTED}}}]', 3, None, "input"),
    ("a.json", f'{{"input": {{"action": 1}}, {EXPECTED}}}', 1, None, "input.action"),
    ("a.json", f'{{"input": {{"action": "a", "timestamp": 1.0}}, {EXPECTED}}}', 1, None, "input.timestamp"),
    ("a.json", f'{{"input": {{"action": "a", "timestamp": "1"}}, {EXPECTED}}}', 1, None, "input.timestamp"),
    ("a.json", f'{{"input": {{"action": "a", "timestamp": true}}, {EXPECTED}}}', 1, None, "input.timestamp"),
    ("a.json", f'{{"input": {{"action": "a", "actor": {{"kind": "x"}}}}, {EXPECTED}}}', 1, None, "input.actor.kind"),
    ("a.json", f'{{"input": {{"action": "a", "actor": {{"kind": "user"}}}}, {EXPECTED}}}', 1, None, "input.actor"),
    ("a.json", f'{{"input": {{"action": "a", "actor": "alice"}}, {EXPECTED}}}', 1, None, "input.actor"),
    ("a.json", f'{{"input": {{"action": "a", "resorce": null}}, {EXPECTED}}}', 1, None, "input"),
    ("a.json", f'{{"input": {{"action": "a", "resource": "k:i"}}, {EXPECTED}}}', 1, None, "input.resource"),
    ("a.json", f'{{"input": {{"action": "a", "env": {{"mode": 1}}}}, {EXPECTED}}}', 1, None, "input.env.mode"),
    ("a.json", f'{{"input": {{"action": "a", "args": {{"b": 1e400}}}}, {EXPECTED}}}', 1, None, "input.args.b"),
    ("a.json", f'{{"input": {{"action": "a", "args": {{"b": null}}}}, {EXPECTED}}}', 1, None, "input.args[...]"),
    (
        "a.json",
        f'{{"input": {{"action": "a", "context": {{"b": [1]}}}}, {EXPECTED}}}',
        1,
        None,
        "input.context[...][0]",
    ),
    ("a.json", f'{{"input": {{"action": "a", "args": {{"b": 1, "b": 2}}}}, {EXPECTED}}}', 1, 1, ""),
    ("a.json", json.dumps({**FIXTURE, "expect": {}}), 1, None, ""),
    ("a.json", json.dumps({**FIXTURE, "name": "x"}), 1, None, ""),
    ("a.json", json.dumps({**FIXTURE, "\ud800": "x"}), 1, None, ""),
    ("a.json", json.dumps({**FIXTURE, "expected": {"kind": "\ud800"}}), 1, None, ""),
    ("a.json", json.dumps({**FIXTURE, "register": ["\ud800"]}), 1, None, "register[0]"),
    ("a.json", json.dumps({**FIXTURE, "path": "/etc/passwd"}), 1, None, ""),
    ("a.json", json.dumps({**FIXTURE, "expected": "allow"}), 1, None, "expected"),
    ("a.json", json.dumps({**FIXTURE, "expected": {"kind": "deny"}}), 1, None, "expected"),
    ("a.json", json.dumps({**FIXTURE, "expected": {"kind": "allow", "reason": "x"}}), 1, None, "expected"),
    ("a.json", json.dumps({**FIXTURE, "expected": {"kind": "maybe"}}), 1, None, "expected.kind"),
    ("a.json", json.dumps({**FIXTURE, "expected": {"kind": "deny", "reason": "\ud800"}}), 1, None, "expected.reason"),
    ("a.json", json.dumps({**FIXTURE, "policy": "policy.json"}), 1, None, "policy"),
    ("a.json", json.dumps({**FIXTURE, "register": "invoice.send"}), 1, None, "register"),
    ("a.json", json.dumps({**FIXTURE, "register": ["invoice.send", 1]}), 1, None, "register[1]"),
    ("a.json", json.dumps({**FIXTURE, "register": ["invoice.send", "Invoice.send"]}), 1, None, "register[1]"),
    ("a.json", json.dumps({**FIXTURE, "register": ["db.read"]}), 1, None, "register[0]"),
]


@pytest.mark.parametrize(("name", "text", "line", "column", "where"), BAD, ids=range(len(BAD)))
def test_errors_have_a_place(
    name: str, text: str, line: int | None, column: int | None, where: str, tmp_path: Path
) -> None:
    path = put(tmp_path / name, text)
    with pytest.raises(FixtureError) as caught:
        read_fixtures(path)
    error = caught.value
    assert (error.path, error.line, error.where) == (str(path), line, where)
    if column is not None:
        assert error.column == column
    assert error.reason
    assert len(str(error)) < 1_000


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(GOOD.encode() + b"\xff")
    with pytest.raises(FixtureError) as caught:
        read_fixtures(path)
    assert (caught.value.path, caught.value.line) == (str(path), None)


# A14, A18
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    for path in ("fifo.json", "absent.json", "absent/"):
        with pytest.raises(ArtifactNotFound):
            read_fixtures(tmp_path / path)
    with pytest.raises(ArtifactNotFound):
        read_fixtures(tmp_path)
    with pytest.raises(ArtifactNotFound):
        read_fixtures("/dev/zero")
    big = put(tmp_path / "big.json", GOOD + " " * 2_000)
    assert len(read_fixtures(big)) == 1
    with pytest.raises(ArtifactError):
        read_fixtures(big, limits=Limits(module_bytes=1_024))


texts = st.text(max_size=8) | st.sampled_from(["\0", "\ud800", "\u2028", '"', "\\", "\x7f"])


inputs = st.builds(
    PolicyInput,
    texts,
    st.builds(User, texts),
    st.none() | st.builds(Resource, texts, st.none() | texts, st.dictionaries(texts, texts, max_size=2)),
    st.none() | texts,
    st.builds(Environment, texts, texts),
    st.integers(-(2**70), 2**70),
)
reasons = texts.filter(lambda text: text != "\ud800")


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(inputs, reasons), min_size=1, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_what_is_written_is_what_is_read(tmp_path: Path, cases: list[tuple[PolicyInput, str]], indent: Any) -> None:
    written = [{"input": to_builtins(input), "expected": {"kind": "deny", "reason": reason}} for input, reason in cases]
    path = put(tmp_path / "a.json", json.dumps(written, indent=indent))
    found = read_fixtures(path)
    assert [(one.input, one.answer) for one in found] == [(input, canonical(Deny(reason))) for input, reason in cases]
    lines = path.read_text().split("\n")
    assert all("{" in lines[one.line - 1] for one in found)
