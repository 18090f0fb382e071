from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
from typing import Any

import msgspec
import pytest
from starlette.types import Message

from capgate import events as module
from capgate.enforcement.response import problem
from capgate.events import (
    DecisionEvent,
    DecisionLog,
    RequestFacts,
    add_sink,
    describe,
    flush,
    new_decision_id,
    printable,
    remove_sink,
    statistics,
)
from capgate.model import (
    ALLOW,
    Allow,
    Anonymous,
    CompilerTool,
    Decision,
    Deny,
    Environment,
    PolicyInfo,
    PolicyInput,
    Resource,
    Service,
    User,
)

from ..support.asgi import Call, http_scope
from ..support.gates import Ran, events, example

POLICY = PolicyInfo("orders", "7", "ab" * 32, "wasmtime")
INPUT = PolicyInput("db.write", User("ada"), Resource("sql_query", "save"), None, Environment("shop", "test"), 5)
DENY = Deny("not_in_allowlist")

#: CR and LF, terminals, text direction, halves of characters, too much of it.  O3
HOSTILE = {
    "line": "a\r\nWARNING:root:forged",
    "tab": "a\tb\vc\fd",
    "ansi": "\x1b[2J\x1b]0;title\x07",
    "c1": "\x9b31m\x85",
    "delete": "a\x7fb",
    "nul": "a\0b",
    "bidi": "\u202egnp.exe\u2066",
    "separators": "a\u2028b\u2029c",
    "surrogate": "\ud800 and \udfff",
    "invisible": "a\u200bb\ufeff",
    "json": '","reason":"allowed","x":"',
    "backslash": "\\u0041\\n",
    "percent": "%s %(message)s %n",
    "braces": "{0} {record}",
    "kelvin": "\u212a",
    "emoji": "😀",
    "huge": "x" * 1_000_000,
    "huge hostile": "\n\U0001f600" * 500_000,
}


class Kept:
    def __init__(self) -> None:
        self.events: list[DecisionEvent] = []

    def emit(self, event: DecisionEvent) -> None:
        self.events.append(event)


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def emit(self, event: DecisionEvent) -> None:
        raise self._error


@pytest.fixture
def kept() -> Any:
    sink = Kept()
    add_sink(sink)
    yield sink
    remove_sink(sink)


def test_every_fact_of_a_denial_is_in_its_event() -> None:  # O1
    with events() as found:
        DecisionLog().denied(Decision(INPUT, DENY, "d1", POLICY), RequestFacts("PUT", "/orders/1", 12.345))
    (event,) = found
    assert event.pop("timestamp") > 1_700_000_000_000_000_000
    assert event == {
        "event": "capgate.decision",
        "decision": "deny",
        "decision_id": "d1",
        "service": "shop",
        "mode": "test",
        "action": "db.write",
        "resource_kind": "sql_query",
        "resource_id": "save",
        "actor_kind": "user",
        "actor_id": "ada",
        "reason": "not_in_allowlist",
        "would_deny": None,
        "would_fit": None,
        "rule": None,
        "enforce": "always",
        "policy": "orders",
        "policy_version": "7",
        "policy_sha256": "ab" * 32,
        "engine": "wasmtime",
        "duration_us": 12.3,
        "method": "PUT",
        "path": "/orders/1",
        "cause": None,
        "facts": None,
    }


def test_the_keys_are_the_same_whatever_is_known() -> None:  # O1
    with events() as found:
        DecisionLog().denied(Decision(None, DENY), RequestFacts(env=Environment("shop", "test")))
        DecisionLog().denied(Decision(INPUT, DENY, None, POLICY))
    assert set(found[0]) == set(found[1]) == set(DecisionEvent.__struct_fields__)
    assert (found[0]["service"], found[0]["action"], found[0]["policy"]) == ("shop", None, None)


@pytest.mark.parametrize(
    ("actor", "kind", "name"),
    [
        (Anonymous(), "anonymous", None),
        (User("u"), "user", "u"),
        (Service("s"), "service", "s"),
        (CompilerTool("t"), "compiler_tool", "t"),
        ("nobody", "nobody", None),
    ],
)
def test_actors(actor: Any, kind: str, name: str | None) -> None:
    with events() as found:
        DecisionLog().denied(Decision(msgspec.structs.replace(INPUT, actor=actor), DENY))
    assert (found[0]["actor_kind"], found[0]["actor_id"]) == (kind, name)


