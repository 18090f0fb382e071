"""``capgate explain``: what decided, what would have to change, and its exit codes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from capgate import LocalPolicyChecker, PolicyInput, Resource, RuntimePolicy, Service, User, build_policy
from capgate.capabilities import CapabilityDenied, capabilities_for
from capgate.cli.policy.questions import CUT, INLINE, NOTHING, asked_question, original, question_of, read_question
from capgate.errors import ConfigError
from capgate.events import TEXT_LIMIT, DecisionEvent, DecisionLog, add_sink, printable, remove_sink
from capgate.model import ALLOW, Actor, Anonymous, CompilerTool, Decision, Deny, Environment, canonical
from capgate.policy.analysis.patch import apply

from ..support.command import capgate, environment
from ..support.guests import denies, guest
from .test_commands import call

TOML = """\
sql = ["audit"]
modes = ["frozen", "dr"]

[[rules]]
effect = "deny"
actions = ["db.*"]
modes = ["frozen", "dr"]
reason = "the books are closed"
"""
DOCUMENT: dict[str, Any] = {
    "sql": ["audit"],
    "modes": ["frozen", "dr"],
    "rules": [
        {"effect": "deny", "actions": ["db.*"], "modes": ["frozen", "dr"], "reason": "the books are closed"},
    ],
}
READ = PolicyInput("db.read", User("bob"), Resource("sql_query", "audit"))
BOB = json.loads(canonical(User("bob")))
FROZEN = msgspec.structs.replace(READ, env=Environment("s", "frozen"))


class Folder:
    """Files that the commands are given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.toml = self.write("policy.toml", TOML)
        self.json = self.write("policy.json", json.dumps(DOCUMENT))
        self.module = self.write("policy.wasm", build_policy(DOCUMENT))

    def write(self, name: str, content: str | bytes) -> str:
        path = self.path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def ask(self, input: PolicyInput) -> str:
        return self.write("question.json", canonical(input))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def explained(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = call("explain", *arguments, "--json")
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["toml", "json"])
def test_a_rule_and_what_to_change(name: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = explained(getattr(folder, name), folder.ask(FROZEN), capsys=capsys)
    assert (code, told["result"]) == (1, {"kind": "deny", "reason": "the books are closed"})
    assert (told["by"], told["rule"], told["section"]) == ("rule", 0, None)
    assert told["rules"] == [{"rule": 0, "effect": "deny", "unmet": []}]
    assert msgspec.convert(told["input"], PolicyInput) == FROZEN
    assert told["policy"]["kind"] == "document"
    assert (
        told["policy"]["sha256"]
        == RuntimePolicy.from_document(Path(getattr(folder, name)).read_bytes(), format=name).sha256
    )
    (needs,) = told["remedies"]
    for way in needs[0]["ways"]:
        changed = RuntimePolicy.from_document(apply(DOCUMENT, way["patch"]))
        assert changed.evaluate(FROZEN) == ALLOW
    assert len(needs[0]["ways"]) == 2


def test_an_allow_is_exit_code_0(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = explained(folder.toml, folder.ask(READ), capsys=capsys)
    assert (code, told["result"], told["section"]) == (0, {"kind": "allow"}, "sql")
    assert told["rules"] == [{"rule": 0, "effect": "deny", "unmet": ["modes"]}]
    assert len(told["remedies"]) == 2


def test_of_a_module_the_answer_is_known(engine_name: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    question = folder.ask(FROZEN)
    code, told = explained(folder.module, question, "--engine", engine_name, capsys=capsys)
    assert (code, told["result"]) == (1, {"kind": "deny", "reason": "the books are closed"})
    assert (told["by"], told["engine"], told["inputs"]) == ("module", engine_name, ["action", "mode", "resource"])
    assert "remedies" not in told
    foreign = folder.write("other.wasm", guest(extra=denies("no")))
    code, told = explained(foreign, question, capsys=capsys)
    assert (code, told["result"], told["inputs"]) == (1, {"kind": "deny", "reason": "no"}, None)
    trap = folder.write("trap.wasm", guest("(unreachable)"))
    assert explained(trap, question, capsys=capsys)[1]["result"]["reason"] == "policy_trap"
    endless = folder.write("endless.wasm", guest("(loop (br 0)) (unreachable)"))
    assert explained(endless, question, capsys=capsys)[1]["result"]["reason"] == "policy_timeout"  # G1
    assert call("explain", folder.module, question) == 1
    assert "The books are closed".lower() in capsys.readouterr().out


def test_people_are_told_the_line(folder: Folder) -> None:
    done = capgate("explain", folder.toml, folder.ask(FROZEN))
    assert (done.returncode, done.stderr) == (1, "")
    assert f"rules[0] ({folder.toml}:4)" in done.stdout
    assert 'take "frozen" out of the modes of rules[0]' in done.stdout
    assert "\x1b" not in done.stdout
    nothing = capgate("explain", folder.toml, folder.ask(PolicyInput("db.read")))
    assert nothing.returncode == 1
    assert "another question" in nothing.stdout


def test_of_many_rules_the_nearest_are_shown(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    far = {"effect": "allow", "actions": ["db.read"], "actors": ["service:x"], "modes": ["dev"]}
    near = {"effect": "allow", "actions": ["db.read"], "modes": ["dev"]}
    policy = folder.write("many.json", json.dumps({"rules": [far] * 100 + [near] + [far] * 100}))
    assert call("explain", policy, folder.ask(READ)) == 1
    out = capsys.readouterr().out
    assert "rules[100] (allow)" in out
    assert "181 more" in out
    assert out.count("rules[") < 30


def test_what_comes_from_files_cannot_reach_a_terminal(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    nasty = "\x1b]0;x\x07\x9b31m\u202e"
    document = {"sql": [nasty], "rules": [{"effect": "allow", "actions": ["db.read"], "actors": [f"user:{nasty}"]}]}
    policy = folder.write("nasty.json", json.dumps(document))
    for id, who in itertools.product((nasty, "other"), repeat=2):
        asked = PolicyInput("db.read", User(who), Resource("sql_query", id), env=Environment("s", nasty))
        call("explain", policy, folder.ask(asked))
        call("diff", policy, folder.json)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isascii()
    assert out.replace("\n", "").isprintable()


def test_questions_come_in_three_forms(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    fixture = {"description": "x", "input": msgspec.to_builtins(FROZEN), "expected": {"kind": "allow"}}
    assert explained(folder.toml, folder.write("f.json", json.dumps(fixture)), capsys=capsys)[1]["rule"] == 0
    event = folder.write("e.json", msgspec.json.encode(event_of(FROZEN)))
    told = explained(folder.toml, event, capsys=capsys)[1]
    assert told["rule"] == 0
    assert (told["input"]["actor"], told["input"]["resource"]["id"]) == (BOB, "audit")


def test_a_question_from_standard_input(folder: Folder) -> None:
    command = [sys.executable, "-m", "capgate", "explain", folder.json, "-", "--json"]
    done = subprocess.run(
        command, env=environment(), input=canonical(FROZEN), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["rule"]) == (1, 0)


@pytest.mark.parametrize("how", ["file", "inline", "standard input", "indented"])
def test_a_denial_of_the_log_is_explained(
    folder: Folder, how: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A gate denies; the line that its log then has is explained as it stands there."""
    capabilities = capabilities_for(LocalPolicyChecker(RuntimePolicy.from_document(DOCUMENT)), User("bob"))
    with pytest.raises(CapabilityDenied):
        capabilities.require_now("db.read", Resource("sql_query", "unheard of"))
    (line,) = caplog.messages
    if how == "standard input":
        command = [sys.executable, "-m", "capgate", "explain", folder.toml, "-", "--json"]
        done = subprocess.run(
            command, env=environment(), input=f"{line}\n", capture_output=True, text=True, timeout=60, check=False
        )
        code, told = done.returncode, json.loads(done.stdout)
    else:
        given = {"file": folder.write("denied.log", line + "\n"), "inline": line, "indented": f"\n {line}\n"}[how]
        code, told = explained(folder.toml, given, capsys=capsys)
    assert code == 1
    assert (told["input"]["action"], told["input"]["actor"]) == ("db.read", BOB)
    assert msgspec.convert(told["input"]["resource"], Resource) == Resource("sql_query", "unheard of")
    assert told["by"] == "default"
    assert told["remedies"]


def test_a_question_as_json_on_the_command_line(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(folder.toml, canonical(FROZEN).decode(), capsys=capsys)[1]["rule"] == 0
    for text in ("{", '{"action": 3}', '{"event": "capgate.other"}', '{"action": "a.b"} {}', "{" + "x" * 70_000):
        with pytest.raises(ConfigError) as caught:
            asked_question(text)
        assert caught.value.path == INLINE
        assert call("explain", folder.toml, text) == 2
    assert capsys.readouterr().out == ""


def test_a_file_comes_before_what_its_name_says(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.path)
    for name in ("{}", "db.read"):
        folder.write(name, canonical(FROZEN))
        assert asked_question(name) == FROZEN


BAD: list[tuple[str | bytes, str, tuple[int | None, int | None]]] = [
    ("", "document", (1, 1)),
    ("[]", "input", (None, None)),
    ('{"action": "a.b",\n "actor": {"kind": "user", "id": 3}}', "actor.id", (2, 28)),
    ('{"action": "a.b",\n "actions": 1}', "input", (None, None)),
    ('{"input": {\n"action": 3}}', "input.action", (2, 1)),
    ('{"action": "a.b", "action": "a.c"}', "action", (1, 19)),
    ('{"action": "a.b", "resource": {"kind": "x", "attributes": {"a": null}}}', "resource.attributes", (1, 45)),
    (b'{"action": "\xff"}', "document", (1, 13)),
    ('{"event": "capgate.other"}', "event", (None, None)),
    ('{"event": "capgate.decision", "service": 1, "mode": ""}', "event", (None, None)),
    ('{"event": "capgate.decision", "service": "s", "mode": "m", "actor_kind": "anonymous"}', "event", (None, None)),
]


@pytest.mark.parametrize(("text", "setting", "place"), BAD, ids=range(len(BAD)))
def test_a_malformed_question_is_named_by_its_place(
    text: str, setting: str, place: tuple[int | None, int | None], folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.write("bad.json", text)
    with pytest.raises(ConfigError) as caught:
        read_question(Path(path))
    error = caught.value
    assert (error.setting, (error.line, error.column), error.path) == (setting, place, path)
    assert call("explain", folder.toml, path) == 2
    assert capsys.readouterr().out == ""


def test_files_that_cannot_be_used_are_exit_code_2(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    question = folder.ask(READ)
    bad = folder.write("bad.toml", "sql = []\nsqll = []\n")
    broken = folder.write("broken.wasm", b"\0asm\1\0\0\0\xff")
    for policy, about in ((bad, question), (broken, question), ("absent", question), (folder.toml, "absent")):
        assert call("explain", policy, about) == 2, policy
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{bad}:2:1: sqll" in captured.err


# Events: what was written into the log is what is asked again.


def event_of(input: PolicyInput) -> DecisionEvent:
    found: list[DecisionEvent] = []

    class Sink:
        def emit(self, event: DecisionEvent) -> None:
            found.append(event)

    sink = Sink()
    add_sink(sink)
    try:
        DecisionLog().denied(Decision(input, Deny("no")))
    finally:
        remove_sink(sink)
    return found[0]


ODD = [
    "",
    "plain",
    "é",
    "\\",
    "\\x41",
    "\x7f\x00\x9b",
    "\n",
    "\U0001f600",
    "\ud800",
    "a...(3 characters)",
    "x" * TEXT_LIMIT,
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_an_event_has_the_question(text: str) -> None:
    actors: list[Actor] = [Anonymous(), User(text), Service(text), CompilerTool(text)]
    for who, resource in itertools.product(actors, [None, Resource(text), Resource("k", text)]):
        asked = PolicyInput(text, who, resource, env=Environment(text, text))
        event = msgspec.to_builtins(event_of(asked))
        found = question_of(event)
        assert isinstance(found, PolicyInput)
        assert msgspec.structs.replace(found, timestamp=0) == asked
        assert found.timestamp == event["timestamp"]


@pytest.mark.parametrize("text", ["x" * (TEXT_LIMIT + 1), "é" * 1_000, "\\" * 300])
def test_what_was_cut_short_is_not_asked(text: str) -> None:
    assert original(printable(text) or "") is None
    assert question_of(msgspec.to_builtins(event_of(PolicyInput(text)))) == CUT
    assert question_of(msgspec.to_builtins(event_of(PolicyInput("a.b", User(text))))) == CUT


def test_where_nothing_was_asked_nothing_is() -> None:
    event = msgspec.to_builtins(event_of(READ))
    for change in ({"action": None}, {"actor_kind": None}, {"actor_kind": "<int>"}, {"actor_id": None}):
        assert question_of({**event, **change}) == NOTHING


WATCHED: dict[str, Any] = {
    "sql": ["audit"],
    "rules": [{"effect": "deny", "actions": ["db.*"], "actors": ["user:bob"], "reason": "not bob", "monitor": True}],
}


def test_a_rule_that_only_monitors(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    document = folder.write("watched.json", json.dumps(WATCHED))
    code, told = explained(document, folder.ask(READ), capsys=capsys)
    assert (code, told["result"], told["by"], told["monitored"]) == (0, {"kind": "allow"}, "section", 0)
    assert told["rules"] == [{"rule": 0, "effect": "deny", "unmet": [], "monitor": True}]
    patches = [way["patch"] for need in told["remedies"][0] for way in need["ways"]]
    assert [{"op": "remove", "path": "/rules/0/monitor"}] in patches
    for patch in patches:
        changed = RuntimePolicy.from_document(apply(WATCHED, tuple(patch)))
        assert changed.evaluate(READ) != ALLOW
    assert call("explain", document, folder.ask(READ)) == 0
    assert "rules[0] (" in capsys.readouterr().out
    other = msgspec.structs.replace(READ, resource=Resource("sql_query", "other"))
    code, told = explained(document, folder.ask(other), capsys=capsys)  # it stands in nobody's way
    assert (code, told["monitored"]) == (1, None)
    assert all("/rules/0" not in operation["path"] for operation in told["remedies"][0][0]["ways"][0]["patch"])


@pytest.mark.parametrize(
    ("words", "question"),
    [
        ("db.read", PolicyInput("db.read")),
        ("db.read sql_query", PolicyInput("db.read", resource=Resource("sql_query"))),
        ("db.read sql_query:x as user:ada", PolicyInput("db.read", User("ada"), Resource("sql_query", "x"))),
        (
            "fs.read path:a b//c in dev",
            PolicyInput("fs.read", resource=Resource("path", "a b/c"), env=Environment(mode="dev")),
        ),
        (
            "db.read sql_query:x as service:ci:1 in frozen",
            PolicyInput("db.read", Service("ci:1"), Resource("sql_query", "x"), env=Environment(mode="frozen")),
        ),
        ("db.read as anonymous", PolicyInput("db.read", Anonymous())),
        (
            'order.refund order:17 as user:ada with args.amount=5 actor.roles=[editor,"a b"] resource.owner="17"',
            PolicyInput(
                "order.refund",
                User("ada", ("editor", "a b")),
                Resource("order", "17", {"owner": "17"}),
                args={"amount": 5},
            ),
        ),
        (
            "db.read as service:agent in dev with actor.on_behalf_of=[user:ada,anonymous] context.mfa=false",
            PolicyInput(
                "db.read",
                Service("agent", on_behalf_of=User("ada", on_behalf_of=Anonymous())),
                env=Environment(mode="dev"),
                context={"mfa": False},
            ),
        ),
        ("fs.read path:a with b/c", PolicyInput("fs.read", resource=Resource("path", "a with b/c"))),
    ],
)
def test_a_question_in_words(words: str, question: PolicyInput) -> None:  # P-9
    assert asked_question(words) == question


def test_words_are_explained(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", folder.toml, "db.read sql_query:audit as user:ada") == 0
    assert call("explain", folder.toml, "db.raed sql_query:audit") == 1
    assert "db.read?" in capsys.readouterr().out
    assert call("explain", folder.toml, "db.read sql_query:audit as usr:ada") == 2
    assert call("explain", folder.toml, "no.such.file") == 1  # an action that nobody knows
    assert call("explain", folder.toml, "./no-such-file") == 2


def test_an_attribute_that_is_named_like_something_fixed_may_change(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"effect": "allow", "actions": ["order.refund"], "when": "args.id == 'a' && resource.mode == 'b'"}
    attributes = {"args": {"id": "string"}, "resource": {"mode": "string"}}
    document = {"actions": {"order.refund": "by_rule"}, "attributes": attributes, "rules": [rule]}
    path = folder.write("named.json", json.dumps(document))
    for args, of_resource, turned in (("x", "b", "args.id"), ("a", "x", "resource.mode")):
        asked = PolicyInput("order.refund", SUPPORT, Resource("order", "1", {"mode": of_resource}), args={"id": args})
        code, told = explained(path, folder.ask(asked), capsys=capsys)
        assert (code, [turn["fact"] for turn in told["turns"]]) == (1, [turned])


REFUNDS: dict[str, Any] = {
    "actions": {"order.refund": "by_rule"},
    "attributes": {"args": {"amount": "int"}, "context": {"mfa": "bool"}},
    "rules": [
        {
            "effect": "allow",
            "actions": ["order.refund"],
            "when": "'support' in actor.roles && args.amount <= 1000",
        },
        {"effect": "deny", "actions": ["order.refund"], "when": "!context.mfa", "reason": "no"},
    ],
}
SUPPORT = User("ada", roles=("support",))


@pytest.mark.parametrize(
    ("asked", "reason", "unknown", "parts", "turns"),
    [
        (
            PolicyInput("order.refund", SUPPORT, args={"amount": 2_000}, context={"mfa": True}),
            "not_in_allowlist",
            None,
            [True, False],
            {"args.amount": 1_000},
        ),
        (
            PolicyInput("order.refund", User("ada", roles=("ops",)), args={"amount": 2}, context={"mfa": True}),
            "not_in_allowlist",
            None,
            [False, True],
            {"actor.roles": ["ops", "support"]},
        ),
        (
            PolicyInput("order.refund", SUPPORT, args={"amount": 2}),
            "missing_fact",
            {"reason": "missing_fact", "fact": "context.mfa"},
            [True, True],
            {"context.mfa": True},
        ),
        (
            PolicyInput("order.refund", SUPPORT, args={"amount": 2}, context={"mfa": True}),
            None,
            None,
            [True, True],
            {"args.amount": 1_001, "context.mfa": False, "actor.roles": []},
        ),
    ],
)
def test_conditions_are_shown_by_their_parts_and_each_fact_that_would_turn_the_answer(
    folder: Folder,
    capsys: pytest.CaptureFixture[str],
    asked: PolicyInput,
    reason: str | None,
    unknown: dict[str, str] | None,
    parts: list[bool],
    turns: dict[str, Any],
) -> None:
    path = folder.write("refunds.json", json.dumps(REFUNDS))
    code, told = explained(path, folder.ask(asked), capsys=capsys)
    assert (code, told["result"].get("reason"), told["unknown"]) == (int(reason is not None), reason, unknown)
    condition = told["rules"][0]["condition"]
    assert [part["text"] for part in condition["parts"]] == ["'support' in actor.roles", "args.amount <= 1000"]
    assert [part["answer"] for part in condition["parts"]] == parts
    assert condition["answer"] is all(parts)
    assert {turn["fact"]: turn["value"] for turn in told["turns"]} == turns
    assert call("explain", path, folder.ask(asked)) == code
    assert "args.amount <= 1000: " in capsys.readouterr().out
