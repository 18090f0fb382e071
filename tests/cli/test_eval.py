"""``capgate eval``: one question, the answer, what decided, and the fuel that it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from capgate import RuntimePolicy, build_policy
from capgate.artifact.load import read_policy
from capgate.cli.eval import agreed_answer
from capgate.cli.policy.questions import Asker, asked_question
from capgate.errors import ArtifactError
from capgate.limits import Limits
from capgate.policy.analysis.advice import account_for

from ..support.command import Command
from ..support.guests import guest

DOCUMENT: dict[str, Any] = {
    "name": "orders",
    "sql": ["list_orders"],
    "rules": [{"effect": "deny", "actions": ["db.*"], "actors": ["user:bob"], "reason": "bob"}],
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(DOCUMENT))
    return path


def test_a_document_is_asked_and_says_what_decided_and_what_fuel_it_took(
    command: Command, policy: Path, engine_name: str
) -> None:
    told = command.json("eval", str(policy), "db.read sql_query:list_orders", "--engine", engine_name)
    assert (told["result"], told["by"], told["section"], told["rule"]) == ({"kind": "allow"}, "section", "sql", None)
    assert (told["engine"], told["fuel_limit"]) == (engine_name, Limits().call_fuel)
    assert 0 < told["fuel"] < told["fuel_limit"]
    denied = command.json("eval", str(policy), "db.read sql_query:list_orders as user:bob", code=1)
    assert (denied["result"], denied["rule"]) == ({"kind": "deny", "reason": "bob"}, 0)


def test_a_module_answers_alike_and_takes_the_same_fuel(command: Command, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.wasm").write_bytes(build_policy(DOCUMENT))
    for question, code in (("db.read sql_query:list_orders", 0), ("db.write sql_query:list_orders as user:bob", 1)):
        document, module = (
            command.json("eval", str(tmp_path / name), question, code=code) for name in ("policy.json", "policy.wasm")
        )
        assert module["by"] == "module"
        assert (module["result"], module["fuel"]) == (document["result"], document["fuel"])


def test_a_module_that_spends_everything_is_denied_with_all_of_its_fuel(command: Command, tmp_path: Path) -> None:
    (tmp_path / "policy.wasm").write_bytes(guest("(loop (br 0)) (unreachable)"))
    told = command.json("eval", str(tmp_path / "policy.wasm"), "db.read sql_query:x", code=1)
    assert told["result"] == {"kind": "deny", "reason": "policy_timeout"}
    assert told["fuel"] == told["fuel_limit"] == Limits().call_fuel


def test_a_document_that_builds_into_no_module_is_asked_in_python(command: Command, policy: Path) -> None:
    """Where it builds, it takes fuel; in either case the answer is that of the document."""
    rule = {"effect": "allow", "actions": ["db.write"], "when": "principal.id == 'ada'"}
    policy.write_text(json.dumps({"rules": [{**rule, "when": "'admin' in actor.roles"}]}))
    if command("check", str(policy)) != 0:
        pytest.fail(command.output + command.errors)
    told = command.json("eval", str(policy), "db.write sql_query:x as user:ada", code=1)
    assert told["result"]["kind"] == "deny"
    assert (told["fuel"] is None) == (told["engine"] is None)


def test_people_are_told_in_a_few_lines(command: Command, policy: Path) -> None:
    assert command("eval", str(policy), "db.read sql_query:list_orders as user:bob") == 1
    assert command.output.count("\n") == 4
    for shown in ("denied, bob", "user:bob", f"rules[0] ({policy}:1)", "fuel"):
        assert shown in command.output.replace("\n  ", "\n")


@pytest.mark.parametrize("question", ["db.read as nobody:x", "{", '{"action": 1}'])
def test_what_is_no_question_is_exit_code_2(question: str, command: Command, policy: Path) -> None:
    assert command("eval", str(policy), question) == 2
    assert command.output == ""


def test_an_answer_that_differs_between_python_and_the_module_is_none(policy: Path, tmp_path: Path) -> None:
    file, input = read_policy(policy), asked_question("db.read sql_query:list_orders")
    other = RuntimePolicy.from_document({"name": "orders"})
    asker = Asker(other, "auto", Limits())
    with pytest.raises(ArtifactError) as caught:
        agreed_answer(file, input, account_for(file.raw, input), asker)
    assert caught.value.path == str(policy)
