"""Judging: in Python and on each engine, what passes, what fails, and that no fixture changes the next one's answer."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from capgate.actions import Vocabulary
from capgate.artifact.build import build_policy
from capgate.artifact.load import WasmArtifact
from capgate.errors import (
    ArtifactError,
    ArtifactNotFound,
    CapgateError,
    ConfigError,
    FixtureError,
    FixturesFailed,
    RestrictedModule,
)
from capgate.limits import Limits
from capgate.model import ALLOW, Deny, PolicyInput, PolicyResult, Resource, User, canonical
from capgate.policy import RuntimePolicy
from capgate.runtime.engine import ENGINES
from capgate.testing import golden
from capgate.testing.golden import Fixture, Outcome, PolicyUnderTest, check_fixtures, coverage_of, run_fixtures

from ...support.engines import EXPECTED_ENGINES
from ...support.guests import artifact, guest, wat
from ...support.pool_guests import (
    BAD_DISCRIMINANT,
    COMPUTE,
    COUNT,
    DENY,
    ENDLESS,
    TRAP,
    TRAPS_AT_START,
    obedient,
    order,
)
from ...support.tools import ROOT

DOCUMENT: Final[dict[str, Any]] = {
    "name": "orders",
    "version": "3",
    "sql": ["audit"],
    "actions": {"parcel.return": ["inv-1"]},
    "rules": [{"effect": "deny", "actions": ["db.write"], "actors": ["user:bob"], "reason": "not bob"}],
}
AUDIT: Final = Resource("sql_query", "audit")
ALLOWED: Final = Fixture(input=PolicyInput("db.write", resource=AUDIT), expected=ALLOW, name="allowed")
BOB: Final = Fixture(input=PolicyInput("db.write", User("bob"), AUDIT), expected=Deny("not bob"), name="bob")
WRONG: Final = Fixture(input=PolicyInput("db.write", User("bob"), AUDIT), expected=ALLOW, name="wrong")
PATIENT: Final = Limits(deadline=20.0)
ALL: Final = ("local", *EXPECTED_ENGINES)


def told(what: int, expected: PolicyResult) -> Fixture:
    """A fixture about the obedient guest."""
    return Fixture(input=order(what), expected=expected, name=f"told {what}")


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [outcome.kind for outcome in outcomes]


def reasons(outcomes: list[Outcome]) -> list[list[str]]:
    return [[getattr(answer.result, "reason", "allow") for answer in outcome.answers] for outcome in outcomes]


# -- documents


def test_a_document_is_judged_everywhere() -> None:
    seen: list[Outcome] = []
    outcomes = run_fixtures(DOCUMENT, [ALLOWED, BOB, WRONG], limits=PATIENT, on_outcome=seen.append)
    assert kinds(outcomes) == ["passed", "passed", "failed"]
    assert [outcome.passed for outcome in outcomes] == [True, True, False]
    assert seen == outcomes
    for outcome in outcomes:
        assert tuple(answer.runtime for answer in outcome.answers) == ALL
        assert outcome.explanation is not None
    assert {canonical(answer.result) for answer in outcomes[2].answers} == {BOB.answer}
    assert outcomes[2].explanation is not None
    assert (outcomes[2].explanation.by, outcomes[2].explanation.rule) == ("rule", 0)


def test_documents_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(DOCUMENT))
    for policy in (DOCUMENT, path, str(path), RuntimePolicy.from_document(DOCUMENT), PolicyUnderTest(DOCUMENT)):
        found = PolicyUnderTest.load(policy)
        assert (found.name, found.version) == ("orders", "3")
        assert kinds(run_fixtures(policy, [ALLOWED], ["local"])) == ["passed"]
    assert PolicyUnderTest.load(path).path == str(path)


def test_fixtures_from_a_path(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"input": {"action": "no.such"}, "expected": {"kind":"deny","reason":"x"}}')
    (outcome,) = run_fixtures(DOCUMENT, tmp_path, "local")
    assert (outcome.kind, outcome.fixture.name) == ("failed", "f")
    assert outcome.answers[0].result == Deny("unknown_action")


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"sqll": []}, ConfigError),
        (b"not a policy", Exception),
        ("absent.json", ArtifactNotFound),
        (".", ArtifactNotFound),
    ],
)
def test_a_policy_that_is_none(policy: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        run_fixtures(policy, [ALLOWED])


def test_files_that_are_no_policies(tmp_path: Path) -> None:
    for name, data in (("p.wasm", b""), ("p.wasm", b"(module)"), ("p.json", b"\0asm\1\0\0"), ("p.wasm", b"{}")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            PolicyUnderTest.load(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
    (tmp_path / "p.json").write_bytes(b"{")
    with pytest.raises(ConfigError):
        PolicyUnderTest.load(tmp_path / "p.json")


def test_input_bytes_of_production(engine_name: str) -> None:
    """A module is built with room for what the limits let through, and what they do not let through is denied."""
    long = Fixture(
        input=PolicyInput("db.read", resource=Resource("sql_query", "x" * 100_000)), expected=Deny("not_in_allowlist")
    )
    assert kinds(run_fixtures(DOCUMENT, [long], ["local", engine_name], Limits(input_bytes=200_000))) == ["passed"]
    (outcome,) = run_fixtures(DOCUMENT, [long], ["local", engine_name])
    assert reasons([outcome]) == [["malformed_input", "malformed_input"]]


def test_malformed_inputs_are_denied_everywhere() -> None:
    fixtures = [
        Fixture(input=PolicyInput("db.write", resource=Resource("sql_query", "\ud800")), expected=Deny("x")),
        Fixture(input=PolicyInput("db.write", resource=AUDIT, timestamp=-1), expected=Deny("x")),
        Fixture(input=PolicyInput("db.write", resource=AUDIT, timestamp=2**64), expected=Deny("x")),
    ]
    assert reasons(run_fixtures(DOCUMENT, fixtures)) == [["malformed_input"] * len(ALL)] * 3


def test_runtimes_that_disagree_are_a_failure_of_their_own() -> None:
    """As if the builder were wrong: the module is that of another document."""
    subject = PolicyUnderTest(DOCUMENT)
    subject.__dict__["artifact"] = WasmArtifact.from_bytes(build_policy({"sql": "any"}))
    expecting_either = [BOB, WRONG]
    outcomes = run_fixtures(subject, [ALLOWED, *expecting_either])
    assert kinds(outcomes) == ["passed", "disagreement", "disagreement"]
    with pytest.raises(FixturesFailed) as caught:
        check_fixtures(subject, expecting_either)
    assert [failure.kind for failure in caught.value.failures] == ["disagreement"] * 2


# -- modules


def test_a_module_is_judged_on_each_engine(tmp_path: Path) -> None:
    path = tmp_path / "policy.wasm"
    path.write_bytes(build_policy(DOCUMENT))
    for policy in (path, WasmArtifact.from_bytes(build_policy(DOCUMENT))):
        outcomes = run_fixtures(policy, [ALLOWED, BOB, WRONG], limits=PATIENT)
        assert kinds(outcomes) == ["passed", "passed", "failed"]
        for outcome in outcomes:
            assert tuple(answer.runtime for answer in outcome.answers) == EXPECTED_ENGINES
            assert outcome.explanation is None


# G8, P5
def test_policies_that_fail(engine_name: str) -> None:
    """What goes wrong is an answer, which a fixture may expect."""
    fixtures = [
        told(0, ALLOW),
        told(TRAP, Deny("policy_trap")),
        told(DENY, Deny("as told")),
        told(BAD_DISCRIMINANT, Deny("malformed_result")),
        told(ENDLESS, Deny("policy_timeout")),
        told(0, ALLOW),
    ]
    assert kinds(run_fixtures(obedient(), fixtures, engine_name, PATIENT)) == ["passed"] * 6
    wrong = [told(TRAP, ALLOW), told(ENDLESS, ALLOW)]
    assert reasons(run_fixtures(obedient(), wrong, engine_name, PATIENT)) == [["policy_trap"], ["policy_timeout"]]


def test_an_answer_does_not_depend_on_the_fixtures_before(engine_name: str) -> None:
    """Pools replace failed instances no faster than a bound. Five hundred traps in a row are five hundred traps."""
    fixtures = [told(TRAP, Deny("policy_trap"))] * 500 + [told(0, ALLOW)]
    assert set(kinds(run_fixtures(obedient(), fixtures, engine_name, PATIENT))) == {"passed"}
    # Each instance of a module that capgate did not build answers once: the tenth question is another one's first.
    assert reasons(run_fixtures(obedient(), [told(COUNT, ALLOW)] * 12, engine_name, PATIENT)) == [["as told"]] * 12


def test_a_module_that_never_starts(engine_name: str) -> None:
    fixtures = [told(0, Deny("policy_unavailable"))] * 3
    assert kinds(run_fixtures(artifact(TRAPS_AT_START), fixtures, engine_name, PATIENT)) == ["passed"] * 3


def test_a_module_that_is_none() -> None:
    with pytest.raises(RestrictedModule):
        run_fixtures(artifact(wat("(module)")), [told(0, ALLOW)])


def test_the_limits_are_those_of_production(engine_name: str) -> None:
    enough, too_little = Limits(deadline=20.0, fuel=1_000_000_000), Limits(deadline=20.0, fuel=1_000_000)
    assert reasons(run_fixtures(obedient(), [told(COMPUTE, ALLOW)], engine_name, enough)) == [["allow"]]
    assert reasons(run_fixtures(obedient(), [told(COMPUTE, ALLOW)], engine_name, too_little)) == [["policy_timeout"]]
    # Ten million steps take longer than a millisecond on any machine: what fuel allows is an answer, however late.
    late = Limits(deadline=0.001, fuel=1_000_000_000)
    assert reasons(run_fixtures(obedient(), [told(COMPUTE, ALLOW)], engine_name, late)) == [["allow"]]


# -- which actions are known


def test_actions_of_applications(engine_name: str) -> None:
    sent = PolicyInput("parcel.return", resource=Resource("invoice", "inv-1"))
    both = ["local", engine_name]
    # A document says itself which it has; of a module, only the fixture or the application can.
    assert kinds(run_fixtures(DOCUMENT, [Fixture(input=sent, expected=ALLOW)], both)) == ["passed"]
    module = WasmArtifact.from_bytes(build_policy(DOCUMENT))
    known = Fixture(input=sent, expected=ALLOW, register=("parcel.return",))
    unknown = Fixture(input=sent, expected=Deny("unknown_action"))
    assert kinds(run_fixtures(module, [unknown, known, unknown], engine_name)) == ["passed"] * 3
    vocabulary = Vocabulary()
    vocabulary.register("parcel.return")
    again = run_fixtures(module, [Fixture(input=sent, expected=ALLOW), known], engine_name, vocabulary=vocabulary)
    assert kinds(again) == ["passed"] * 2
    # What allows everything is not asked about what nobody knows.
    anything = artifact(guest())
    assert reasons(run_fixtures(anything, [unknown, known], engine_name)) == [["unknown_action"], ["allow"]]


# -- fixtures that bring their policy


@pytest.mark.slow
def test_the_project_s_fixtures_pass(engine_name: str) -> None:
    """A8: local and Wasm, byte for byte."""
    some = golden.read_fixtures(ROOT / "fixtures" / "policy")[::8]
    outcomes = run_fixtures(None, some, ["local", engine_name])
    assert [outcome.fixture for outcome in outcomes] == list(some)
    assert set(kinds(outcomes)) == {"passed"}
    assert {len(outcome.answers) for outcome in outcomes} == {2}


def test_each_by_its_own_policy_in_their_order() -> None:
    def brings(policy: dict[str, Any], expected: PolicyResult, name: str) -> Fixture:
        return Fixture(input=ALLOWED.input, expected=expected, policy=policy, name=name)

    given = [
        brings({"sql": "any"}, ALLOW, "a"),
        brings({}, Deny("not_in_allowlist"), "b"),
        brings({"sql": "any"}, ALLOW, "c"),
        brings({}, ALLOW, "d"),
    ]
    outcomes = run_fixtures(None, given)
    assert [outcome.fixture.name for outcome in outcomes] == ["a", "b", "c", "d"]
    assert kinds(outcomes) == ["passed", "passed", "passed", "failed"]


def test_a_policy_beside_the_one_that_was_given_is_refused() -> None:
    own = Fixture(input=ALLOWED.input, expected=ALLOW, policy=DOCUMENT, path="f.json", line=3)
    for run in (run_fixtures, check_fixtures):
        with pytest.raises(FixtureError) as caught:
            run(DOCUMENT, [ALLOWED, own])
        assert (caught.value.path, caught.value.line, caught.value.where) == ("f.json", 3, "policy")
    with pytest.raises(FixtureError) as caught:
        run_fixtures(None, [own, ALLOWED])
    assert caught.value.where == "policy"
    bad = Fixture(input=ALLOWED.input, expected=ALLOW, policy={"sql": [1]}, path="g.json", line=2)
    with pytest.raises(FixtureError) as caught:
        run_fixtures(None, [bad])
    assert (caught.value.path, caught.value.line, caught.value.where) == ("g.json", 2, "policy.sql[0]")


# -- which runtimes


def test_which_runtimes() -> None:
    document, module = PolicyUnderTest(DOCUMENT), PolicyUnderTest(obedient())
    assert document.runtimes() == document.runtimes("all") == ALL
    assert module.runtimes() == EXPECTED_ENGINES
    assert document.runtimes("auto") == module.runtimes("auto") == EXPECTED_ENGINES[:1]
    assert document.runtimes(["wasmtime", "local", "wasmtime"]) == ("local", "wasmtime")
    assert document.runtimes(["local", "all"]) == ALL
    bad: tuple[Any, ...] = ("v8", "", [], ["all", "v8"], [None], "Local")
    for wrong in bad:
        with pytest.raises(ConfigError) as caught:
            document.runtimes(wrong)
        assert caught.value.setting == "engine"
    with pytest.raises(ConfigError):
        module.runtimes("local")
    with pytest.raises(ConfigError):
        run_fixtures(module, [], "local")


WITHOUT: Final = """
import importlib.abc, json, sys
blocked = json.loads(sys.argv[1])
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError("blocked here")
sys.meta_path.insert(0, Blocker())
from capgate.errors import EngineUnavailable
from capgate.testing.golden import Fixture, run_fixtures
from capgate.model import ALLOW, PolicyInput, Resource
fixture = Fixture(input=PolicyInput("env.read", resource=Resource("env_var", "TZ")), expected=ALLOW)
found = {}
for engines in ("all", "auto", "local", "wasmer", "wasmtime"):
    try:
        (outcome,) = run_fixtures({"env": "any"}, [fixture], engines)
        found[engines] = [answer.runtime for answer in outcome.answers]
    except EngineUnavailable as error:
        found[engines] = error.engine
