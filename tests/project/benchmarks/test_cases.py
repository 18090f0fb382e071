"""Each case runs once with the least that it can measure, so that none can rot. No figure is judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import checks, conditional_rivals, conditions, fact_questions, rivals
from benchmarks.__main__ import CASES, main
from benchmarks.questions import SIZES
from benchmarks.targets import exit_code

from ...support.engines import EXPECTED_ENGINES

pytestmark = pytest.mark.slow

KINDS = ("local", *EXPECTED_ENGINES)
GATES = (*KINDS, *(f"{kind}, remembering" for kind in KINDS))
EXPECTED_ROWS = {
    "checks": {f"{way}, {kind}" for way in ("check", "evaluate_now") for kind in KINDS}
    | {f"raw call, {engine}" for engine in EXPECTED_ENGINES}
    | {"raw call, wasmtime's own binding", "frozenset"},
    "conditions": {name.format(kind) for name in (conditions.CHECK, conditions.UNCONDITIONAL) for kind in KINDS}
    | {conditions.FACTLESS.format(kind) for kind in KINDS}
    | {"written by hand"},
    "requests": {f"CapabilityMiddleware, {kind}" for kind in GATES}
    | {"bare application", "middleware that does nothing"}
    | {"Starlette's pair, user from a header", "Starlette's pair, constant user"},
    "details": {f"CapabilityMiddleware, {kind}" for kind in GATES}
    | {f"{kind}, {what}" for kind in GATES for what in ("one declaration", "two declarations", "allowed", "denied")}
    | {"bare application", "Starlette's pair, user from a header"},
    "routes": {"bare application", "CapabilityMiddleware, remembering"},
    "server": {
        f"{framework}, {kind}"
        for framework in ("Starlette", "FastAPI")
        for kind in ("bare", "Starlette's pair", "gate", "gate, cache_size=0")
    },
    "loading": {"build the module", "load the artifact", "verify and meter it"}
    | {"from its file to an instance", "the compiler alone, unmetered"}
    | {f"{step}, {engine}" for step in ("compile", "instantiate") for engine in EXPECTED_ENGINES},
}
RIVAL_ROWS = {
    "casbin": {"pycasbin", "pycasbin FastEnforcer"},
    "cedarpy": {"cedarpy, a group", "cedarpy, a policy each"},
}
CONDITIONAL_ROWS = {
    "casbin": {"pycasbin", "pycasbin FastEnforcer"},
    "cedarpy": {"cedarpy, a group", "cedarpy, a policy each", "cedarpy, entities parsed before"},
    "regorus": {"regorus", "regorus, virtual machine"},
}


@pytest.fixture(scope="module", params=CASES)
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], str]:
    """(name of the case, what was written as JSON, and as SVG)."""
    folder: Path = tmp_path_factory.mktemp("benchmarks")
    written, drawn = folder / "figures.json", folder / "figures.svg"
    name: str = request.param
    options = ["--quick", "--rounds", "2", "--only", name, "--json", str(written), "--plot", str(drawn)]
    assert main(options) == 0
    return name, json.loads(written.read_text()), drawn.read_text()


def test_case_measures_what_it_names(measured: tuple[str, dict[str, Any], str]) -> None:
    name, found, _ = measured
    rows = found["cases"][name]["rows"]
    expected = set(EXPECTED_ROWS[name])
    if name == "checks":
        expected |= {row for module, names in RIVAL_ROWS.items() if module not in rivals.missing() for row in names}
    if name == "conditions":
        absent = conditional_rivals.missing()
        expected |= {row for module, names in CONDITIONAL_ROWS.items() if module not in absent for row in names}
    assert {row["name"] for row in rows} == expected
    assert all(row["summary"]["batches"] >= 2 for row in rows)
    # A difference may be anything, a duration may not.
    assert all(row["summary"]["minimum"] > 0 for row in rows if "added" not in row["column"])


def test_every_target_has_a_value(measured: tuple[str, dict[str, Any], str]) -> None:
    name, found, _ = measured
    targets = found["cases"][name]["targets"]
    streams, kinds, raw = 2, len(KINDS), len(EXPECTED_ENGINES) + 1
    gates, shapes, places = 2 * kinds, 2, 4
    expected = {
        "checks": streams * (raw + 2 * kinds),
        "conditions": 3 * kinds + len(EXPECTED_ENGINES),
        "requests": 2 * 2 * gates,
        "details": 3 * gates,
        "routes": shapes * places,  # of a hundred routes; a quick run has no more
        "server": 2 * 2 * 2,
        "loading": 0,
    }
    assert len({target["name"] for target in targets}) == len(targets) == expected[name]
    for target in targets:
        if target["value"] is None:
            # Either there was nothing to compare with, or noise made a difference negative.
            noisy = name in ("requests", "details", "routes")
            assert noisy or any(target["name"].startswith(module) for module in rivals.missing())
            assert target["verdict"] == "not measured"


def test_facts_say_what_the_figures_depend_on(measured: tuple[str, dict[str, Any], str]) -> None:
    _, found, _ = measured
    for fact in ("cpu", "system", "load average", "python", "packages", "commit", "clock", "seed", "rounds", "method"):
        assert found[fact], fact


def test_chart_has_a_bar_per_row(measured: tuple[str, dict[str, Any], str]) -> None:
    name, found, drawn = measured
    bars = [one for one in ElementTree.fromstring(drawn).iter() if one.get("class") == "bar"]
    assert len(bars) == len(found["cases"][name]["rows"])
    assert all(float(bar.attrib["width"]) >= 1 for bar in bars)


@pytest.mark.parametrize("module", rivals.OPTIONAL)
@pytest.mark.parametrize("size", SIZES)
async def test_rival_answers_rightly(module: str, size: int) -> None:
    if module in rivals.missing():
        pytest.skip(f"{module} is in the extra bench, with which .ci/run calls this again")
    answering = list(rivals.OPTIONAL[module](size))
    assert {one.name for one in answering} == RIVAL_ROWS[module]
    for one in answering:
        await one.require_right_answers(size)


@pytest.mark.parametrize("answer", [True, False])
async def test_rival_that_always_answers_the_same_is_refused(answer: bool) -> None:
    wrong = rivals.Asked("wrong", lambda question: question, lambda question: answer, lambda result: result)
    with pytest.raises(RuntimeError):
        await wrong.require_right_answers(3)


@pytest.mark.parametrize("module", conditional_rivals.CONDITIONAL)
@pytest.mark.parametrize("size", SIZES[:2])
async def test_rival_answers_conditions_as_everybody_does(module: str, size: int) -> None:
    if module in conditional_rivals.missing():
        pytest.skip(f"{module} is in the extra bench, with which .ci/run calls this again")
    answering = list(conditional_rivals.CONDITIONAL[module](size))
    assert {one.name for one in answering} == CONDITIONAL_ROWS[module]
    await conditions.require_equal_answers(answering, size, seed=2)


@pytest.mark.parametrize("left_out", range(6))
async def test_rival_that_passes_over_one_condition_is_refused(left_out: int) -> None:
    def passing_over(question: fact_questions.FactQuestion) -> bool:
        met = (
            question.number < 3,
            fact_questions.ROLE in question.roles,
            question.owner == question.who,
            question.of == question.tenant,
            question.amount <= fact_questions.highest(question.number),
            question.at < fact_questions.UNTIL,
        )
        return all(answer for number, answer in enumerate(met) if number != left_out)

    wrong = rivals.Asked("wrong", lambda question: question, passing_over, lambda result: result)
    await conditions.require_equal_answers(list(conditional_rivals.by_hand(3)), 3, seed=1)
    with pytest.raises(RuntimeError):
        await conditions.require_equal_answers([wrong], 3, seed=1)


async def test_targets_without_their_rival_are_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "find_spec", lambda module: None)
    case = await checks.run(rounds=1, seed=1, sizes=(3,))
    assert len(case.notes) == len(rivals.OPTIONAL)
    assert not {row.name for row in case.rows} & set().union(*RIVAL_ROWS.values())
    unmeasured = [target for target in case.targets if target.value is None]
    assert [target.reached for target in unmeasured] == [False] * 2 * len(KINDS)
    assert exit_code(unmeasured, strict=True) == 1


def test_raw_calls_give_back_what_they_were_given() -> None:
    calls = list(rivals.raw_calls())
    assert {call.engine for call in calls} == set(EXPECTED_ENGINES)
    for call in calls:
        assert [call.call(number) for number in (0, 1, 7, 2**31 - 1)] == [0, 1, 7, 2**31 - 1]
