"""What strangers may be shown of a denial that was raised, and what the log shows."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback

import pytest

from capgate.enforcement.capabilities import Capabilities
from capgate.enforcement.current import capabilities_for, current
from capgate.errors import CapabilityDenied
from capgate.model import Decision, Deny, PolicyInput, Resource, User

from ..support.gates import events, make_checker

FACTS = ("db.read", "t0p-secret", "sql_query", "not_in_allowlist", "grace")


async def denied() -> CapabilityDenied:
    capabilities: Capabilities = capabilities_for(make_checker(), User("grace"), deadline=20.0)
    with pytest.raises(CapabilityDenied) as caught:
        await capabilities.require("db.read", "sql_query:t0p-secret")
    return caught.value


async def test_the_text_has_the_decision_id_only() -> None:  # G-13
    with events() as found:
        error = await denied()
    for text in (str(error), repr(error), f"{error}", f"{error!r}", "%s" % error):  # noqa: UP031
        assert error.decision.decision_id in text
        assert not [fact for fact in FACTS if fact in text]
    # The log says all, under the same id, and so do attributes.
    (event,) = found
    assert event["decision_id"] == error.decision.decision_id
    assert [event[key] for key in ("action", "resource_id", "resource_kind", "reason", "actor_id")] == list(FACTS)
    assert (error.decision.input.action, error.decision.result) == ("db.read", Deny("not_in_allowlist"))


async def test_a_denial_for_want_of_a_gate_shows_no_more() -> None:
    with pytest.raises(CapabilityDenied) as caught:
        current()
    assert str(caught.value) == f"denied (decision {caught.value.decision.decision_id})"


async def test_tracebacks_show_the_facts() -> None:
    error = await denied()
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "x", (), (type(error), error, error.__traceback__))
    for text in (
        "".join(traceback.format_exception(type(error), error, error.__traceback__)),
        logging.Formatter().format(record),
    ):
        assert [fact in text for fact in ("'db.read'", "'t0p-secret'", "'not_in_allowlist'")] == [True] * 3


async def test_the_facts_are_a_note() -> None:
    (note,) = (await denied()).__notes__
    assert all(fact in note for fact in ("db.read", "t0p-secret", "not_in_allowlist"))


def test_a_note_is_printable_and_short() -> None:  # O3
    id = "a\r\n\x1b[31m\u202e" + "x" * 60_000
    input = PolicyInput("db.read", resource=Resource("sql_query", id))
    (note,) = CapabilityDenied(Decision(input, Deny("y\r\n" * 60_000), "0" * 32)).__notes__
    assert note.isprintable()
    assert len(note) < 1_000


async def test_a_question_of_odd_objects_is_denied_like_any_other() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise ValueError("t0p-secret")

    capabilities: Capabilities = capabilities_for(make_checker(), User("grace"), deadline=20.0)
    for question in ((Odd(), "sql_query:good"), ("db.read", Resource(Odd(), Odd()))):  # type: ignore[arg-type]
        with pytest.raises(CapabilityDenied) as caught:
            await capabilities.require(*question)
        assert "<Odd>" in caught.value.__notes__[0]


async def test_copies_say_the_same() -> None:
    error = await denied()
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(other), other.decision, other.__notes__) == (str(error), error.decision, error.__notes__)