def test_the_message_is_the_same_as_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "capgate.decisions"):
        DecisionLog().denied(Decision(INPUT, DENY, None, POLICY))
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "capgate.decisions")
    assert json.loads(record.getMessage()) == record.capgate  # type: ignore[attr-defined]
    assert repr(record.args) == f"({record.getMessage()},)"  # as services show it that keep arguments apart


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_inside_its_field(text: str, capsys: pytest.CaptureFixture[str]) -> None:  # O3
    everywhere = PolicyInput(text, User(text), Resource(text, text), None, Environment(text, text))
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("capgate.decisions")
    logger.addHandler(handler)
    try:
        policy = PolicyInfo(text, text, text, text)
        DecisionLog().denied(Decision(everywhere, Deny(text), None, policy), RequestFacts(text, text))
        assert flush(60)
    finally:
        logger.removeHandler(handler)
    (line, end) = capsys.readouterr().err.split("\n")
    assert end == ""
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 60_000
    written = json.loads(line)
    assert set(written) == set(DecisionEvent.__struct_fields__)
    assert written["decision"] == "deny"
    shown = written["reason"]
    assert all(written[name] == shown for name in ("action", "resource_id", "actor_id", "policy", "path", "service"))
    if len(text) <= module.TEXT_LIMIT:
        # Reversible: what was sent can be told from the log.
        plain = text.isascii() and text.isprintable() and "\\" not in text
        assert (shown if plain else shown.encode("ascii").decode("unicode_escape")) == text
    else:
        assert str(len(text)) in shown


def test_an_escape_cannot_be_forged() -> None:  # O3
    assert printable("a\nb") != printable("a\\nb")


@pytest.mark.parametrize("value", [5, b"bytes", ["list"], object()])
def test_what_is_not_text_is_shown_by_its_type_only(value: object) -> None:  # O4
    assert printable(value) == f"<{type(value).__name__}>"


def test_an_input_of_the_wrong_shape_is_reported_too() -> None:
    with events() as found:
        DecisionLog().denied(Decision("not an input", DENY))  # type: ignore[arg-type]
        DecisionLog().denied(Decision(PolicyInput(5, 6, 7, 8, 9, "x"), DENY))  # type: ignore[arg-type]
    assert [event["decision"] for event in found] == ["deny", "deny"]
    assert found[1]["action"] == "<int>"


def test_a_cause_says_which_error_and_where_but_not_its_text() -> None:  # O4
    try:
        json.loads('{"token": secret}')
    except ValueError as error:
        with events() as found:
            DecisionLog().denied(Decision(INPUT, DENY), RequestFacts(cause=error))
    assert "secret" not in json.dumps(found)
    assert found[0]["cause"].startswith("json.decoder.JSONDecodeError in raw_decode")
    assert describe(KeyError("k")) == "KeyError"


def test_denials_are_never_sampled(kept: Kept) -> None:
    log = DecisionLog(sample_allows=0.0)
    for _ in range(100):
        log.denied(Decision(INPUT, DENY))
        log.allowed(Decision(INPUT, ALLOW))
    assert [event.decision for event in kept.events] == ["deny"] * 100


def test_allows_are_sampled(kept: Kept) -> None:
    always, sometimes = DecisionLog(sample_allows=1.0), DecisionLog(sample_allows=0.5)
    for _ in range(50):
        always.allowed(Decision(INPUT, ALLOW, None, POLICY), RequestFacts(duration_us=1.0))
    assert len(kept.events) == 50
    assert {event.decision for event in kept.events} == {"allow"}
    kept.events.clear()
    for _ in range(1_000):
        sometimes.allowed(Decision(INPUT, ALLOW))
    assert 300 < len(kept.events) < 700  # 12 standard deviations


def test_allows_are_written_at_info() -> None:
    with events(logging.INFO) as found:
        DecisionLog(sample_allows=1.0).allowed(Decision(INPUT, ALLOW, None, POLICY))
    assert (found[0]["decision"], found[0]["reason"]) == ("allow", None)
    with events(logging.WARNING) as found:
        DecisionLog(sample_allows=1.0).allowed(Decision(INPUT, ALLOW, None, POLICY))
    assert found == []


@pytest.mark.parametrize("while_made", [False, True])
def test_a_child_has_no_decision_id_of_its_parent(monkeypatch: pytest.MonkeyPatch, while_made: bool) -> None:
    """Also where a signal's handler forks while they are made, and both go on."""
    read, write = os.pipe()
    child: list[int] = []
    urandom = os.urandom

    def and_fork(size: int) -> bytes:
        made = urandom(size)
        monkeypatch.undo()
        child.append(os.fork())
        return made

    while len(module._ids) != 1:
        new_decision_id()
    new_decision_id()
    if while_made:
        monkeypatch.setattr(os, "urandom", and_fork)
        new_decision_id()
    else:
        new_decision_id()
        child.append(os.fork())
    ids = "\n".join(new_decision_id() for _ in range(60))
    if child == [0]:
        os.write(write, ids.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        others = file.read().split()
    assert os.waitpid(child[0], 0)[1] == 0
    assert len({*ids.split(), *others}) == 120


def test_decision_ids_differ(kept: Kept) -> None:
    for _ in range(1_000):
        DecisionLog().denied(Decision(INPUT, DENY))
    ids = {event.decision_id for event in kept.events}
    assert len(ids) == 1_000
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)


