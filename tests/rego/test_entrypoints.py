"""Which rule of a module is asked, wherever one says so: interpreter, pool, settings, fixtures, commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from capgate.artifact.load import WasmArtifact
from capgate.checker.wasm import WasmPolicyChecker
from capgate.errors import ConfigError
from capgate.limits import Limits
from capgate.model import Allow, Deny, Entrypoint, PolicyInput, Resource
from capgate.runtime.interpreter import WasmInterpreter
from capgate.runtime.pool import WasmPool
from capgate.settings.select import select_checker
from capgate.settings.settings import Settings
from capgate.testing.golden import read_fixtures, run_fixtures

from ..support.command import capgate
from ..support.rego_guests import ENTRYPOINTS, liar, opa_artifact, opa_policy
from .outcomes import INPUT, opened, outcome

pytestmark = pytest.mark.slow

DOCUMENT = {"sql": ["upsert_user"]}
OTHER = PolicyInput("db.write", resource=Resource("sql_query", "other"))
MODULE = opa_policy(DOCUMENT, spare=4)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "policy.wasm"
    path.write_bytes(MODULE)
    return path


@pytest.mark.parametrize(
    ("entrypoint", "allowed", "denied"),
    [
        (Entrypoint("capgate/decision"), "allow", "deny not_in_allowlist"),
        (Entrypoint("capgate/allow"), "allow", "deny not_in_allowlist"),
        (Entrypoint("capgate/denials", "denials"), "allow", "deny not_in_allowlist"),
        # A rule that means something else than is said never allows.
        (Entrypoint("capgate/decision", "denials"), "abi result_type", "abi result_type"),
        (Entrypoint("capgate/allow", "denials"), "abi result_type", "abi result_type"),
        (Entrypoint("capgate/denials"), "abi result_type", "abi result_type"),
        (Entrypoint("capgate/data"), "deny malformed_result", "deny malformed_result"),
    ],
)
def test_rules_and_what_they_give(engine_name: str, entrypoint: Entrypoint, allowed: str, denied: str) -> None:
    assert outcome(opened(engine_name, MODULE, entrypoint, Limits())) == allowed
    assert outcome(opened(engine_name, MODULE, entrypoint, Limits()), OTHER) == denied


@pytest.mark.parametrize("name", [None, "capgate/other", "/capgate/allow", "capgate/Allow", "", "data.capgate.allow"])
def test_a_rule_that_is_not_there_is_a_mistake_of_the_configuration(engine_name: str, name: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        WasmInterpreter(WasmArtifact.from_bytes(MODULE), engine=engine_name, entrypoint=Entrypoint(name))
    assert caught.value.setting == "entrypoint"
    assert caught.value.seen == name
    for valid in ENTRYPOINTS:
        assert repr(valid) in caught.value.valid


def test_the_only_rule_needs_no_name(engine_name: str) -> None:
    assert outcome(opened(engine_name, liar())) == "allow"
    assert outcome(opened(engine_name, liar(), Entrypoint("p"))) == "allow"
    with pytest.raises(ConfigError):
        opened(engine_name, liar(entrypoint_names=b"{}"))


@pytest.mark.parametrize("number", [0, 1, 7, 2**31, 2**32 - 1])
def test_the_number_is_the_guests(engine_name: str, number: int) -> None:
    """The guest gets the number that it gave; only with that it answers."""
    asked = f"(i32.eq (global.get $asked) (i32.const {number}))"
    module = liar(
        b'[{"result":false}]\0',
        entrypoint_names=b'{"q":3,"p":%d}' % number,
        extra='(global $asked (mut i32) (i32.const 3)) (data (i32.const 60000) "[{\\"result\\":true}]\\00")',
        opa_eval_ctx_set_entrypoint="(global.set $asked (local.get $b))",
        opa_eval_ctx_get_result=f"(select (i32.const 60000) (i32.const 65536) {asked})",
    )
    assert outcome(opened(engine_name, module, Entrypoint("p"))) == "allow"
    assert outcome(opened(engine_name, module, Entrypoint("q"))) == "deny not_in_allowlist"


def test_data_are_what_the_artifact_brings(engine_name: str) -> None:
    artifact = opa_artifact(DOCUMENT, spare=4)
    assert artifact.rego_data == b"{}"
    object.__setattr__(artifact, "rego_data", b'{"reason": "closed on Sundays"}')
    interpreter = WasmInterpreter(artifact, engine=engine_name, entrypoint=Entrypoint("capgate/data"))
    for _ in range(3):  # also after they were restored
        assert interpreter.call_policy_check(INPUT) == Deny("closed on Sundays")


# Settings


async def test_settings_name_it(engine_name: str, module: Path) -> None:
    settings = Settings(artifact=module, engine=engine_name, entrypoint="capgate/denials", entrypoint_result="denials")
    checker = select_checker(settings)
    assert isinstance(checker, WasmPolicyChecker)
    async with checker:
        assert await checker.check(INPUT) == Allow()
        assert await checker.check(OTHER) == Deny("not_in_allowlist")
        assert checker.pool.statistics().made == settings.pool_size


async def test_a_wrong_one_does_not_start(engine_name: str, module: Path) -> None:
    checker = select_checker(Settings(artifact=module, engine=engine_name, entrypoint="capgate/missing"))
    assert isinstance(checker, WasmPolicyChecker)
    with pytest.raises(ConfigError) as caught:
        await checker.start()
    assert caught.value.setting == "entrypoint"
    assert "capgate/decision" in caught.value.valid
    assert await checker.check(INPUT) == Deny("policy_unavailable")  # and without a start, it denies


def test_the_environment_names_it() -> None:
    environ = {"CAPGATE_ARTIFACT": "p.wasm", "CAPGATE_ENTRYPOINT": "a/b", "CAPGATE_ENTRYPOINT_RESULT": "denials"}
    settings = Settings.from_env(environ)
    assert settings.entry == Entrypoint("a/b", "denials")
    assert Settings.from_env({}).entry == Entrypoint()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("entrypoint", ""),
        ("entrypoint", "a\nb"),
        ("entrypoint", 1),
        ("entrypoint", "a" * 1_025),
        ("entrypoint_result", "allow"),
        ("entrypoint_result", ""),
        ("entrypoint_result", None),
        ("entrypoint_result", "Decision"),
    ],
)
def test_values_that_are_none(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(artifact="p.wasm", **{name: value})  # type: ignore[arg-type]
    assert caught.value.setting == name


@pytest.mark.parametrize("given", [{"entrypoint": "a"}, {"entrypoint_result": "denials"}])
def test_a_document_has_no_rules_to_choose(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(policy=DOCUMENT, **given)  # type: ignore[arg-type]
    assert caught.value.setting == next(iter(given))


# Fixtures and commands


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    path = tmp_path / "questions.json"
    resource = {"kind": "sql_query", "id": "upsert_user"}
    deny = {"kind": "deny", "reason": "not_in_allowlist"}
    path.write_text(
        json.dumps(
            [
                {"input": {"action": "db.write", "resource": resource}, "expected": {"kind": "allow"}},
                {"input": {"action": "db.write", "resource": {**resource, "id": "x"}}, "expected": deny},
            ]
        )
    )
    return path


def test_fixtures_are_put_to_it(engine_name: str, module: Path, fixtures: Path) -> None:
    given = read_fixtures(fixtures)
    outcomes = run_fixtures(module, given, engine_name, entrypoint=Entrypoint("capgate/allow"))
    assert [one.passed for one in outcomes] == [True, True]
    with pytest.raises(ConfigError):
        WasmPool(WasmArtifact.from_bytes(MODULE), 1, engine_name, entrypoint=Entrypoint("x")).fill_some()


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (["--entrypoint", "capgate/allow"], {}, 0),
        (["--entrypoint", "capgate/denials", "--entrypoint-result", "denials"], {}, 0),
        ([], {"CAPGATE_ENTRYPOINT": "capgate/decision"}, 0),
        (["--entrypoint", "capgate/denials"], {}, 1),
    ],
)
def test_the_command_test(
    module: Path, fixtures: Path, arguments: list[str], environment: dict[str, str], code: int
) -> None:
    done = capgate("test", str(module), str(fixtures), "--engine", "auto", "--json", *arguments, **environment)
    assert done.returncode == code, done.stderr


def test_the_command_explain(module: Path, tmp_path: Path) -> None:
    question = tmp_path / "question.json"
    question.write_text('{"action": "db.write", "resource": {"kind": "sql_query", "id": "x"}}')
    done = capgate("explain", str(module), str(question), "--json", "--entrypoint", "capgate/decision")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["result"] == {"kind": "deny", "reason": "not_in_allowlist"}
    done = capgate("explain", str(module), str(question), "--json")
    assert done.returncode == 2
    assert "capgate/decision" in done.stdout + done.stderr


def test_the_command_diff(module: Path, fixtures: Path, tmp_path: Path) -> None:
    document = tmp_path / "policy.json"
    document.write_text(json.dumps({"sql": ["x"]}))
    done = capgate(
        *("diff", str(module), str(document), "--replay", str(fixtures), "--json"),
        *("--entrypoint", "capgate/decision"),
    )
    assert done.returncode == 1, done.stderr
    changes = json.loads(done.stdout)["changes"]
    assert len(changes) == 2