print(json.dumps(found))
"""


def without(*blocked: str) -> dict[str, Any]:
    command = [sys.executable, "-c", WITHOUT, json.dumps(blocked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_an_engine_that_is_not_here() -> None:
    assert without("wasmer") == {
        "all": ["local", "wasmtime"],
        "auto": ["wasmtime"],
        "local": ["local"],
        "wasmer": "wasmer",
        "wasmtime": ["wasmtime"],
    }
    # Without any, "all" is an error: what a document does in Python says nothing about what production runs.
    neither = without(*ENGINES)
    assert (neither["all"], neither["auto"], neither["local"]) == ("auto", "auto", ["local"])


# -- before activation


def test_check_fixtures(engine_name: str) -> None:
    for policy in (DOCUMENT, WasmArtifact.from_bytes(build_policy(DOCUMENT))):
        check_fixtures(policy, [ALLOWED, BOB], PATIENT)
        check_fixtures(policy, [ALLOWED, BOB], PATIENT, engines=engine_name)
        with pytest.raises(FixturesFailed) as caught:
            check_fixtures(policy, [WRONG, ALLOWED], PATIENT)
        (failure,) = caught.value.failures
        assert (failure.fixture, caught.value.total) == (WRONG, 2)
        assert {canonical(answer.result) for answer in failure.answers} == {BOB.answer}
        assert isinstance(caught.value, ArtifactError)
    hook = functools.partial(check_fixtures, fixtures=[told(TRAP, ALLOW)], limits=PATIENT)
    with pytest.raises(FixturesFailed):
        hook(obedient())


def test_nothing_is_not_enough(tmp_path: Path) -> None:
    nothing: list[Any] = [[], (), tmp_path]
    for none in nothing:
        assert run_fixtures(DOCUMENT, none) == []
        with pytest.raises(FixturesFailed) as caught:
            check_fixtures(DOCUMENT, none)
        assert (caught.value.failures, caught.value.total) == ((), 0)


def test_where_the_policy_was(tmp_path: Path) -> None:
    path = tmp_path / "policy.wasm"
    path.write_bytes(build_policy(DOCUMENT))
    with pytest.raises(FixturesFailed) as caught:
        check_fixtures(path, [WRONG])
    assert caught.value.path == str(path)


# -- threads and event loops


async def test_on_an_event_loop(engine_name: str) -> None:
    """The loop stands still meanwhile, and the answers are the same: nothing is left to it."""
    fixtures = [told(0, ALLOW), told(TRAP, Deny("policy_trap"))] * 5
    assert set(kinds(run_fixtures(obedient(), fixtures, engine_name, PATIENT))) == {"passed"}
    assert kinds(run_fixtures(DOCUMENT, [ALLOWED, WRONG], limits=PATIENT)) == ["passed", "failed"]
    with pytest.raises(FixturesFailed):
        check_fixtures(obedient(), [told(TRAP, ALLOW)], PATIENT)
    with pytest.raises(CapgateError):
        run_fixtures(None, [ALLOWED])


async def test_off_an_event_loop(engine_name: str) -> None:
    fixtures = [told(0, ALLOW), told(TRAP, Deny("policy_trap"))] * 5
    for _ in range(3):
        judged = functools.partial(run_fixtures, obedient(), fixtures, engine_name, PATIENT)
        assert set(kinds(await anyio.to_thread.run_sync(judged))) == {"passed"}


def test_ten_thousand(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"cache": [f"n{number}" for number in range(10_000)]}
    fixtures = [
        Fixture(input=PolicyInput("cache.read", resource=Resource("namespace", f"n{number}")), expected=ALLOW)
        for number in range(10_000)
    ]
    started = time.perf_counter()
    outcomes = run_fixtures(document, fixtures, limits=PATIENT)
    judged = time.perf_counter()
    covered = coverage_of(RuntimePolicy.from_document(document), (one.input for one in fixtures))
    seconds = time.perf_counter() - judged
    assert (set(kinds(outcomes)), covered.percent, len(covered.parts)) == ({"passed"}, 100.0, 10_000)
    with capsys.disabled():
        print(f"\n10,000 fixtures on {', '.join(ALL)}: {judged - started:.2f} s; their coverage: {seconds:.2f} s")


# -- what questions spend


def test_what_a_question_spends_is_said_where_it_is_asked_for(engine_name: str) -> None:
    """T-8: the same fuel each time, and more where more is done; none in Python, and none where nobody can say."""
    long = Fixture(input=PolicyInput("db.write", User("b" * 5_000), AUDIT), expected=ALLOW, name="long")
    found = run_fixtures(DOCUMENT, [ALLOWED, long, ALLOWED], ["local", engine_name], PATIENT, costs=True)
    assert [[spent.runtime for spent in outcome.costs] for outcome in found] == [[engine_name]] * 3
    first, dear, again = (outcome.costs[0] for outcome in found)
    assert first.fuel == again.fuel
    assert first.fuel is not None
    assert dear.fuel is not None
    assert 0 < first.fuel < dear.fuel < PATIENT.call_fuel
    assert first.seconds is not None
    assert not any(outcome.costs for outcome in run_fixtures(DOCUMENT, [ALLOWED], [engine_name], PATIENT))


def test_a_question_without_an_answer_spends_what_nobody_knows_or_everything(engine_name: str) -> None:
    limits = Limits(deadline=20.0, fuel=1_000_000)
    asked = [told(what, ALLOW) for what in (TRAP, BAD_DISCRIMINANT, ENDLESS, 0)]
    found = run_fixtures(obedient(), asked, [engine_name], limits, costs=True)
    fuel = [outcome.costs[0].fuel for outcome in found]
    assert fuel[:3] == [None, None, limits.call_fuel]
    assert fuel[3] is not None
    assert 0 < fuel[3] < 10_000