def test_what_a_filter_changes_in_the_dict_is_changed_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    def without_ids(record: logging.LogRecord) -> bool:
        record.capgate["actor_id"] = "somebody"  # type: ignore[attr-defined]
        return True

    logger = logging.getLogger("capgate.decisions")
    logger.addFilter(without_ids)
    try:
        DecisionLog().denied(Decision(INPUT, DENY, None, POLICY))
    finally:
        logger.removeFilter(without_ids)
    (record,) = caplog.records
    assert json.loads(record.getMessage())["actor_id"] == "somebody"
    assert "ada" not in record.getMessage()


def test_who_changes_a_record_changes_no_event(kept: Kept) -> None:
    logger = logging.getLogger("capgate.decisions")
    logger.addFilter(emptied := lambda record: bool(record.capgate.clear() or True))
    try:
        DecisionLog().denied(Decision(INPUT, DENY))
        DecisionLog().denied(Decision(INPUT, DENY))
    finally:
        logger.removeFilter(emptied)
    assert [event.reason for event in kept.events] == ["not_in_allowlist"] * 2
    assert [event.service for event in kept.events] == ["shop"] * 2


def test_what_policies_and_environments_say_is_not_mixed_up(kept: Kept) -> None:
    for service, name in (("a", "x"), ("a", "y"), ("b", "y"), ("b", None), ("a", "x")):
        policy = None if name is None else PolicyInfo(name, "1", "00")
        DecisionLog().denied(Decision(None, DENY, None, policy), RequestFacts(env=Environment(service)))
    assert [(event.service, event.policy) for event in kept.events] == [
        ("a", "x"),
        ("a", "y"),
        ("b", "y"),
        ("b", None),
        ("a", "x"),
    ]


def test_an_id_is_encoded_the_same_in_either_way() -> None:
    """What most clients are sent is not encoded each time."""
    for id in ("8c1f0f7bb3b44ab6a1a3f3c0f6a4b0de", '"quoted"', "\u0022", "ü", ""):
        fields = {"type": "about:blank", "title": "Forbidden", "status": 403, "decision_id": id}
        assert problem(id) == msgspec.json.encode(fields)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), queue.Full(), RecursionError(), MemoryError()]
)
def test_a_sink_that_fails_changes_nothing_and_is_counted(error: Exception, kept: Kept) -> None:  # O2
    sink = Failing(error)
    before = statistics()
    add_sink(sink)
    try:
        for _ in range(3):
            DecisionLog().denied(Decision(INPUT, DENY))
    finally:
        remove_sink(sink)
    after = statistics()
    assert after.dropped - before.dropped == 3
    assert after.emitted - before.emitted == 6  # the logger, and the sink that keeps
    assert len(kept.events) == 3


def test_a_handler_that_raises_is_counted() -> None:  # O2
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    handler = Handler()
    logger = logging.getLogger("capgate.decisions")
    logger.addHandler(handler)
    before = statistics().dropped
    try:
        DecisionLog().denied(Decision(INPUT, DENY))
        assert flush(60)
    finally:
        logger.removeHandler(handler)
    assert statistics().dropped == before + 1


def test_a_full_queue_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:  # O2
    monkeypatch.setattr(logging, "raiseExceptions", False)
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(maxsize=1)
    handler = logging.handlers.QueueHandler(waiting)
    logger = logging.getLogger("capgate.decisions")
    logger.addHandler(handler)
    try:
        for _ in range(3):
            DecisionLog().denied(Decision(INPUT, DENY))
    finally:
        logger.removeHandler(handler)
    assert json.loads(waiting.get_nowait().getMessage())["reason"] == "not_in_allowlist"


def test_removing_a_sink_that_is_not_there_does_nothing() -> None:
    remove_sink(Kept())


def test_results_are_told_apart_by_type(kept: Kept) -> None:
    for result in (ALLOW, Deny("x"), None):
        DecisionLog().denied(Decision(INPUT, result))  # type: ignore[arg-type]
    assert [event.decision for event in kept.events] == ["allow", "deny", "deny"]
    assert type(ALLOW) is Allow


async def test_a_denial_is_written_before_it_is_answered() -> None:  # O10
    """A process that is killed in between has written what it never said, and has never said what it did not write."""
    order: list[str] = []

    class Sent(Call):
        async def send(self, message: Message) -> None:
            order.append(message["type"])
            await super().send(message)

    class Sink:
        def emit(self, event: DecisionEvent) -> None:
            order.append("event")

    sink = Sink()
    add_sink(sink)
    try:
        await Sent(http_scope("/bad")).to(example(Ran()))
    finally:
        remove_sink(sink)
    assert order[:2] == ["event", "http.response.start"]
