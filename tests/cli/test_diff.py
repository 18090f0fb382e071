"""``capgate diff``: exact for documents, by recorded questions for modules, and its exit codes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import LocalPolicyChecker, PolicyInput, Resource, RuntimePolicy, User, build_policy
from capgate.events import LOGGER, DecisionLog
from capgate.model import Decision, Deny, Environment

from ..support.command import capgate
from ..support.guests import denies, guest
from ..support.tools import ROOT
from .test_commands import call
from .test_explain import DOCUMENT, TOML, Folder, event_of

__all__ = ["folder"]

NEW = {**DOCUMENT, "sql": ["other"]}
FIXTURES = ROOT / "fixtures" / "policy"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def compared(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = call("diff", *arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


def test_two_documents_are_compared_exactly(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    new = folder.write("new.json", json.dumps(NEW))
    code, told = compared(folder.toml, new, capsys=capsys)
    assert (code, told["exact"], told["allowed"], told["denied"], told["reason"]) == (1, True, 1, 1, 0)
    assert (told["old"]["path"], told["new"]["path"]) == (folder.toml, new)
    allowed, denied = told["changes"]
    assert allowed["resources"] == {
        "include": [{"match": "exact", "kind": "sql_query", "text": "other"}],
        "exclude": [],
    }
    assert denied["after"] == {"kind": "deny", "reason": "not_in_allowlist"}
    modes = [{"match": "exact", "text": mode} for mode in ("frozen", "dr")]
    assert denied["modes"]["include"] == [{"match": "any"}]
    assert sorted(denied["modes"]["exclude"], key=str) == sorted(modes, key=str)


def test_no_difference_is_exit_code_0(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = compared(folder.toml, folder.json, capsys=capsys)
    assert (code, told["changes"]) == (0, [])
    assert call("diff", folder.toml, folder.json) == 0
    assert "no question" in capsys.readouterr().out


@pytest.mark.slow
def test_people_get_a_line_for_each_change(folder: Folder) -> None:
    done = capgate("diff", folder.toml, folder.write("new.toml", TOML.replace('"audit"', '"other"')))
    assert (done.returncode, done.stderr) == (1, "")
    signs = [line[0] for line in done.stdout.splitlines()]
    assert signs[:2] == ["+", "-"]
    assert "sql_query:other" in done.stdout.splitlines()[0]
    assert "in any mode but not" in done.stdout.splitlines()[1]
    assert "\x1b" not in done.stdout


WORDS: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {"egress": "any"}, ["+ http.outbound on anything (was not_in_allowlist)"]),
    (
        {"cache": ["a", "b c", "x,y"]},
        {},
        ['- cache.read, cache.write on namespace:a, namespace:"b c", namespace:"x,y" (is not_in_allowlist)'],
    ),
    (
        {"egress": ["*.a.example", "10.0.0.0/8"]},
        {},
        ["- http.outbound on host:*.a.example, host:10.0.0.0/8 (is not_in_allowlist)"],
    ),
    (
        {"sql": "any"},
        {"sql": "any", "rules": [{"effect": "deny", "actions": ["db.read"], "actors": ["user:a/*", "anonymous"]}]},
        ["- db.read on anything, by anonymous, user:a/* (is not_in_allowlist)"],
    ),
    (
        {"rules": [{"effect": "deny", "actions": ["db.read"], "modes": ["dev"]}]},
        {"rules": [{"effect": "deny", "actions": ["db.read"], "modes": ["dev"], "reason": "closed"}]},
        ["~ db.read on anything, in mode dev (was not_in_allowlist, is closed)"],
    ),
    (
        {"actions": {"a.b": ["1"]}},
        {"actions": {"a.b": "any"}},
        [
            '+ a.b on anything but not a resource without an id, no resource, "1" of any kind (was not_in_allowlist)',
            "+ a.b on a resource without an id, no resource (was missing_resource)",
        ],
    ),
    ({"compute": ["a"]}, {}, ["- compute.long on job:a (is not_in_allowlist)"]),
    (
        {},
        {"compute": "any", "rules": [{"effect": "deny", "actions": ["compute.long"], "resources": ["job"]}]},
        ["+ compute.long on no resource (was not_in_allowlist)"],
    ),
]


@pytest.mark.parametrize(("old", "new", "lines"), WORDS, ids=range(len(WORDS)))
def test_words(
    old: dict[str, Any], new: dict[str, Any], lines: list[str], folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    call("diff", folder.write("old.json", json.dumps(old)), folder.write("new.json", json.dumps(new)))
    assert sorted(_sorted_words(line) for line in capsys.readouterr().out.splitlines()[:-1]) == sorted(
        _sorted_words(line) for line in lines
    )


def _sorted_words(line: str) -> list[str]:
    return sorted(line.replace(",", "").split())


@pytest.mark.slow
def test_of_many_only_some_are_told(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    many = folder.write("many.json", json.dumps({"env": [f"V{number}" for number in range(50_000)]}))
    assert call("diff", many, folder.write("none.json", "{}")) == 1
    out = capsys.readouterr().out
    assert "49992 more" in out
    assert len(out) < 500


# Replay.


class _Lines(logging.Handler):
    never_blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines of the logger, as a file would have them."""
    handler, logger = _Lines(), logging.getLogger(LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def ask(id: str, **more: Any) -> PolicyInput:
    return PolicyInput("db.read", User("bob"), Resource("sql_query", id), **more)


@pytest.fixture
def decisions(folder: Folder, log: list[str]) -> str:
    """What a checker logged: 3 times ``audit`` and once ``other``, and things that cannot be asked again."""
    events = DecisionLog(sample_allows=1.0)
    checker = LocalPolicyChecker(RuntimePolicy.from_document(DOCUMENT), events=events)
    for id in ("audit", "other", "audit", "audit"):
        result = checker.evaluate_now(ask(id))
        if isinstance(result, Deny):
            events.denied(Decision(ask(id), result))
        else:
            events.allowed(Decision(ask(id), result))
    events.denied(Decision(ask("x" * 1_000), Deny("not_in_allowlist")))
    events.denied(Decision(None, Deny("undeclared_route")))
    return folder.write("decisions.jsonl", "\n".join([*log, '{"message": "of another logger"}', "", ""]))


@pytest.mark.slow
def test_recorded_decisions_are_put_to_both(
    engine_name: str, folder: Folder, decisions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = folder.write("new.wasm", build_policy(NEW))
    code, told = compared(folder.module, new, "--replay", decisions, "--engine", engine_name, capsys=capsys)
    assert (code, told["exact"], told["questions"], told["changed"]) == (1, False, 4, 4)
    assert told["left_out"] == {"text cut short": 1, "nothing asked": 1, "other lines": 1}
    changes = [(one["input"]["resource"]["id"], one["before"]["kind"], one["count"]) for one in told["changes"]]
    assert changes == [("audit", "allow", 3), ("other", "deny", 1)]
    code, told = compared(folder.module, folder.toml, "--replay", decisions, capsys=capsys)
    assert (code, told["changed"], told["questions"]) == (0, 0, 4)
    assert call("diff", folder.toml, new, "--replay", decisions) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("- db.read on sql_query:audit")
    assert out[0].endswith("3 times")
    assert out[-1].startswith("4 of 4")


def test_fixtures_are_questions_too(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = compared(folder.module, folder.json, "--replay", str(FIXTURES), capsys=capsys)
    assert (code, told["questions"]) == (0, len(list(FIXTURES.iterdir())))
    one = json.loads((FIXTURES / "db_read_allow.json").read_text())
    several = folder.write("several.json", json.dumps([one, {"event": "other"}, one]))
    lines = folder.write("lines.jsonl", "\n".join([json.dumps(one)] * 3))
    told = compared(folder.module, folder.json, "--replay", several, "--replay", lines, capsys=capsys)[1]
    assert (told["questions"], told["left_out"]) == (5, {"other lines": 1})


def test_a_module_of_ones_own_is_asked_each_question(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """One that fails is a denial, and the next question gets a fresh instance."""
    questions = [ask("a"), ask("a", env=Environment("s", "dev")), ask("b")]
    recorded = folder.write("q.jsonl", b"\n".join(msgspec.json.encode({"input": one}) for one in questions))
    denies_all = folder.write("denies.wasm", guest(extra=denies("no")))
    traps = folder.write("traps.wasm", guest("(unreachable)"))
    code, told = compared(denies_all, traps, "--replay", recorded, capsys=capsys)
    assert (code, told["questions"], told["changed"]) == (1, 3, 3)
    assert {one["after"]["reason"] for one in told["changes"]} == {"policy_trap"}
    counts = folder.write("counts.wasm", guest(COUNTING, extra=COUNTER + denies("again")))
    assert compared(counts, folder.write("always.wasm", guest()), "--replay", recorded, capsys=capsys)[0] == 0  # G21


COUNTER = "(global $asked (mut i32) (i32.const 0))"
#: Allows the first question of an instance only: at 512 there are zeros, which say so.
COUNTING = """
(global.set $asked (i32.add (global.get $asked) (i32.const 1)))
(if (result i32) (i32.eq (global.get $asked) (i32.const 1)) (then (i32.const 512)) (else (i32.const 1024)))
"""


def test_modules_need_questions(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in ((folder.module, folder.toml), (folder.toml, folder.module), (folder.module, folder.module)):
        assert call("diff", old, new) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--replay" in captured.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("empty.jsonl", "", ""),
        ("others.jsonl", '{"message": 1}\n', ""),
        ("text.jsonl", '{"event": "other"}\n\nWARNING nothing of ours\n', "text.jsonl:3"),
        ("bad.jsonl", '{"event": "capgate.decision"}\n', "bad.jsonl:1"),
        ("question.jsonl", '\n{"input": {"action": 3}}\n', "question.jsonl:2"),
        ("question.json", '[{"input": {"action": "a.b"}},\n {"input": {"action": 3}}]', "question.json:2"),
    ],
)
def test_records_that_are_none_are_exit_code_2(
    name: str, text: str, place: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("diff", folder.module, folder.toml, "--replay", folder.write(name, text)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert place in captured.err


@pytest.mark.slow
def test_limits_are_those_of_the_environment(folder: Folder) -> None:
    recorded = folder.write("q.jsonl", msgspec.json.encode(event_of(ask("y" * 200))))
    always = folder.write("always.wasm", guest())
    count = "(local.tee $n (i32.add (local.get $n) (i32.const 1)))"
    work = f"(local $n i32) (loop $l (br_if $l (i32.lt_u {count} (i32.const 9999))))"
    busy = folder.write("busy.wasm", guest(f"{work} (i32.const 1024)"))
    assert capgate("diff", always, busy, "--replay", recorded).returncode == 0
    short = capgate("diff", always, busy, "--replay", recorded, "--json", CAPGATE_FUEL="10000")
    assert (short.returncode, json.loads(short.stdout)["changes"][0]["after"]["reason"]) == (1, "policy_timeout")


def test_too_many_classes_are_exit_code_2(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    rules = [
        {"effect": "allow", "actions": ["fs.read"], "actors": [f"user:{n}"], "resources": [f"path:{n}"]}
        for n in range(1_000)
    ]
    old = folder.write("old.json", json.dumps({"rules": rules}))
    new = folder.write(
        "new.json", json.dumps({"rules": [*rules, {"effect": "deny", "actions": ["fs.read"], "reason": "no"}]})
    )
    assert call("diff", old, new) == 2
    assert "--replay" in capsys.readouterr().err


def test_rules_that_only_monitor_are_a_part_of_their_own(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    watched = {**DOCUMENT, "rules": [{**DOCUMENT["rules"][0], "monitor": True}]}
    bare = {"sql": DOCUMENT["sql"]}
    files = [folder.write(f"{at}.json", json.dumps(each)) for at, each in enumerate((bare, watched, DOCUMENT))]
    code, told = compared(files[0], files[1], capsys=capsys)
    assert (code, told["changes"]) == (1, [])
    denied = [change["after"] for change in told["recorded"] if change["effect"] == "denied"]
    assert denied == [{"kind": "deny", "reason": "the books are closed"}]
    code, told = compared(files[1], files[2], capsys=capsys)  # and now it counts
    assert (code, told["denied"], told["recorded"]) == (1, 1, [])
    assert compared(files[1], files[1], capsys=capsys)[0] == 0
    assert call("diff", files[0], files[1]) == 1
    out = capsys.readouterr().out
    assert "no question" in out
    assert "- db." in out
